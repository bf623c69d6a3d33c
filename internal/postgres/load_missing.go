package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// lookAgainSQL reads events by their primary key in all partitions. It has no bounds on created_at, so
// that the planner excludes no partition.
const lookAgainSQL = `
SELECT wanted.n::int, e.event_id::text, e.key, e.type, e.payload, e.content_type,
       CASE WHEN e.attributes <> '{}' THEN e.attributes END
FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS wanted(id, created_at, n)
CROSS JOIN LATERAL (
    SELECT event_id, key, type, payload, content_type, attributes
    FROM outbox.event e
    WHERE e.id = wanted.id AND e.created_at = wanted.created_at
    LIMIT 1) e`

// lookAgain reads the events of a page that a first look did not find. That look may have waited for a
// lock after it was planned, and its list of partitions may have been out of date. The second look is a
// statement of its own, with a new plan and a new snapshot. If it does not find the event either, the
// event does not exist, unless it is hidden: then lookAgain returns an error.
func (s *Store) lookAgain(ctx context.Context, events []relay.Event) error {
	var missing []int
	var ids []int64
	var created []pgtype.Timestamptz
	for i, e := range events {
		if e.EventID == "" && e.Unreadable == "" && e.Bytes <= relay.PageBytes {
			missing, ids, created = append(missing, i), append(ids, e.ID), append(created, timestamp(e.At))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return unhidden(ctx, s.pool, func() error {
		rows, err := s.pool.Query(ctx, lookAgainSQL, ids, created)
		if err != nil {
			return err
		}
		return readContents(rows, func(n int) *relay.Event { return &events[missing[n]] })
	})
}
