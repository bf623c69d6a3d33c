package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// eventFits is true of an event e that matches a selection's arguments: $1 is the topic, $2 to $4 are
// ids, key and type, $5 and $6 are a time range; $7 is for dead letters only. A NULL argument matches
// every event.
const eventFits = `($2::uuid[] IS NULL OR e.event_id = ANY ($2::uuid[]))
      AND ($3::text IS NULL OR e.key = $3)
      AND ($4::text IS NULL OR e.type = $4)`

// deadFits is true of a dead letter d that matches a selection. It reads the event only for columns
// that the dead letter does not have. A dead letter with a time ahead of the clock is from before the
// clock was set back, and matches every end.
const deadFits = `d.topic = $1
      AND ($3::text IS NULL OR d.key = $3)
      AND ($5::timestamptz IS NULL OR d.dead_at >= $5) AND ($6::timestamptz IS NULL OR d.dead_at < $6 OR d.dead_at > now())
      AND ($7::text IS NULL OR d.code = $7)
      AND ($2::uuid[] IS NULL AND $4::text IS NULL
           OR (SELECT ` + eventFits + ` FROM outbox.event e WHERE e.id = d.id AND e.created_at = d.created_at LIMIT 1))`

// span is the time range of a selection.
type span struct {
	since, until *time.Time
	at           time.Time // the time of the request
	// open is true if the selection itself has no end.
	open bool
}

// spanOf resolves a selection's time range. The range ends at the time of the request at the latest:
// an operation must not find the events again that it has moved.
func spanOf(s relay.Selection, at time.Time) (span, error) {
	since, until, err := s.Range(at)
	open := until == nil
	if open || until.After(at) {
		until = &at
	}
	return span{since, until, at, open}, err
}

// spanNow is spanOf for a request at this moment, by the database's clock.
func (s *Store) spanNow(ctx context.Context, chosen relay.Selection) (sp span, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var now time.Time
	if err := s.pool.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return sp, fmt.Errorf("read the database's time: %w", err)
	}
	return spanOf(chosen, now)
}

// arguments are $1 to $6 of a selection.
func arguments(topic string, s relay.Selection, sp span) []any {
	var ids any
	if len(s.EventIDs) > 0 {
		ids = s.EventIDs
	}
	return []any{topic, ids, orNull(s.Key), orNull(s.Type), sp.since, sp.until}
}

// eventArguments are $1 to $6 of a selection of events.
func eventArguments(topic string, s relay.Selection, sp span) []any {
	return arguments(topic, s, eventSpan(s, sp))
}

// eventSpan is the time range of a selection of events by their own time. A selection without an end
// ends at the time of its request: an id would not bound it, because a failover may give lower ids to
// later events. A selection by ids needs no end.
func eventSpan(s relay.Selection, sp span) span {
	if sp.open && len(s.EventIDs) > 0 {
		sp.until = nil
	}
	return sp
}

// deadArguments are $1 to $7.
func deadArguments(topic string, s relay.Selection, sp span) []any {
	return append(arguments(topic, s, sp), orNull(s.Code))
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Count is the result of counting a selection of dead letters.
type Count = relay.Count

// countDeadSQL counts the selected dead letters, and the dead letters of their keys that are not
// selected.
const countDeadSQL = `
WITH chosen AS MATERIALIZED (
    SELECT d.lane, d.id, d.replay, d.key FROM outbox.dead_letter d
    WHERE ` + deadFits + `),
chains AS (SELECT key, replay, min(id) AS first FROM chosen WHERE key <> '' GROUP BY key, replay),
others AS (
    SELECT d.key, d.replay, d.id, d.code FROM outbox.dead_letter d
    WHERE d.topic = $1 AND d.key <> '' AND (d.key, d.replay) IN (SELECT key, replay FROM chains)
      AND NOT EXISTS (SELECT FROM chosen c WHERE c.lane = d.lane AND c.id = d.id AND c.replay = d.replay))
SELECT (SELECT count(*) FROM chosen), (SELECT count(DISTINCT key) FROM chains),
       (SELECT count(*) FROM others JOIN chains USING (key, replay) WHERE others.code = '` + relay.CodeBlocked + `' AND others.id > chains.first),
       (SELECT count(*) FROM chosen c WHERE c.key <> '' AND EXISTS (
            SELECT FROM others o WHERE (o.key, o.replay) = (c.key, c.replay) AND o.id < c.id AND NOT (o.code = '` + relay.CodeBlocked + `'
                AND o.id > (SELECT first FROM chains k WHERE (k.key, k.replay) = (o.key, o.replay)))))`

// CountDead counts the selected dead letters of a topic.
func (s *Store) CountDead(ctx context.Context, topic string, chosen relay.Selection) (c Count, err error) {
	if err := s.Known(ctx, topic); err != nil {
		return c, err
	}
	sp, err := s.spanNow(ctx, chosen)
	if err != nil {
		return c, err
	}
	ctx, cancel := s.long(ctx)
	defer cancel()
	err = unhidden(ctx, s.pool, func() error {
		return s.readRow(ctx, []any{&c.Events, &c.Keys, &c.Behind, &c.Overtaking}, countDeadSQL, deadArguments(topic, chosen, sp)...)
	})
	if err != nil {
		return c, fmt.Errorf("count dead letters: %w", err)
	}
	c.At = sp.at
	return c, nil
}

// publishedFits is true of a published event e that matches a selection. It looks up pending, dead and
// discarded rows event by event: for a join, the planner reads the whole table of pending events once
// it is large.
const publishedFits = `e.topic = $1 AND ` + eventFits + `
      AND ($5::timestamptz IS NULL OR e.created_at >= $5) AND ($6::timestamptz IS NULL OR e.created_at < $6)
      AND (SELECT p.id FROM outbox.pending     p WHERE p.topic = $1 AND p.lane = e.lane AND p.id = e.id AND p.replay = 0 AND p.created_at = e.created_at LIMIT 1) IS NULL
      AND (SELECT d.id FROM outbox.dead_letter d WHERE d.topic = $1 AND d.lane = e.lane AND d.id = e.id AND d.replay = 0 AND d.created_at = e.created_at LIMIT 1) IS NULL
      AND (SELECT x.id FROM outbox.discarded   x WHERE x.topic = $1 AND x.lane = e.lane AND x.id = e.id AND x.replay = 0 AND x.created_at = e.created_at LIMIT 1) IS NULL`

// window is the number of ids that one statement reads, so that each statement is short.
const window = 200_000

// boundsSQL finds the first and last id in a time range.
const boundsSQL = `
SELECT coalesce(min(e.id), 0), coalesce(max(e.id), 0) FROM outbox.event e
WHERE ($1::timestamptz IS NULL OR e.created_at >= $1) AND ($2::timestamptz IS NULL OR e.created_at < $2)`

const countPublishedSQL = `
SELECT count(*) FROM outbox.event e
WHERE e.id > $7 AND e.id <= $8 AND ` + publishedFits

// CountPublished counts the selected published events of a topic. It reads all events of the
// selection's time range; progress, which may be nil, gets the part that was read. It also returns the
// time of the count, by the database's clock.
func (s *Store) CountPublished(ctx context.Context, topic string, chosen relay.Selection, progress Progress) (n int64, at time.Time, err error) {
	if err := s.Known(ctx, topic); err != nil {
		return 0, at, err
	}
	sp, err := s.spanNow(ctx, chosen)
	if err != nil {
		return 0, at, err
	}
	first, last, err := s.bounds(ctx, eventSpan(chosen, sp))
	for after := first - 1; err == nil && after < last; after += window {
		var found int64
		found, err = s.countWindow(ctx, append(eventArguments(topic, chosen, sp), after, min(after+window, last)))
		n += found
		read(progress, after+window-first+1, last-first+1)
	}
	if err == nil {
		err = s.Security(ctx)
	}
	if err != nil {
		return 0, at, fmt.Errorf("count published events: %w", err)
	}
	return n, sp.at, nil
}

func (s *Store) countWindow(ctx context.Context, args []any) (n int64, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	err = s.readRow(ctx, []any{&n}, countPublishedSQL, args...)
	return n, err
}

// Bounds returns the first and last id in an operation's time range, 0 if the range has no event.
func (s *Store) Bounds(ctx context.Context, u relay.OperationState) (first, last int64, err error) {
	sp, err := spanOf(u.Selection, u.At)
	if err != nil {
		return 0, 0, err
	}
	return s.bounds(ctx, eventSpan(u.Selection, sp))
}

func (s *Store) bounds(ctx context.Context, sp span) (first, last int64, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	err = unhidden(ctx, s.pool, func() error { return s.readRow(ctx, []any{&first, &last}, boundsSQL, sp.since, sp.until) })
	if err != nil {
		return 0, 0, fmt.Errorf("find the events of a time range: %w", err)
	}
	return first, last, nil
}
