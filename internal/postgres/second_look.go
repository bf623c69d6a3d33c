package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// lookAgainSQL reads events by their primary key, wherever they are. It has no bounds on
// created_at, so that no partition is left out when it is planned.
const lookAgainSQL = `
SELECT wanted.n::int, e.event_id::text, e.key, e.type, e.payload, e.content_type,
       CASE WHEN e.attributes <> '{}' THEN e.attributes END
FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS wanted(id, created_at, n)
CROSS JOIN LATERAL (
    SELECT event_id, key, type, payload, content_type, attributes
    FROM outbox.event e
    WHERE e.id = wanted.id AND e.created_at = wanted.created_at
    LIMIT 1) e`

// lookAgain reads those of a page's events that a first look did not find. That look
// may have been planned with a list of partitions that was out of date when it had waited
// for a lock. This one is a statement of its own: it is planned anew and has a snapshot of
// its own. If it does not find an event either, the event is not there.
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
	rows, err := s.pool.Query(ctx, lookAgainSQL, ids, created)
	if err != nil {
		return err
	}
	return readContents(rows, func(n int) *relay.Event { return &events[missing[n]] })
}
