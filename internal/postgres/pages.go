package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// discoverSQL finds the first pending event of each lane in some shares, by a loose index scan: see
// sweepSQL. One row comes before, of the same snapshot.
const discoverSQL = `
WITH RECURSIVE first AS (
    (SELECT topic, lane, id, replay, created_at FROM outbox.pending ORDER BY topic, lane, id, replay LIMIT 1)
    UNION ALL
    SELECT following.*
    FROM first CROSS JOIN LATERAL (
        SELECT p.topic, p.lane, p.id, p.replay, p.created_at FROM outbox.pending p
        WHERE (p.topic, p.lane) > (first.topic, first.lane)
        ORDER BY p.topic, p.lane, p.id, p.replay LIMIT 1) following)
SELECT ` + heldSQL + ` AS held, coalesce(round.final_id, 0), pg_postmaster_start_time(), ` + filteredShares + `,
       NULL::text AS topic, NULL::smallint AS lane, NULL::bigint AS id, NULL::bigint AS replay, NULL::timestamptz AS created_at
FROM (VALUES (true)) AS one LEFT JOIN outbox.round ON true
UNION ALL
SELECT NULL, NULL, NULL, NULL, topic, lane, id, replay, created_at FROM first WHERE lane = ANY ($2::smallint[])`

// Discover finds all lanes in some shares that have pending events, whatever their ids and times are. An
// open snapshot makes it read all events that were settled since.
//
// It advances the rounds first: looks read all events above the final id, and while no worker ran, that id
// stayed behind the whole backlog.
func (s *Store) Discover(ctx context.Context, worker string, lanes []int16) (relay.Discovered, error) {
	s.advanceNow(ctx)
	ctx, cancel := s.long(ctx)
	defer cancel()
	var found relay.Discovered
	err := s.pastUnreadableTopics(ctx, worker, func() (unreadable []string, err error) {
		found, unreadable, err = s.discover(ctx, worker, lanes)
		return unreadable, err
	})
	if err != nil {
		return relay.Discovered{}, fmt.Errorf("discover pending lanes: %w", err)
	}
	return found, nil
}

func (s *Store) discover(ctx context.Context, worker string, lanes []int16) (found relay.Discovered, unreadable []string, err error) {
	rows, err := s.pool.Query(ctx, discoverSQL, worker, lanes)
	if err != nil {
		return found, nil, err
	}
	defer rows.Close()
	var isFiltered bool
	if rows.Next() {
		err = rows.Scan(&found.Held, &found.Final, &found.Server, &isFiltered, nil, nil, nil, nil, nil)
	}
	var created pgtype.Timestamptz
	for err == nil && rows.Next() {
		var f relay.FirstPending
		err = rows.Scan(nil, nil, nil, nil, &f.Topic, &f.Lane, &f.Ref.ID, &f.Ref.Replay, &created)
		f.Ref.Lane, f.Ref.At = f.Lane, microseconds(created)
		if _, bad := badUTF8(f.Topic); bad {
			unreadable = append(unreadable, f.Topic)
			continue
		}
		found.First = append(found.First, f)
	}
	if err = cmp.Or(err, rows.Err()); err != nil {
		return found, nil, err
	}
	if isFiltered {
		err = s.Security(ctx)
	}
	return found, unreadable, err
}

// pagesSQL reads the next pending events of some lanes, each lane by an index scan that begins at its
// cursor. PostgreSQL returns the lanes one after the other; pages checks that. One row comes before, of
// the same snapshot.
const pagesSQL = `
SELECT ` + heldSQL + ` AS held, clock_timestamp() AS read_at, coalesce(round.final_id, 0), pg_postmaster_start_time(), ` + filteredShares + `,
       NULL::int AS n, NULL::bigint AS id, NULL::bigint AS replay, NULL::timestamptz AS created_at, NULL::int AS bytes
FROM (VALUES (true)) AS one LEFT JOIN outbox.round ON true
UNION ALL (
SELECT NULL, NULL, NULL, NULL, NULL, wanted.n::int, p.id, p.replay, p.created_at, p.bytes
FROM unnest($3::text[], $4::smallint[], $5::bigint[], $6::int[]) WITH ORDINALITY AS wanted(topic, lane, after_id, most, n)
CROSS JOIN LATERAL (
    SELECT p.id, p.replay, p.created_at, p.bytes FROM outbox.pending p
    WHERE p.topic = wanted.topic AND p.lane = wanted.lane AND p.id > wanted.after_id
    ORDER BY p.id, p.replay LIMIT wanted.most) p
LIMIT $7)`

// Pages reads the next pending events of several lanes, at most most events together. The first lanes come
// first, so a caller lets the lanes take turns.
func (s *Store) Pages(ctx context.Context, worker string, cursors []relay.LaneCursor, most int) (relay.Pages, error) {
	s.advanceWhenDue(ctx)
	ctx, cancel := s.limit(ctx)
	defer cancel()
	read, err := s.pages(ctx, worker, cursors, most)
	if err != nil {
		return relay.Pages{}, fmt.Errorf("read pending events: %w", err)
	}
	if len(read.Events) > 0 {
		s.rounds.want()
	}
	return read, nil
}

func (s *Store) pages(ctx context.Context, worker string, cursors []relay.LaneCursor, most int) (read relay.Pages, err error) {
	topics, numbers, after, mosts := cursorColumns(cursors, most)
	rows, err := s.pool.Query(ctx, pagesSQL, worker, lanesOf(numbers), topics, numbers, after, mosts, most)
	if err != nil {
		return read, err
	}
	defer rows.Close()
	var isFiltered bool
	if rows.Next() {
		err = rows.Scan(&read.Held, &read.At, &read.Final, &read.Server, &isFiltered, nil, nil, nil, nil, nil)
	}
	got := make([]int, len(cursors))
	var n, lastN int
	var lastID int64
	var created pgtype.Timestamptz
	for err == nil && rows.Next() {
		var e relay.Narrow
		err = rows.Scan(nil, nil, nil, nil, nil, &n, &e.Ref.ID, &e.Ref.Replay, &created, &e.Bytes)
		if err == nil && (n < lastN || n == lastN && e.Ref.ID < lastID) {
			err = errors.New("the events came out of order")
		}
		if err != nil {
			break
		}
		lastN, lastID = n, e.Ref.ID
		got[n-1]++
		c := cursors[n-1]
		e.Topic, e.Ref.Lane, e.Ref.At, e.CreatedAt = c.Topic, c.Lane, microseconds(created), created.Time
		read.Events = append(read.Events, e)
	}
	if err = cmp.Or(err, rows.Err()); err != nil {
		return read, err
	}
	cut := len(read.Events) >= most
	for i, c := range cursors {
		if got[i] >= int(mosts[i]) || cut && i+1 >= lastN {
			read.Full = append(read.Full, c.TopicLane)
		}
	}
	if isFiltered {
		err = s.Security(ctx)
	}
	return read, err
}

func cursorColumns(cursors []relay.LaneCursor, most int) (topics []string, numbers []int16, after []int64, mosts []int32) {
	topics, numbers = make([]string, len(cursors)), make([]int16, len(cursors))
	after, mosts = make([]int64, len(cursors)), make([]int32, len(cursors))
	for i, c := range cursors {
		topics[i], numbers[i], after[i], mosts[i] = c.Topic, c.Lane, c.After, int32(min(c.Most, most)) //nolint:gosec // a page
	}
	return topics, numbers, after, mosts
}

// lanesOf returns the different lane numbers.
func lanesOf(numbers []int16) (lanes []int16) {
	var has [relay.Lanes]bool
	for _, n := range numbers {
		has[n] = true
	}
	for n, is := range has {
		if is {
			lanes = append(lanes, int16(n))
		}
	}
	return lanes
}

// Contents reads events of any topics, in the order of the argument. Load describes events that have no
// EventID. The caller limits how many bytes it asks for.
func (s *Store) Contents(ctx context.Context, wanted []relay.Narrow) ([]relay.TopicEvent, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	events := make([]relay.Event, len(wanted))
	for i, w := range wanted {
		events[i] = relay.Event{Ref: w.Ref, CreatedAt: w.CreatedAt, Bytes: w.Bytes}
	}
	if err := s.fill(ctx, events); err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	all := make([]relay.TopicEvent, len(wanted))
	for i, w := range wanted {
		all[i] = relay.TopicEvent{Topic: w.Topic, Event: events[i]}
	}
	return all, nil
}
