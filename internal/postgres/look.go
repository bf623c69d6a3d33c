package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// A worker that holds shares finds new events by their ids, for all topics in one statement. Nothing
// updates or deletes a row of outbox.event, so an open snapshot costs that statement nothing, and topics
// without events cost nothing.
//
// An event may commit after events with higher ids. So a Look reads all ids that the worker has not seen,
// above and below the highest one, in one snapshot: if it finds an event, it also finds all earlier events
// of the event's key. An id is left out for good when it is final: see rounds.

// heldSQL lists the shares of $2 that the worker $1 holds.
const heldSQL = `ARRAY(SELECT s.lane FROM outbox.share s
          WHERE s.worker = $1 AND s.lane = ANY ($2::smallint[]) AND s.leased_until >= now() ORDER BY s.lane)`

// filteredShares is filtered for statements that read shares.
const filteredShares = `(` + filtered + ` OR row_security_active('outbox.share') OR row_security_active('outbox.round')
    OR row_security_active('outbox.dated'))`

// lookSQL reads the events of some ranges of ids, and whether they are pending, which it looks up for the
// worker's lanes only. The ranges ascend, each is an index scan that begins at the range, and PostgreSQL
// returns their events one after the other; look checks that.
//
// The start of the server tells servers apart: a promoted standby may have all events that a worker knows,
// and still give ids again, which other transactions had drawn and not committed.
//
// For the planner, the bounds on created_at are constants, so it plans for a few partitions only.
//
// Small pending events bring their contents along, so that most of them need no statement of their own.
//
// Events outside of the bounds come last, with a mark. outbox.enqueue has listed all of them.
//
// One row comes before the events, of the same snapshot: see pageSQL.
const lookSQL = `
SELECT ` + heldSQL + ` AS held, clock_timestamp() AS looked_at, coalesce(round.final_id, 0), coalesce(round.final_id_at, '-infinity'),
       pg_postmaster_start_time(),
       $5 = 0 OR EXISTS (SELECT FROM outbox.event e WHERE e.id = $5 AND e.created_at = $6), ` + filteredShares + `,
       NULL::bigint AS id, NULL::timestamptz AS created_at, NULL::text AS topic, NULL::smallint AS lane, NULL::int AS bytes,
       NULL::tid AS place,
       NULL::text AS event_id, NULL::text AS key, NULL::text AS type, NULL::text AS payload, NULL::text AS content_type, NULL::jsonb AS attributes
FROM (VALUES (true)) AS one LEFT JOIN outbox.round ON true
UNION ALL (
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, found.id, found.created_at, pending.topic, pending.lane, pending.bytes, pending.ctid,
       along.*
FROM (SELECT e.*
      FROM unnest($3::bigint[], $4::bigint[]) AS unseen(from_id, to_id)
      CROSS JOIN LATERAL (
          SELECT e.id, e.created_at, e.topic, e.lane, e.event_id, e.key, e.type, e.payload, e.content_type, e.attributes FROM outbox.event e
          WHERE e.id BETWEEN unseen.from_id AND unseen.to_id AND e.created_at BETWEEN $7 AND $8
          ORDER BY e.id LIMIT $9) e
      LIMIT $9) found
` + pendingOfFound + `
LEFT JOIN LATERAL (
    SELECT found.event_id::text, found.key, found.type, found.payload, found.content_type,
           CASE WHEN found.attributes <> '{}' THEN found.attributes END AS attributes
    WHERE pending.bytes <= $10) along ON true)
UNION ALL (
SELECT NULL, NULL, NULL, NULL, NULL, NULL, true, found.id, found.created_at, pending.topic, pending.lane, pending.bytes, pending.ctid,
       NULL, NULL, NULL, NULL, NULL, NULL
FROM (SELECT d.id, d.created_at, d.topic, d.lane FROM outbox.dated d
      WHERE d.id >= ($3::bigint[])[1] AND d.created_at NOT BETWEEN $7 AND $8
        AND EXISTS (SELECT FROM unnest($3::bigint[], $4::bigint[]) AS unseen(from_id, to_id)
                    WHERE d.id BETWEEN unseen.from_id AND unseen.to_id)
      ORDER BY d.id LIMIT $9) found
` + pendingOfFound + `)`

// pendingOfFound is the pending row of an event that a look has found, if it is in the worker's lanes.
const pendingOfFound = `LEFT JOIN LATERAL (
    SELECT p.topic, p.lane, p.bytes, p.ctid FROM outbox.pending p
    WHERE found.lane = ANY ($2::smallint[]) AND p.topic = found.topic AND p.lane = found.lane AND p.id = found.id
      AND p.replay = 0 AND p.created_at = found.created_at
    LIMIT 1) pending ON true`

// forgetDatedSQL deletes rows that no look asks for any more: their ids are final, and a worker that has not
// looked for a day holds no share. It deletes some at a time, because a producer may have written millions of
// old events, and begins with the lowest ids, which were inserted first: so it reads no others.
const forgetDatedSQL = `
DELETE FROM outbox.dated WHERE ctid = ANY (ARRAY(
    SELECT first.ctid
    FROM (SELECT ctid, inserted_at FROM outbox.dated
          WHERE id <= (SELECT coalesce(max(final_id), 0) FROM outbox.round)
          ORDER BY id LIMIT $1) first
    WHERE first.inserted_at < now() - interval '1 day'))`

// forgetAtOnce is how many rows one statement of forgetDated deletes.
const forgetAtOnce = 10_000

func (s *Store) forgetDated(ctx context.Context) error {
	for {
		tag, err := s.pool.Exec(ctx, forgetDatedSQL, forgetAtOnce)
		switch {
		case err != nil:
			return fmt.Errorf("forget events that were dated otherwise: %w", err)
		case tag.RowsAffected() < forgetAtOnce:
			return nil
		}
	}
}

// Events that are dated within lookWithin of their insert are read by their ids. A statement whose bounds
// leave less than lookAtLeast is repeated with new ones. lookAtLeast is longer than the time from which on
// outbox.enqueue lists events as dated otherwise, so no event is outside of the bounds and not listed.
const (
	lookWithin  = 36 * time.Hour
	lookAtLeast = 12 * time.Hour
)

// dates bound created_at. The zero value bounds nothing.
type dates struct{ from, to time.Time }

// datesAround returns the bounds of events that are inserted after a time, and until about a time.
func datesAround(after pgtype.Timestamptz, until time.Time) dates {
	d := dates{to: until.Add(lookWithin)}
	if after.InfinityModifier == pgtype.Finite {
		d.from = after.Time.Add(-lookWithin)
	}
	return d
}

// suffice reports whether bounds leave out no event that other bounds do not, with a tolerance.
func (d dates) suffice(needed dates) bool {
	const tolerance = lookWithin - lookAtLeast
	return (d.from.IsZero() || !needed.from.IsZero() && !d.from.After(needed.from.Add(tolerance))) &&
		(d.to.IsZero() || !d.to.Before(needed.to.Add(-tolerance)))
}

// Look finds events that the worker has not seen, with the lowest ids first, and what the worker needs to
// know of the same snapshot. It leaves out an event of an earlier id than the final one: Discover finds
// these.
func (s *Store) Look(ctx context.Context, l relay.Look) (relay.Looked, error) {
	s.advanceWhenDue(ctx)
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var found relay.Looked
	err := s.pastUnreadableTopics(ctx, l.Worker, func() (unreadable []string, err error) {
		found, unreadable, err = s.lookInTime(ctx, l)
		if unconvertible(err) && l.Along { // Contents finds out which event it is, unless it is a topic
			l.Along = false
			found, unreadable, err = s.lookInTime(ctx, l)
		}
		return unreadable, err
	})
	if err != nil {
		return relay.Looked{}, fmt.Errorf("look for new events: %w", err)
	}
	if len(found.Events) > 0 {
		s.rounds.want()
	}
	return found, nil
}

// lookInTime looks with the bounds of the last look. It looks again if they were too narrow: the other one
// was long ago, or the database has moved to another server.
func (s *Store) lookInTime(ctx context.Context, l relay.Look) (found relay.Looked, unreadable []string, err error) {
	bounds := s.dates.Load()
	for range 2 {
		if bounds == nil {
			bounds = &dates{}
		}
		var after pgtype.Timestamptz
		found, after, unreadable, err = s.lookBetween(ctx, l, *bounds)
		if err != nil {
			return found, unreadable, err
		}
		needed := datesAround(after, found.At)
		s.dates.Store(&needed)
		if bounds.suffice(needed) {
			break
		}
		bounds = nil
	}
	return found, unreadable, nil
}

// lookContent is the first column of lookSQL that is of an event's content.
const lookContent = 13

func (s *Store) lookBetween(ctx context.Context, l relay.Look, d dates) (found relay.Looked, after pgtype.Timestamptz, unreadable []string, err error) {
	err = s.visibly(ctx, func() (isFiltered bool, err error) {
		found, after, unreadable, isFiltered, err = s.lookOnce(ctx, l, d)
		return isFiltered, err
	})
	return found, after, unreadable, err
}

func (s *Store) lookOnce(ctx context.Context, l relay.Look, d dates) (found relay.Looked, after pgtype.Timestamptz, unreadable []string, isFiltered bool, err error) {
	from, to := rangeColumns(l.Ranges)
	along := 0
	if l.Along {
		along = alongBytes(l.Most)
	}
	rows, err := s.pinned.Query(ctx, lookSQL, l.Worker, l.Lanes, from, to, l.Last.ID, timestamp(l.Last.At), earliest(d.from), latest(d.to), l.Most, along)
	if err != nil {
		return found, after, nil, false, err
	}
	defer rows.Close()
	if rows.Next() {
		err = rows.Scan(&found.Held, &found.At, &found.Final, &after, &found.Server, &found.SameHistory, &isFiltered, nil, nil, nil, nil, nil, nil,
			nil, nil, nil, nil, nil, nil)
	}
	var last int64
	var created pgtype.Timestamptz
	var topic *string
	var lane *int16
	var bytes *int64
	var place pgtype.TID
	var outside *bool
	var others int // events outside of the bounds
	var texts repeatedTexts
	for err == nil && rows.Next() {
		var e relay.Found
		err = rows.Scan(nil, nil, nil, nil, nil, nil, &outside, &e.ID, &created, &topic, &lane, &bytes, &place, nil, nil, nil, nil, nil, nil)
		if outside != nil {
			if others++; others == 1 {
				last = 0
			}
		}
		if err == nil && (e.ID < last || others > 0 && outside == nil) {
			err = errors.New("the events came out of order")
		}
		last, e.At = e.ID, microseconds(created)
		if err == nil && topic != nil {
			if _, bad := badUTF8(*topic); bad {
				unreadable = append(unreadable, *topic)
			} else {
				e.Topic, e.Lane, e.Bytes, e.Pending = *topic, *lane, *bytes, true
				e.Place = relay.Place{Block: place.BlockNumber, Offset: place.OffsetNumber}
				if e.Content = texts.content(rows.RawValues()[lookContent:]); e.Content != nil {
					e.Content.Ref, e.Content.CreatedAt, e.Content.Bytes = e.Ref, created.Time, e.Bytes
				}
			}
		}
		found.Events = append(found.Events, e)
	}
	if err = cmp.Or(err, rows.Err()); err != nil {
		return found, after, nil, false, err
	}
	found.Events, found.More = merged(found.Events[:len(found.Events)-others], found.Events[len(found.Events)-others:], l.Most)
	found.SameHistory = found.SameHistory && found.Final >= l.Final && (l.Server.IsZero() || l.Server.Equal(found.Server))
	return found, after, unreadable, isFiltered, nil
}

// merged puts two lists of at most most events in the order of their ids. If a list is full, what follows
// its last event is not known, and events of the other list with higher ids are left out.
func merged(a, b []relay.Found, most int) (all []relay.Found, more bool) {
	all = slices.Concat(a, b)
	if len(b) > 0 {
		slices.SortStableFunc(all, func(x, y relay.Found) int { return cmp.Compare(x.ID, y.ID) })
	}
	for _, list := range [][]relay.Found{a, b} {
		if len(list) >= most {
			more = true
			last := list[len(list)-1].ID
			all = slices.DeleteFunc(all, func(e relay.Found) bool { return e.ID > last })
		}
	}
	if len(all) > most {
		all, more = all[:most], true
	}
	return all, more
}

func rangeColumns(ranges []relay.IDRange) (from, to []int64) {
	from, to = make([]int64, len(ranges)), make([]int64, len(ranges))
	for i, r := range ranges {
		from[i], to[i] = r.From, r.To
	}
	return from, to
}

// pastUnreadableTopics reads, and makes dead letters of the events of topics that cannot be read as UTF-8:
// no workflow can handle such a topic, and it must not keep the others waiting. See buryUnreadable and
// setAside.
func (s *Store) pastUnreadableTopics(ctx context.Context, by string, read func() (unreadable []string, err error)) error {
	unreadable, err := read()
	if unconvertible(err) {
		if err = s.findTopics(ctx); err == nil {
			err = s.setAside(ctx, by)
		}
		if err == nil {
			unreadable, err = read()
		}
	}
	if err == nil && len(unreadable) > 0 {
		err = s.EnsureLanes(ctx, unreadable)
		lanes := make([]lane, len(unreadable))
		for i, topic := range unreadable {
			lanes[i].topic = topic
		}
		s.buryUnreadable(ctx, by, lanes)
	}
	return err
}
