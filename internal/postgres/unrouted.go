package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Unrouted is a topic that has pending events and no destination.
type Unrouted struct {
	Topic  string
	Events int  // counted up to unroutedCount
	More   bool // there may be more events
	Lanes  int  // of 16
}

// unroutedCount is the number up to which the events of such a topic are counted.
const unroutedCount = 1_000

// unroutedSQL looks between the topics of $1, and then from each topic that it finds to the next: one
// short index scan for each. It reads no rows of the topics of $1, not even settled ones, and stops
// after $2 topics. It has two branches, because an index scan cannot use a bound that may be null.
const unroutedSQL = `
WITH RECURSIVE routed AS (SELECT t COLLATE "C" AS topic FROM unnest($1::text[]) t),
gap AS (SELECT topic AS after, lead(topic) OVER (ORDER BY topic) AS before FROM routed
        UNION ALL SELECT '', min(topic) FROM routed),
unrouted AS (
    SELECT p.topic, gap.before FROM gap CROSS JOIN LATERAL (
        (SELECT p.topic FROM outbox.pending p
         WHERE p.topic > gap.after AND p.topic < gap.before ORDER BY p.topic LIMIT 1)
        UNION ALL
        (SELECT p.topic FROM outbox.pending p
         WHERE gap.before IS NULL AND p.topic > gap.after ORDER BY p.topic LIMIT 1)) p
    UNION ALL
    SELECT p.topic, u.before FROM unrouted u CROSS JOIN LATERAL (
        (SELECT p.topic FROM outbox.pending p
         WHERE p.topic > u.topic AND p.topic < u.before ORDER BY p.topic LIMIT 1)
        UNION ALL
        (SELECT p.topic FROM outbox.pending p
         WHERE u.before IS NULL AND p.topic > u.topic ORDER BY p.topic LIMIT 1)) p)
SELECT u.topic,
       (SELECT count(*) FROM (SELECT FROM outbox.pending p WHERE p.topic = u.topic LIMIT $3 + 1) counted)::int,
       (SELECT count(*) FROM generate_series(0, $4 - 1) n
        WHERE EXISTS (SELECT FROM outbox.pending p WHERE p.topic = u.topic AND p.lane = n))::int
FROM (SELECT topic FROM unrouted LIMIT $2) u`

// Unrouted lists topics that have pending events and are not among routed, by name, and at most
// the given number of them. It reads a bounded part of the pending events.
func (s *Store) Unrouted(ctx context.Context, routed []string, most int) ([]Unrouted, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var found []Unrouted
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sampleSettingsSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, unroutedSQL, routed, most, unroutedCount, relay.Lanes)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (u Unrouted, err error) {
			err = row.Scan(&u.Topic, &u.Events, &u.Lanes)
			u.Topic = readableTopic(u.Topic)
			u.More = u.Events > unroutedCount
			u.Events = min(u.Events, unroutedCount)
			return u, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for topics without a route: %w", err)
	}
	slices.SortFunc(found, func(a, b Unrouted) int { return strings.Compare(a.Topic, b.Topic) })
	return found, nil
}
