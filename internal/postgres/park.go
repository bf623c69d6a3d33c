package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// highestSQL finds the last pending event of some lanes, each from its end, and the latest time of
// the events up to it. An event may have a future time: after a failover to a host whose clock is
// behind, or if the owner has inserted it.
const highestSQL = `
WITH lease AS (SELECT * FROM unnest($2::smallint[], $3::bigint[]) AS lease(lane, low_id)),
bound AS MATERIALIZED (
    SELECT coalesce(max(last.id), 0) AS id, clock_timestamp() AS at
    FROM lease CROSS JOIN LATERAL (
        SELECT p.id FROM outbox.pending p
        WHERE p.topic = $1 AND p.lane = lease.lane AND p.id >= lease.low_id
        ORDER BY p.id DESC LIMIT 1) last)
SELECT bound.id, greatest(bound.at, (
    SELECT max(p.created_at) FROM lease JOIN outbox.pending p
    ON p.topic = $1 AND p.lane = lease.lane AND p.id BETWEEN lease.low_id AND bound.id))
FROM bound`

// Highest returns the bound of the events that are pending in a lease's lanes now, the zero value
// if there are none. Events that are inserted later are beyond it. An event that commits later, but
// drew its id before, may be within it. Highest reads all pending events of these lanes.
func (s *Store) Highest(ctx context.Context, l relay.Lease) (relay.Bound, error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	lanes := slices.Sorted(maps.Keys(l.LowID))
	lows := make([]int64, len(lanes))
	for i, n := range lanes {
		lows[i] = l.LowID[n]
	}
	var id int64
	var at pgtype.Timestamptz
	err := unhidden(ctx, s.pool, func() error { return s.readRow(ctx, []any{&id, &at}, highestSQL, l.Topic, lanes, lows) })
	if err != nil {
		return relay.Bound{}, fmt.Errorf("find the highest pending id: %w", err)
	}
	switch {
	case id == 0:
		return relay.Bound{}, nil
	case at.InfinityModifier != pgtype.Finite || at.Time.UTC().Year() > 9999: // JSON has no such time
		return relay.Bound{ID: id}, nil
	}
	return relay.Bound{ID: id, At: at.Time}, nil
}

// waitsSQL counts the pending events of a claim's lanes and of their topic.
const waitsSQL = `
SELECT count(*) FILTER (WHERE l.claim_id::text = $2), count(*)
FROM outbox.pending p LEFT JOIN outbox.lane l USING (topic, lane)
WHERE p.topic = $1`

// Waits counts exactly the pending events in the lanes that a batch still has, and in its topic. It
// reads all pending events of the topic.
func (s *Store) Waits(ctx context.Context, b relay.Batch) (inBatch, inTopic int64, err error) {
	if err := s.pool.QueryRow(ctx, waitsSQL, b.Topic, b.ClaimID).Scan(&inBatch, &inTopic); err != nil {
		return 0, 0, fmt.Errorf("count pending events: %w", err)
	}
	return inBatch, inTopic, nil
}
