package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/temporal-outbox/relay/internal/relay"
)

// highestSQL finds the last pending event of some lanes, each from its end.
const highestSQL = `
SELECT coalesce(max(last.id), 0), clock_timestamp()
FROM unnest($2::smallint[], $3::bigint[]) AS lease(lane, low_id)
CROSS JOIN LATERAL (
    SELECT p.id FROM outbox.pending p
    WHERE p.topic = $1 AND p.lane = lease.lane AND p.id >= lease.low_id
    ORDER BY p.id DESC LIMIT 1) last`

// Highest returns the bound of what is pending in a lease's lanes now, the zero value if
// nothing is. What is inserted later is beyond it. What commits later, having drawn its
// id before, may be within it.
func (s *Store) Highest(ctx context.Context, l relay.Lease) (b relay.Bound, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	lanes := slices.Sorted(maps.Keys(l.LowID))
	lows := make([]int64, len(lanes))
	for i, n := range lanes {
		lows[i] = l.LowID[n]
	}
	if err := s.pool.QueryRow(ctx, highestSQL, l.Topic, lanes, lows).Scan(&b.ID, &b.At); err != nil {
		return relay.Bound{}, fmt.Errorf("find the highest pending id: %w", err)
	}
	if b.ID == 0 {
		return relay.Bound{}, nil
	}
	return b, nil
}

// waitsSQL counts what a claim's lanes have, and their topic.
const waitsSQL = `
SELECT count(*) FILTER (WHERE l.claim_id::text = $2), count(*)
FROM outbox.pending p LEFT JOIN outbox.lane l USING (topic, lane)
WHERE p.topic = $1`

// Waits counts exactly what is pending in the lanes that a batch still holds, and in
// its topic: it reads all that is pending there.
func (s *Store) Waits(ctx context.Context, b relay.Batch) (inBatch, inTopic int64, err error) {
	if err := s.pool.QueryRow(ctx, waitsSQL, b.Topic, b.ClaimID).Scan(&inBatch, &inTopic); err != nil {
		return 0, 0, fmt.Errorf("count what is pending: %w", err)
	}
	return inBatch, inTopic, nil
}
