package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
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
		err = s.visibly(ctx, func() (isFiltered bool, err error) {
			found, unreadable, isFiltered, err = s.discover(ctx, worker, lanes)
			return isFiltered, err
		})
		return unreadable, err
	})
	if err != nil {
		return relay.Discovered{}, fmt.Errorf("discover pending lanes: %w", err)
	}
	return found, nil
}

func (s *Store) discover(ctx context.Context, worker string, lanes []int16) (found relay.Discovered, unreadable []string, isFiltered bool, err error) {
	rows, err := s.pool.Query(ctx, discoverSQL, worker, lanes)
	if err != nil {
		return found, nil, false, err
	}
	defer rows.Close()
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
		return found, nil, false, err
	}
	return found, unreadable, isFiltered, nil
}

// pagesSQL reads the next pending events of some lanes, each lane by an index scan that begins at its
// cursor. PostgreSQL returns the lanes one after the other; pages checks that. One row comes before, of
// the same snapshot.
//
// It brings the contents of small events along, so that most of them need no statement of their own. The
// bounds on created_at are constants for the planner, as in eventsSQL. They are a guess: an event outside
// them comes without its content. The planner would put a cache between the events and their contents
// (Memoize), although no event comes twice, and the cache cost a sixth of the statement's time. It cannot
// if the contents depend on a bit, because bits cannot be hashed: that is all that uncached is for.
const pagesSQL = `
SELECT ` + heldSQL + ` AS held, clock_timestamp() AS read_at, coalesce(round.final_id, 0), pg_postmaster_start_time(), ` + filteredShares + `,
       NULL::int AS n, NULL::bigint AS id, NULL::bigint AS replay, NULL::timestamptz AS created_at, NULL::int AS bytes,
       NULL::text AS event_id, NULL::text AS key, NULL::text AS type, NULL::text AS payload, NULL::text AS content_type, NULL::jsonb AS attributes,
       NULL::tid AS place
FROM (VALUES (true)) AS one LEFT JOIN outbox.round ON true
UNION ALL (
SELECT NULL, NULL, NULL, NULL, NULL, wanted.n::int, p.id, p.replay, p.created_at, p.bytes,
       e.event_id::text, e.key, e.type, e.payload, e.content_type, CASE WHEN e.attributes <> '{}' THEN e.attributes END,
       p.ctid
FROM unnest($3::text[], $4::smallint[], $5::bigint[], $11::bigint[], $6::int[]) WITH ORDINALITY AS wanted(topic, lane, after_id, seen, most, n)
CROSS JOIN LATERAL (
    SELECT p.id, p.replay, p.created_at, p.bytes, p.ctid, B'1' AS uncached FROM outbox.pending p
    WHERE p.topic = wanted.topic AND p.lane = wanted.lane AND p.id > wanted.after_id
      AND (p.id > wanted.after_id + 1 OR p.replay >= wanted.seen)
    ORDER BY p.id, p.replay LIMIT wanted.most) p
LEFT JOIN LATERAL (
    SELECT event_id, key, type, payload, content_type, attributes
    FROM outbox.event e
    WHERE e.id = p.id AND e.created_at = p.created_at AND e.created_at BETWEEN $8 AND $9 AND p.bytes <= $10
      AND p.uncached = B'1'
    LIMIT 1) e ON true
LIMIT $7)`

// pageDates says how far from those of the last page the events of the next page may be dated, to come with
// their contents. A partition more costs the planner as much as some events.
const pageDates = time.Hour

// A read brings the contents of at most alongEvents events along, and of alongTotal bytes. More would take too
// much memory.
const (
	alongEvents = 2000
	alongTotal  = 8 << 20
)

// alongBytes is the size of an event up to which a read of so many events brings the content along.
func alongBytes(most int) int { return min(relay.AlongBytes, alongTotal/max(most, 1)) }

// Pages reads the next pending events of several lanes, at most most events together. The first lanes come
// first, so a caller lets the lanes take turns. Events have their Content if they are small and dated near
// those of the last call, and most is not above alongEvents.
func (s *Store) Pages(ctx context.Context, worker string, cursors []relay.LaneCursor, most int) (relay.Pages, error) {
	s.advanceWhenDue(ctx)
	ctx, cancel := s.limit(ctx)
	defer cancel()
	along := s.paged.Load()
	if most > alongEvents {
		along = nil
	}
	read, err := s.pages(ctx, worker, cursors, most, along)
	if unconvertible(err) { // Contents finds out which event it is
		read, err = s.pages(ctx, worker, cursors, most, nil)
	}
	if err != nil {
		return relay.Pages{}, fmt.Errorf("read pending events: %w", err)
	}
	if len(read.Events) > 0 {
		s.paged.Store(datesOf(read.Events))
		s.rounds.want()
	}
	return read, nil
}

// pages brings contents along of events within dates; nil: of none.
func (s *Store) pages(ctx context.Context, worker string, cursors []relay.LaneCursor, most int, d *dates) (read relay.Pages, err error) {
	err = s.visibly(ctx, func() (isFiltered bool, err error) {
		read, isFiltered, err = s.pagesOnce(ctx, worker, cursors, most, d)
		return isFiltered, err
	})
	return read, err
}

func (s *Store) pagesOnce(ctx context.Context, worker string, cursors []relay.LaneCursor, most int, d *dates) (read relay.Pages, isFiltered bool, err error) {
	topics, numbers, after, seen, mosts := cursorColumns(cursors, most)
	from, to := pgtype.Timestamptz{Valid: true, InfinityModifier: pgtype.Infinity}, earliest(time.Time{})
	if d != nil {
		from, to = earliest(d.from), latest(d.to)
	}
	rows, err := s.pinned.Query(ctx, pagesSQL, worker, lanesOf(numbers), topics, numbers, after, mosts, most, from, to, alongBytes(most), seen)
	if err != nil {
		return read, false, err
	}
	defer rows.Close()
	if rows.Next() {
		err = rows.Scan(&read.Held, &read.At, &read.Final, &read.Server, &isFiltered, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil)
	}
	read.Events = make([]relay.Narrow, 0, most)
	got := make([]int, len(cursors))
	var texts repeatedTexts
	var n, lastN int
	var lastID int64
	for err == nil && rows.Next() {
		var e relay.Narrow
		if n, err = texts.scanNarrow(rows, &e); err == nil && (n < lastN || n == lastN && e.Ref.ID < lastID) {
			err = errors.New("the events came out of order")
		}
		if err != nil {
			break
		}
		lastN, lastID = n, e.Ref.ID
		got[n-1]++
		c := cursors[n-1]
		e.Topic, e.Ref.Lane = c.Topic, c.Lane
		if e.Content != nil {
			e.Content.Ref, e.Content.CreatedAt, e.Content.Bytes = e.Ref, e.CreatedAt, e.Bytes
		}
		read.Events = append(read.Events, e)
	}
	if err = cmp.Or(err, rows.Err()); err != nil {
		return read, false, err
	}
	cut := len(read.Events) >= most
	for i, c := range cursors {
		if got[i] >= int(mosts[i]) || cut && i+1 >= lastN {
			read.Full = append(read.Full, c.TopicLane)
		}
	}
	return read, isFiltered, nil
}

// repeatedTexts are those of the last event of a read that the next one has, too, in most cases: it uses the
// same memory then.
type repeatedTexts struct{ eventType, contentType string }

// scanNarrow reads an event of pagesSQL, and the number of its cursor.
func (t *repeatedTexts) scanNarrow(rows pgx.Rows, to *relay.Narrow) (n int, err error) {
	const content = 10 // its first column
	var created pgtype.Timestamptz
	var place pgtype.TID
	err = rows.Scan(nil, nil, nil, nil, nil, &n, &to.Ref.ID, &to.Ref.Replay, &created, &to.Bytes, nil, nil, nil, nil, nil, nil, &place)
	to.Ref.At, to.CreatedAt = microseconds(created), created.Time
	to.Place = relay.Place{Block: place.BlockNumber, Offset: place.OffsetNumber}
	if err == nil {
		to.Content = t.content(rows.RawValues()[content:])
	}
	return n, err
}

// content reads the six columns of an event's content, which are texts. It returns nil if the content did not come
// along. The caller adds Ref, CreatedAt and Bytes.
func (t *repeatedTexts) content(columns [][]byte) *relay.Event {
	if columns[0] == nil {
		return nil
	}
	t.eventType = sameText(t.eventType, columns[2])
	t.contentType = sameText(t.contentType, columns[4])
	e := relay.Event{
		EventID: string(columns[0]), Key: string(columns[1]), Type: t.eventType, Payload: string(columns[3]), ContentType: t.contentType,
	}
	e.Attributes, e.Invalid = attributes(columns[5])
	return &e
}

// sameText is raw as a string: last if that is the same, so that it takes no memory.
func sameText(last string, raw []byte) string {
	if string(raw) == last {
		return last
	}
	return string(raw)
}

// datesOf are the dates near those of some events.
func datesOf(events []relay.Narrow) *dates {
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	for _, e := range events {
		if e.Ref.At != math.MaxInt64 && e.Ref.At != math.MinInt64 {
			first, last = min(first, e.Ref.At), max(last, e.Ref.At)
		}
	}
	if first > last {
		return nil
	}
	return &dates{from: time.UnixMicro(first).Add(-pageDates), to: time.UnixMicro(last).Add(pageDates)}
}

func cursorColumns(cursors []relay.LaneCursor, most int) (topics []string, numbers []int16, after, seen []int64, mosts []int32) {
	topics, numbers = make([]string, len(cursors)), make([]int16, len(cursors))
	after, seen, mosts = make([]int64, len(cursors)), make([]int64, len(cursors)), make([]int32, len(cursors))
	for i, c := range cursors {
		topics[i], numbers[i], mosts[i] = c.Topic, c.Lane, int32(min(c.Most, most)) //nolint:gosec // a page
		after[i], seen[i] = c.After, c.Seen
	}
	return topics, numbers, after, seen, mosts
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

// keysSQL reads the keys of events: see eventsSQL.
const keysSQL = `
SELECT wanted.n::int, e.key
FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS wanted(id, created_at, n)
CROSS JOIN LATERAL (
    SELECT e.key FROM outbox.event e
    WHERE e.id = wanted.id AND e.created_at = wanted.created_at AND e.created_at BETWEEN $3 AND $4
    LIMIT 1) e`

// keysAgainSQL is keysSQL without bounds on created_at: see lookAgainSQL.
const keysAgainSQL = `
SELECT wanted.n::int, e.key
FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS wanted(id, created_at, n)
CROSS JOIN LATERAL (
    SELECT e.key FROM outbox.event e WHERE e.id = wanted.id AND e.created_at = wanted.created_at LIMIT 1) e`

// Keys reads the keys of events of any topics, in the order of the argument. A key is "" if the event has
// none, is missing, or has a key that cannot be read as UTF-8. If rows may be hidden, an event that is not
// found is an error.
func (s *Store) Keys(ctx context.Context, wanted []relay.Narrow) ([]string, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	keys := make([]string, len(wanted))
	if len(wanted) == 0 {
		return keys, nil
	}
	err := inHalves(0, len(wanted), func(from, to int) error {
		return s.keysOf(ctx, wanted[from:to], keys[from:to])
	}, func(int, error) error {
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the keys of events: %w", err)
	}
	return keys, nil
}

func (s *Store) keysOf(ctx context.Context, wanted []relay.Narrow, keys []string) error {
	ids, created := make([]int64, len(wanted)), make([]pgtype.Timestamptz, len(wanted))
	first, last := wanted[0].Ref.At, wanted[0].Ref.At
	for i, w := range wanted {
		ids[i], created[i] = w.Ref.ID, timestamp(w.Ref.At)
		first, last = min(first, w.Ref.At), max(last, w.Ref.At)
	}
	found := make([]bool, len(wanted))
	read := func(rows pgx.Rows, err error) error {
		if err != nil {
			return err
		}
		var n int
		var key string
		_, err = pgx.ForEachRow(rows, []any{&n, &key}, func() error {
			found[n-1] = true
			if _, bad := badUTF8(key); !bad {
				keys[n-1] = key
			}
			return nil
		})
		return err
	}
	err := read(s.pinned.Query(ctx, keysSQL, ids, created, timestamp(first), timestamp(last)))
	if err == nil && slices.Contains(found, false) {
		err = unhidden(ctx, s.pool, func() error { return read(s.pool.Query(ctx, keysAgainSQL, ids, created)) })
	}
	return err
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
	if err := s.fill(ctx, s.pinned, events); err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	all := make([]relay.TopicEvent, len(wanted))
	for i, w := range wanted {
		all[i] = relay.TopicEvent{Topic: w.Topic, Event: events[i]}
	}
	return all, nil
}
