package postgres

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// What is written after the bound was found is behind it. What commits later, having
// drawn its id before, is not, and comes before later events of its lane.
func TestHighest_LeavesOutLaterEventsAndNotLateCommits(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 10)
	batch, lease := o.claimOne()
	late, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = late.Rollback(t.Context()) }()
	_, err = late.Exec(t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', 'late')`)
	require.NoError(t, err)
	o.writeKey("orders", "k", 10)
	lease.UpTo, err = o.Highest(t.Context(), lease)
	require.NoError(t, err)
	require.EqualValues(t, 21, lease.UpTo.ID)
	o.writeKey("orders", "k", 100)
	o.write("audit", 5)
	require.NoError(t, late.Commit(t.Context()))

	page, err := o.Load(t.Context(), lease, nil, 1000)
	require.NoError(t, err)
	require.False(t, page.More)
	require.Len(t, page.Events, 21)
	require.Equal(t, "late", page.Events[10].Payload)
	inBatch, inTopic, err := o.Waits(t.Context(), batch)
	require.NoError(t, err)
	require.EqualValues(t, 121, inBatch)
	require.EqualValues(t, 121, inTopic)

	lease.UpTo = relay.Bound{}
	require.Len(t, o.drain(lease), 121, "without a bound, everything")
	highest, err := o.Highest(t.Context(), lease)
	require.NoError(t, err)
	require.Zero(t, highest)
}

// The clock of a new primary may be behind, and the owner may insert any time.
func TestHighest_BoundsEventsOfATimeToCome(t *testing.T) {
	for name, at := range map[string]string{
		"a clock that was ahead": "now() + interval '1 minute'", "an imported date": "'2200-01-01 00:00Z'",
		"a row of before": "'infinity'", "a year that JSON has not": "'12026-01-01 00:00Z'",
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.writeAt("orders", "k", query[string](o, "SELECT ("+at+")::timestamptz::text"))
			o.writeKey("orders", "k", 10)
			_, lease := o.claimOne()
			bound, err := o.Highest(t.Context(), lease)
			require.NoError(t, err)
			noted, err := json.Marshal(bound)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(noted, &lease.UpTo))
			o.writeKey("orders", "k", 10)
			page, err := o.Load(t.Context(), lease, nil, 1000)
			require.NoError(t, err)
			require.Len(t, page.Events, 11)
			require.Equal(t, "far", page.Events[0].Payload)
		})
	}
}

func TestWaits_CountsTheEventsOfLanesThatABatchStillHolds(t *testing.T) {
	o := open(t)
	o.write("orders", 200)
	batches := o.claim()
	require.Greater(t, len(batches), 0)
	b := batches[0]
	mine := 0
	for _, lane := range b.Lanes {
		mine += query[int](o, `SELECT count(*)::int FROM outbox.pending WHERE lane = $1`, lane)
	}
	inBatch, inTopic, err := o.Waits(t.Context(), b)
	require.NoError(t, err)
	require.EqualValues(t, mine, inBatch)
	require.EqualValues(t, 200, inTopic)
	require.NoError(t, o.ReleaseClaim(t.Context(), b))
	inBatch, inTopic, err = o.Waits(t.Context(), b)
	require.NoError(t, err)
	require.Zero(t, inBatch, "it holds none any more")
	require.EqualValues(t, 200, inTopic)
}
