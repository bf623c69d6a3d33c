package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// settleSQL removes exactly the given events, and no range of ids: an event between two published ids
// may have committed since. It looks up the rows one by one by the primary key, and deletes them by
// their ctid (no statement ever updates them): for a plain join, the planner reads all pending events
// of the topic once they are many. It compares the time, because after a failover the database gives
// the same ids to other events.
const settleSQL = `
DELETE FROM outbox.pending
WHERE ctid = ANY (ARRAY(
    SELECT found.ctid
    FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS done(lane, id, replay, created_at)
    CROSS JOIN LATERAL (
        SELECT p.ctid FROM outbox.pending p
        WHERE p.topic = $1 AND p.lane = done.lane AND p.id = done.id AND p.replay = done.replay AND p.created_at = done.created_at
        LIMIT 1) found))`

// Settle removes acknowledged events of a topic from pending. The caller need not be the holder,
// because the destination has the events. A second call changes nothing.
func (s *Store) Settle(ctx context.Context, topic string, done []relay.Ref) error {
	return s.settle(ctx, s.pool, topic, done)
}

// Apart returns Settle on a connection outside the pool. After a failover all places of the pool may
// be busy for many seconds: with attempts to connect to a machine that is gone, with statements without
// an answer, and with connections that are being closed. The caller calls end, and does not use the
// connection again after an error.
func (s *Store) Apart(ctx context.Context) (settle func(ctx context.Context, topic string, done []relay.Ref) error, end func(), err error) {
	config := s.pool.Config().ConnConfig
	// An address that does not answer leaves time for the others.
	config.ConnectTimeout = min(config.ConnectTimeout, timing.SettleConnect/time.Duration(addresses(ctx, config)))
	if err := logIn(ctx, config, s.cfg.Password); err != nil {
		return nil, nil, fmt.Errorf("connect to settle: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to settle: %w", err)
	}
	settle = func(ctx context.Context, topic string, done []relay.Ref) error {
		return s.settle(ctx, conn, topic, done)
	}
	end = func() {
		ctx, cancel := context.WithTimeout(context.Background(), timing.SettleTry)
		defer cancel()
		_ = conn.Close(ctx)
	}
	return settle, end, nil
}

// addresses counts the addresses that an attempt to connect may try. A host whose name cannot be
// looked up counts as one.
func addresses(ctx context.Context, config *pgx.ConnConfig) (n int) {
	hosts := map[string]bool{config.Host: true}
	for _, f := range config.Fallbacks {
		hosts[f.Host] = true
	}
	for host := range hosts {
		found, err := config.LookupFunc(ctx, host)
		if err != nil {
			found = nil
		}
		n += max(1, len(found))
	}
	return n
}

// settler is a pool or a connection.
type settler interface {
	querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func (s *Store) settle(ctx context.Context, db settler, topic string, done []relay.Ref) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if len(done) == 0 {
		return nil
	}
	// Sorted, so that two attempts that settle the same events lock them in the same order.
	c := refColumns(sortedRefs(done))
	tag, err := db.Exec(ctx, settleSQL, topic, c.lanes, c.ids, c.replays, c.created)
	if err == nil && tag.RowsAffected() < int64(len(done)) {
		// The others are settled already, or hidden. Hidden events would be published again.
		err = unhidden(ctx, db, func() error {
			_, err := db.Exec(ctx, settleSQL, topic, c.lanes, c.ids, c.replays, c.created)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("settle events: %w", err)
	}
	return nil
}

// settleTopicsSQL is settleSQL for events of several topics.
const settleTopicsSQL = `
DELETE FROM outbox.pending
WHERE ctid = ANY (ARRAY(
    SELECT found.ctid
    FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS done(topic, lane, id, replay, created_at)
    CROSS JOIN LATERAL (
        SELECT p.ctid FROM outbox.pending p
        WHERE p.topic = done.topic AND p.lane = done.lane AND p.id = done.id AND p.replay = done.replay AND p.created_at = done.created_at
        LIMIT 1) found))`

// settlePlacesSQL is settleTopicsSQL for events that are still in the places where they were read. That saves
// the look-up in the index, which is a third of the statement's time. Another row may be in a place now, so
// it compares the whole key.
const settlePlacesSQL = `
DELETE FROM outbox.pending
WHERE ctid = ANY (ARRAY(
    SELECT found.ctid
    FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::tid[]) AS done(topic, lane, id, replay, created_at, place)
    CROSS JOIN LATERAL (
        SELECT p.ctid FROM outbox.pending p
        WHERE p.ctid = done.place
          AND p.topic = done.topic AND p.lane = done.lane AND p.id = done.id AND p.replay = done.replay AND p.created_at = done.created_at
        LIMIT 1) found))`

// SettleTopics is Settle for events of several topics. It is one statement if all events are where they were
// read.
func (s *Store) SettleTopics(ctx context.Context, done []relay.TopicRefs) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	topics, refs, places := settleColumns(done)
	if len(refs) == 0 {
		return nil
	}
	c := refColumns(refs)
	var settled int64
	var err error
	if places != nil {
		var tag pgconn.CommandTag
		tag, err = s.pool.Exec(ctx, settlePlacesSQL, topics, c.lanes, c.ids, c.replays, c.created, places)
		settled = tag.RowsAffected()
	}
	if err == nil && settled < int64(len(refs)) {
		var tag pgconn.CommandTag
		tag, err = s.pool.Exec(ctx, settleTopicsSQL, topics, c.lanes, c.ids, c.replays, c.created)
		settled += tag.RowsAffected()
	}
	if err == nil && settled < int64(len(refs)) {
		err = unhidden(ctx, s.pool, func() error { // see settle
			_, err := s.pool.Exec(ctx, settleTopicsSQL, topics, c.lanes, c.ids, c.replays, c.created)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("settle events of %d topics: %w", len(done), err)
	}
	return nil
}

// settleColumns are events as arrays for unnest. places is nil if no place is known.
func settleColumns(done []relay.TopicRefs) (topics []string, refs []relay.Ref, places []pgtype.TID) {
	type row struct {
		topic string
		ref   relay.Ref
		place relay.Place
	}
	n := 0
	for _, d := range done {
		n += len(d.Refs)
	}
	all := make([]row, 0, n)
	for _, d := range done {
		for i, ref := range d.Refs {
			r := row{topic: d.Topic, ref: ref}
			if d.Places != nil {
				r.place = d.Places[i]
			}
			all = append(all, r)
		}
	}
	// Sorted: see settle.
	slices.SortFunc(all, func(a, b row) int { return cmp.Or(cmp.Compare(a.topic, b.topic), compareRefs(a.ref, b.ref)) })
	known := false
	topics, refs, places = make([]string, 0, n), make([]relay.Ref, 0, n), make([]pgtype.TID, 0, n)
	for _, r := range all {
		topics, refs = append(topics, r.topic), append(refs, r.ref)
		places = append(places, pgtype.TID{BlockNumber: r.place.Block, OffsetNumber: r.place.Offset, Valid: true})
		known = known || r.place != relay.Place{}
	}
	if !known {
		places = nil
	}
	return topics, refs, places
}
