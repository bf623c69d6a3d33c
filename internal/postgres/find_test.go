package postgres

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/outbox"
)

// idOf is an id of version 7 that begins with a time.
func idOf(at time.Time) string {
	ms := fmt.Sprintf("%012x", at.UnixMilli())
	return ms[:8] + "-" + ms[8:] + "-7abc-8def-" + hex.EncodeToString([]byte("abcdef"))
}

func (o testOutbox) find(id string) (found []EventLife, reads int) {
	o.t.Helper()
	parsed, err := outbox.ParseID(id)
	require.NoError(o.t, err)
	found, err = o.ByEventID(o.t.Context(), parsed, func(float64) { reads++ })
	require.NoError(o.t, err)
	return found, reads
}

func TestAnEventIsFoundByItsIDAndOnlyWhereItsIDSaysNothingAmongAll(t *testing.T) {
	o := open(t)
	begin := time.Now().Add(-50 * time.Hour).Truncate(time.Millisecond)
	// One event a minute.
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at)
	        SELECT 'orders', 'k', 'T', 'x', $1::timestamptz + i * interval '1 minute' FROM generate_series(0, 2999) i`, begin)
	at := begin.Add(1000 * time.Minute)
	set := func(id string, row int) {
		o.exec(`UPDATE outbox.event SET event_id = $1 WHERE id = (SELECT min(id) FROM outbox.event) + $2`, id, row)
	}
	late := idOf(at.Add(7 * time.Hour)) // a clock that is wrong, or an id that was made before
	never := idOf(begin.Add(-100 * 24 * time.Hour))
	set(idOf(at), 1000)
	set(late, 1001)
	set("0198f2a1-7c3b-4def-8123-456789abcdef", 0)
	set(never, 2999)
	for _, c := range []struct {
		id    string
		row   int
		among string
	}{
		{idOf(at), 1000, "those around its time"},
		{late, 1001, "those around its time"},
		{"0198f2a1-7c3b-4def-8123-456789abcdef", 0, "all"},
		{never, 2999, "all"},
		{idOf(at.Add(time.Second)), -1, "all"},
		{idOf(time.Now().Add(1000 * time.Hour)), -1, "all"},
	} {
		found, reads := o.find(c.id)
		require.Equal(t, c.among == "all", reads > 0, c.id)
		if c.row < 0 {
			require.Empty(t, found)
			continue
		}
		require.Len(t, found, 1, c.id)
		require.Equal(t, begin.Add(time.Duration(c.row)*time.Minute), found[0].WrittenAt.Local())
		require.Equal(t, c.id, found[0].EventID)
	}
}

func TestATimesFirstEventIsFoundByHalving(t *testing.T) {
	o := open(t)
	at := func(minute int) time.Time { return time.Date(2026, 1, 31, 12, minute, 0, 0, time.UTC) }
	for minute := range 20 {
		o.exec(`INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', $1)`, at(2*minute))
		o.exec(`SELECT nextval('outbox.event_id_seq') FROM generate_series(1, $1)`, minute) // what was rolled back
	}
	first, last := query[int64](o, `SELECT min(id) FROM outbox.event`), query[int64](o, `SELECT max(id) FROM outbox.event`)
	for minute := -1; minute < 41; minute++ {
		id, err := o.idAt(t.Context(), at(minute), first, last)
		require.NoError(t, err)
		want := query[int64](o, `SELECT coalesce(min(id), 0) FROM outbox.event WHERE created_at >= $1`, at(minute))
		if want == 0 {
			want = last + 1 // past all
		}
		require.LessOrEqual(t, id, want)
		require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.event WHERE id >= $1 AND id < $2`, id, want), "no event lies between")
	}
}

func TestTheLastEventsOfAKeyAreFoundNewestFirstHoweverFarApart(t *testing.T) {
	o := open(t)
	for i := range 5 {
		o.writeKey("orders", "rare", 1)
		o.writeKey("orders", "other", 3)
		o.exec(`SELECT setval('outbox.event_id_seq', nextval('outbox.event_id_seq') + $1)`, (i%2)*2*window) // within one look, and across
	}
	o.writeKey("orders", "rare", 1) // the newest of all
	var parts []string
	found, err := o.ByKey(t.Context(), "orders", "rare", 4, func(part float64) { parts = append(parts, fmt.Sprintf("%.1f", part)) })
	require.NoError(t, err)
	require.Len(t, found, 4)
	for i := range 3 {
		require.Greater(t, found[i].ID, found[i+1].ID)
	}
	require.Greater(t, len(parts), 2, strings.Join(parts, " "))
	found, err = o.ByKey(t.Context(), "orders", "rare", 100, nil)
	require.NoError(t, err)
	require.Len(t, found, 6)
	found, err = o.ByKey(t.Context(), "orders", "nobody", 100, nil)
	require.NoError(t, err)
	require.Empty(t, found)
}
