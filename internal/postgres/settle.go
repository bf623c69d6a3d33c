package postgres

import (
	"context"
	"fmt"

	"github.com/temporal-outbox/relay/internal/relay"
)

// settleSQL removes exactly the events named, never a range: between two ids
// that were published there may be one that committed since. The rows are looked
// up one by one by the primary key, and then deleted by their place (nothing ever
// moves them): as a plain join, the planner reads all that is pending of the
// topic once it holds much. The time is compared because after a failover the
// database gives the same ids to other events.
const settleSQL = `
DELETE FROM outbox.pending
WHERE ctid = ANY (ARRAY(
    SELECT found.ctid
    FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS done(lane, id, replay, created_at)
    CROSS JOIN LATERAL (
        SELECT p.ctid FROM outbox.pending p
        WHERE p.topic = $1 AND p.lane = done.lane AND p.id = done.id AND p.replay = done.replay AND p.created_at = done.created_at
        LIMIT 1) found))`

// Settle removes acknowledged events of a topic from pending. Anyone may do it,
// holder or not, because the destination has them; doing it again changes
// nothing.
func (s *Store) Settle(ctx context.Context, topic string, done []relay.Ref) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if len(done) == 0 {
		return nil
	}
	// Two attempts that settle the same events meet them in the same order.
	c := refColumns(sortedRefs(done))
	tag, err := s.pool.Exec(ctx, settleSQL, topic, c.lanes, c.ids, c.replays, c.created)
	if err == nil && tag.RowsAffected() < int64(len(done)) {
		// They are settled already, or hidden. Hidden ones would be published again.
		err = s.Security(ctx)
	}
	if err != nil {
		return fmt.Errorf("settle events: %w", err)
	}
	return nil
}
