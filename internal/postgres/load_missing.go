package postgres

import (
	"context"
	"slices"

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
//
// A policy can change between the look and a check. ALTER POLICY waits until the look ends, so it often runs
// just then: a check that comes only after the look would pass, although the look missed hidden events. So an
// event counts as missing only if a check before the look passes, and another one after it.
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
	if err := s.Security(ctx); err != nil {
		return err
	}
	rows, err := s.pool.Query(ctx, lookAgainSQL, ids, created)
	if err != nil {
		return err
	}
	if err := readContents(rows, func(n int) *relay.Event { return &events[missing[n]] }); err != nil {
		return err
	}
	if slices.ContainsFunc(missing, func(i int) bool { return events[i].EventID == "" }) {
		return s.Security(ctx)
	}
	return nil
}
