package postgres

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// farTimes are times that the table refuses now and that rows of before may hold.
var farTimes = []string{"-infinity", "4713-01-01 00:00Z BC", "0001-01-01 00:00Z", "12026-01-01 00:00Z", "200000-01-01 00:00Z", "infinity"}

// writeAt inserts an event as it was possible before the table checked its time.
func (o testOutbox) writeAt(topic, key, createdAt string) (id int64, eventID string) {
	o.t.Helper()
	testenv.Unchecked(o.t, o.db)
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), `
		INSERT INTO outbox.event (topic, key, type, payload, created_at) VALUES ($1, $2, 'T', 'far', $3::text::timestamptz)
		RETURNING id, event_id::text`, topic, key, createdAt).Scan(&id, &eventID))
	return id, eventID
}

func TestFarTimes_StopNoClaimSampleOrStatus(t *testing.T) {
	for _, far := range farTimes {
		t.Run(far, func(t *testing.T) {
			o := open(t)
			o.write("orders", 20)
			o.writeAt("audit", "far", far)
			require.Equal(t, 21, events(o.claim()), "all that is pending is claimed, of all topics")

			topics, err := o.Topics(t.Context())
			require.NoError(t, err)
			require.Len(t, topics, 2)
			status, err := o.Status(t.Context())
			require.NoError(t, err)
			require.Len(t, status, 2)
			_, err = json.Marshal(status)
			require.NoError(t, err)
			for i := range topics {
				require.GreaterOrEqual(t, topics[i].Oldest, time.Duration(0), topics[i].Topic)
				require.Less(t, topics[i].Oldest, 100*365*24*time.Hour, topics[i].Topic)
				require.False(t, math.IsInf(status[i].OldestAge, 0) || math.IsNaN(status[i].OldestAge))
				require.GreaterOrEqual(t, status[i].OldestAge, 0.0)
			}
			require.Less(t, topics[1].Oldest, time.Hour, "the age of another topic's events")
		})
	}
}

func TestFarTimes_AgeATopicAsFarAsItsPastGoes(t *testing.T) {
	o := open(t)
	o.writeAt("audit", "far", "-infinity")
	o.claim()
	topics, err := o.Topics(t.Context())
	require.NoError(t, err)
	require.Greater(t, topics[0].Oldest, 50*365*24*time.Hour)
	o.exec(`DELETE FROM outbox.pending`)
	topics, err = o.Topics(t.Context())
	require.NoError(t, err)
	require.Zero(t, topics[0].Oldest, "nothing is pending")
}

func TestFarTimes_AreShownAndStopNoSearch(t *testing.T) {
	for _, far := range farTimes {
		t.Run(far, func(t *testing.T) {
			o := open(t)
			o.write("orders", 20)
			id, eventID := o.writeAt("orders", "far", far)
			o.write("orders", 20)
			o.claim() // makes the topic known

			lives, err := o.ByKey(t.Context(), "orders", "far", 5, nil)
			require.NoError(t, err)
			require.Len(t, lives, 1)
			require.Equal(t, []any{id, eventID}, []any{lives[0].ID, lives[0].EventID})
			_, err = json.Marshal(lives)
			require.NoError(t, err, "JSON has no year of five digits")
			lives, err = o.ByKey(t.Context(), "orders", "k7", 5, nil)
			require.NoError(t, err)
			require.Len(t, lives, 2)

			parsed, err := outbox.ParseID(eventID)
			require.NoError(t, err)
			lives, err = o.ByEventID(t.Context(), parsed, nil)
			require.NoError(t, err)
			require.Len(t, lives, 1)
			_, err = o.ByEventID(t.Context(), outbox.NewID(), nil) // searched for by its time
			require.NoError(t, err)
			_, err = o.Content(t.Context(), parsed, id, true)
			require.NoError(t, err)
		})
	}
}

// Whatever the bounds of a selection, an event of a far time is either in it or not.
func TestFarTimes_StopNoOperationOnOtherEvents(t *testing.T) {
	o := open(t)
	o.write("orders", 20)
	for i, far := range farTimes {
		o.writeAt("orders", fmt.Sprint("far", i), far)
	}
	o.claim()
	o.exec(`WITH d AS (DELETE FROM outbox.pending RETURNING *)
	        INSERT INTO outbox.dead_letter SELECT topic, lane, id, created_at, bytes, replay, 'Code', 'why', 3, now() - interval '1 second', 'wf', 'k' || id FROM d`)
	for _, since := range []string{"", "1h"} {
		chosen := relay.Selection{Since: since}
		letters, err := o.DeadLetters(t.Context(), "orders", chosen, 100)
		require.NoError(t, err)
		require.Len(t, letters, 20+len(farTimes))
		_, err = json.Marshal(letters)
		require.NoError(t, err)
		n, err := o.CountDead(t.Context(), "orders", chosen)
		require.NoError(t, err)
		require.EqualValues(t, 20+len(farTimes), n.Events)
	}
	o.exec(`DELETE FROM outbox.dead_letter`) // as if they had been published
	n, _, err := o.CountPublished(t.Context(), "orders", relay.Selection{Since: "1h"}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 20, n)
	n, _, err = o.CountPublished(t.Context(), "orders", relay.Selection{}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 23, n, "all that is not in the future")
}

// After a failover to a host whose clock is behind, events of before have a time to come.
func TestReplay_SelectsAnEventOfATimeToComeOnlyByItsName(t *testing.T) {
	o := open(t)
	_, early := o.writeAt("orders", "k", query[string](o, "SELECT (now() + interval '1 minute')::text"))
	o.write("orders", 5)
	_, newest := o.writeAt("orders", "k", query[string](o, "SELECT (now() + interval '1 minute')::text"))
	o.claim()
	o.exec(`DELETE FROM outbox.pending`) // as if they had been published
	for name, c := range map[string]struct {
		chosen relay.Selection
		want   int64
	}{
		"all":          {relay.Selection{}, 5}, // more are written while it goes on, and ids may come again
		"named":        {relay.Selection{EventIDs: []string{early, newest}}, 2},
		"up to a time": {relay.Selection{Until: "0s"}, 5},
	} {
		n, at, err := o.CountPublished(t.Context(), "orders", c.chosen, nil)
		require.NoError(t, err, name)
		require.Equal(t, c.want, n, name)
		u := relay.OperationState{Operation: relay.Operation{Kind: relay.Replay, Topic: "orders", Selection: c.chosen, At: at}, Lanes: make([]int64, relay.Lanes)}
		o.write("orders", 3)
		o.exec(`DELETE FROM outbox.pending`)
		first, last, err := o.Bounds(t.Context(), u)
		require.NoError(t, err, name)
		u.From.ID, u.Last = first-1, last
		step, err := o.NextStep(t.Context(), u, u.From, 100)
		require.NoError(t, err, name)
		require.Len(t, step.Moves, int(c.want), name)
		require.True(t, step.Over, name)
		o.exec(`DELETE FROM outbox.event WHERE id > 7`)
	}
}

func TestFarTimes_AreLoadedAndSettledBesideOthers(t *testing.T) {
	for _, far := range farTimes {
		t.Run(far, func(t *testing.T) {
			o := open(t)
			o.write("orders", 20)
			o.writeAt("orders", "far", far)
			loaded := 0
			for _, b := range o.claim() {
				lease, err := o.TakeOver(t.Context(), b)
				require.NoError(t, err)
				loaded += len(o.drain(lease))
			}
			require.Equal(t, 21, loaded)
			require.Zero(t, o.pending())
		})
	}
}
