package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// pageSQL reads the next pending events of some lanes, without the events that the caller already
// has. Each lane is one short index scan from the beginning of the lease, not from the end of the
// last page: an event with a lower id may have committed since, and a later event of its key must
// not overtake it. The sum before a row cuts the page at the limit of bytes, but never before the
// first row.
//
// One row comes before the page, even before an empty page: the number of lanes that the attempt
// holds, because after a failover the database may not have its lease; the rounds, in the same
// snapshot as the page (see rounds); whether an operation has reserved a lane; and whether a policy
// may hide rows. Without a round, the row says that no round ends. As a join, this row took a third of the statement's time, and so
// did an ORDER BY around both parts. PostgreSQL returns the parts one after the other, and page
// checks that.
const pageSQL = `
SELECT (SELECT count(*)::int FROM outbox.lane WHERE topic = $1 AND lane = ANY ($2::smallint[]) AND holder = $12) AS held,
       clock_timestamp() AS read_at, coalesce(round.number, 9223372036854775807), coalesce(round.ended, -1),
       NULL::smallint AS lane, NULL::bigint AS id, NULL::bigint AS replay, NULL::timestamptz AS created_at,
       NULL::bigint AS bytes, NULL::bigint AS found,
       EXISTS (SELECT FROM outbox.lane WHERE topic = $1 AND lane = ANY ($2::smallint[]) AND reserved_until >= now()) AS reserved,
       ` + filteredShares + ` AS filtered
FROM (VALUES (true)) AS one LEFT JOIN outbox.round ON true
UNION ALL (
SELECT NULL, NULL, NULL, NULL, lane, id, replay, created_at, bytes, found, NULL, NULL
FROM (
    SELECT p.*, count(*) OVER () AS found,
           sum(p.bytes) OVER (ORDER BY p.turn, p.lane ROWS UNBOUNDED PRECEDING) - p.bytes AS bytes_before
    FROM unnest($2::smallint[], $3::bigint[]) AS lease(lane, low_id)
    CROSS JOIN LATERAL (
        SELECT p.lane, p.id, p.replay, p.created_at, p.bytes,
               row_number() OVER (ORDER BY p.id, p.replay) AS turn
        FROM outbox.pending p
        WHERE p.topic = $1 AND p.lane = lease.lane AND p.id BETWEEN lease.low_id AND $10 AND p.created_at <= $11
          AND (p.id, p.replay, p.created_at) NOT IN (SELECT * FROM unnest($4::bigint[], $5::bigint[], $6::timestamptz[]))
        ORDER BY p.id, p.replay LIMIT $7) p) page
WHERE page.bytes_before < $8
ORDER BY turn, lane LIMIT $9)`

// eventsSQL reads the events of a page, each by its primary key: a plain join scanned every
// partition. For the planner, the bounds on created_at are constants, so it plans only for the days
// of the page, and not for all days; that was more than half of the work.
const eventsSQL = `
SELECT wanted.n::int, e.event_id::text, e.key, e.type, e.payload, e.content_type,
       CASE WHEN e.attributes <> '{}' THEN e.attributes END
FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS wanted(id, created_at, n)
CROSS JOIN LATERAL (
    SELECT event_id, key, type, payload, content_type, attributes
    FROM outbox.event e
    WHERE e.id = wanted.id AND e.created_at = wanted.created_at
      AND e.created_at BETWEEN $3 AND $4
    LIMIT 1) e`

// leastPerLane is the minimum number of events that a page takes of one lane, if the lane has them.
const leastPerLane = 10

// Page reads which events are pending in a lease's lanes, up to the lease's bound and without the events
// of inHand. It reads at most events events and relay.PageBytes, but at least one event; the lanes take
// turns. The events have no contents: Fill loads them, all at once or in portions. Page returns
// relay.ErrClaimLost if another claim has one of the lanes.
func (s *Store) Page(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (relay.Page, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	s.advanceWhenDue(ctx)
	page, err := s.page(ctx, l, inHand, events)
	if err != nil {
		return relay.Page{}, fmt.Errorf("read a page: %w", err)
	}
	if len(page.Events) > 0 {
		s.rounds.want()
	}
	return page, nil
}

// Fill loads the contents of events of a page. Three kinds of events stay without an EventID, because
// they would be claimed for ever if Fill omitted them: an event that is pending but missing from
// outbox.event; an event that alone exceeds relay.PageBytes, which no destination accepts and no worker
// should have to hold; and an Unreadable event.
func (s *Store) Fill(ctx context.Context, events []relay.Event) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.fill(ctx, s.pool, events); err != nil {
		return fmt.Errorf("load events: %w", err)
	}
	return nil
}

// Load is Page and Fill at once.
func (s *Store) Load(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (relay.Page, error) {
	page, err := s.Page(ctx, l, inHand, events)
	if err != nil || len(page.Events) == 0 {
		return page, err
	}
	return page, s.Fill(ctx, page.Events)
}

func (s *Store) page(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (page relay.Page, err error) {
	held := 0
	err = s.visibly(ctx, func() (isFiltered bool, err error) {
		page, held, isFiltered, err = s.pageOnce(ctx, l, inHand, events)
		return isFiltered, err
	})
	if err == nil && held < len(l.LowID) {
		return page, relay.ErrClaimLost
	}
	return page, err
}

// pageOnce also returns how many lanes the attempt holds.
func (s *Store) pageOnce(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (page relay.Page, held int, isFiltered bool, err error) {
	lanes := slices.Sorted(maps.Keys(l.LowID))
	lows := make([]int64, len(lanes))
	for i, n := range lanes {
		lows[i] = l.LowID[n]
	}
	c := refColumns(inHand)
	// Twice an even share, so that a page is full although lanes differ.
	perLane := max(leastPerLane, 2*events/max(1, len(lanes)))
	rows, err := s.pool.Query(ctx, pageSQL, l.Topic, lanes, lows, c.ids, c.replays, c.created, perLane, relay.PageBytes, events,
		cmp.Or(l.UpTo.ID, math.MaxInt64), latest(l.UpTo.At), l.Holder)
	if err != nil {
		return page, 0, false, err
	}
	defer rows.Close()
	var found int
	if rows.Next() {
		err = rows.Scan(&held, &page.At, &page.Round, &page.Ended, nil, nil, nil, nil, nil, nil, &page.Reserved, &isFiltered)
	}
	got, last := make(map[int16]int, len(lanes)), make(map[int16]int64, len(lanes))
	var e relay.Event
	var created pgtype.Timestamptz
	for err == nil && rows.Next() {
		err = rows.Scan(nil, nil, nil, nil, &e.Lane, &e.ID, &e.Replay, &created, &e.Bytes, &found, nil, nil)
		if err == nil && e.ID < last[e.Lane] {
			err = errors.New("the events of a lane came out of order")
		}
		last[e.Lane] = e.ID
		e.At, e.CreatedAt = microseconds(created), created.Time
		page.Events = append(page.Events, e)
		got[e.Lane]++
	}
	if err = cmp.Or(err, rows.Err()); err != nil {
		return page, 0, false, err
	}
	page.More = found > len(page.Events) // cut by bytes or number
	for _, n := range got {
		page.More = page.More || n == perLane
	}
	return page, held, isFiltered, nil
}

// fill reads the contents of the events with db, except of those that are too large. One that the server cannot
// convert to UTF-8 is Unreadable.
func (s *Store) fill(ctx context.Context, db queryer, events []relay.Event) error {
	return inHalves(0, len(events), func(from, to int) error {
		return s.fillAll(ctx, db, events[from:to])
	}, func(i int, err error) error {
		return s.unreadable(ctx, &events[i], err)
	})
}

func (s *Store) fillAll(ctx context.Context, db queryer, events []relay.Event) error {
	ids, created := make([]int64, len(events)), make([]pgtype.Timestamptz, len(events))
	first, last := events[0].At, events[0].At
	for i, e := range events {
		created[i] = timestamp(e.At)
		if e.Bytes <= relay.PageBytes { // else 0, which no event has
			ids[i] = e.ID
		}
		first, last = min(first, e.At), max(last, e.At)
	}
	rows, err := db.Query(ctx, eventsSQL, ids, created, timestamp(first), timestamp(last))
	if err != nil {
		return err
	}
	if err := readContents(rows, func(n int) *relay.Event { return &events[n] }); err != nil {
		return err
	}
	return s.lookAgain(ctx, events)
}

// readContents reads the rows of eventsSQL or lookAgainSQL into their events, and closes the rows.
// known finds an event by its place among the wanted ones, from 0.
func readContents(rows pgx.Rows, known func(n int) *relay.Event) error {
	defer rows.Close()
	for rows.Next() {
		var n int
		var e relay.Event
		var raw []byte
		err := rows.Scan(&n, &e.EventID, &e.Key, &e.Type, &e.Payload, &e.ContentType, &raw)
		if err != nil {
			return err
		}
		e.Attributes, e.Invalid = attributes(raw)
		k := known(n - 1)
		e.Ref, e.CreatedAt, e.Bytes = k.Ref, k.CreatedAt, k.Bytes
		*k = e
	}
	return rows.Err()
}

// attributes reads attributes as jsonb prints them, if there are any. invalid is the reason why a
// message cannot have them. Only a SQL_ASCII database returns texts that are not UTF-8, and
// encoding/json would replace their invalid bytes. attributes keeps these bytes, so that the relay
// refuses the event and does not alter it.
func attributes(raw []byte) (all map[string]string, invalid string) {
	if raw == nil {
		return nil, ""
	}
	const invalidAttributes = "attributes is not an object of strings"
	if all, is := plainAttributes(raw); is {
		return all, ""
	}
	if utf8.Valid(raw) {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, invalidAttributes
		}
		// A null becomes a nil map. A null value becomes "", which no attribute may be.
		if all == nil {
			return nil, invalidAttributes
		}
		return all, ""
	}
	// Each byte becomes the character of that number, and then a byte again. jsonb escapes only
	// control characters, so escapes give no other characters.
	wide := make([]rune, len(raw))
	for i, b := range raw {
		wide[i] = rune(b)
	}
	var read map[string]string
	if err := json.Unmarshal([]byte(string(wide)), &read); err != nil {
		return nil, invalidAttributes
	}
	all = make(map[string]string, len(read))
	for name, value := range read {
		all[narrow(name)] = narrow(value)
	}
	return all, ""
}

// plainAttributes reads attributes that are an object of strings of printable ASCII without escapes, as jsonb
// prints it. Almost all are, and encoding/json takes four times as long for them. is is false for all
// others.
func plainAttributes(raw []byte) (all map[string]string, is bool) {
	for _, c := range raw {
		if c < ' ' || c > '~' || c == '\\' {
			return nil, false
		}
	}
	rest, is := strings.CutPrefix(string(raw), `{"`)
	if !is {
		return nil, false
	}
	all = make(map[string]string, 1)
	for {
		name, after, isName := strings.Cut(rest, `"`)
		after, isPair := strings.CutPrefix(after, `: "`)
		value, after, isValue := strings.Cut(after, `"`)
		if !isName || !isPair || !isValue {
			return nil, false
		}
		all[name] = value
		if after == "}" {
			return all, true
		}
		if rest, is = strings.CutPrefix(after, `, "`); !is {
			return nil, false
		}
	}
}

func narrow(wide string) string {
	b := make([]byte, 0, len(wide))
	for _, r := range wide {
		b = append(b, byte(r)) //nolint:gosec // it was a byte
	}
	return string(b)
}
