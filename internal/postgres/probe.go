package postgres

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// borrowSQL leases the free lanes of a topic that a batch does not have, although the batch's own
// recovery holds the topic. Unlike a claim, it takes no lane that was not given back: another
// worker may have acknowledgements of that lane to settle. It takes no lane of a live share.
const borrowSQL = `
WITH free AS (
    SELECT l.topic, l.lane FROM outbox.lane l
    WHERE topic = $1 AND lane <> ALL ($2::smallint[])
      AND (leased_until IS NULL OR leased_until < now()) AND holder IS NULL AND (quiet_at IS NULL OR quiet_at < now())
      AND (reserved_until IS NULL OR reserved_until < now()) AND ` + mayClaim + ` AND NOT ` + keptByShare + `
    ORDER BY topic, lane
    FOR NO KEY UPDATE SKIP LOCKED)
UPDATE outbox.lane l
SET claim_id = $3, holder = $4, retrying = false, leased_until = now() + $5::interval, claimed_by = NULL
FROM free
WHERE l.topic = free.topic AND l.lane = free.lane
RETURNING l.lane, l.low_id`

// Borrow adds the free lanes of the topic to the lanes of an attempt, and returns the low watermark of
// each. These lanes are not part of the batch: the attempt releases them before it ends, and if its
// worker dies, their lease expires.
func (s *Store) Borrow(ctx context.Context, b relay.Batch, l relay.Lease) (map[int16]int64, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, borrowSQL, l.Topic, b.Lanes, b.ClaimID, l.Holder, s.cfg.Lease)
	if err != nil {
		return nil, fmt.Errorf("borrow lanes: %w", err)
	}
	low := make(map[int16]int64)
	var number int16
	var id int64
	if _, err := pgx.ForEachRow(rows, []any{&number, &id}, func() error { low[number] = id; return nil }); err != nil {
		return nil, fmt.Errorf("borrow lanes: %w", err)
	}
	return low, nil
}

// probeSQL reads pending events of some lanes behind a page, in the order of ids over all lanes that
// the attempt still holds. It omits the events that the caller has, and events that no destination
// accepts, larger than relay.ProbeBytes: these become dead letters as part of a page. %[1]s is the direction.
const probeSQL = `
SELECT p.lane, p.id, p.replay, p.created_at, p.bytes, (SELECT clock_timestamp())
FROM unnest($2::smallint[], $3::bigint[]) AS lease(lane, low_id)
JOIN outbox.lane l ON l.topic = $1 AND l.lane = lease.lane AND l.holder = $9
CROSS JOIN LATERAL (
    SELECT p.lane, p.id, p.replay, p.created_at, p.bytes
    FROM outbox.pending p
    WHERE p.topic = $1 AND p.lane = lease.lane AND p.id >= lease.low_id AND p.bytes <= $7
      AND (p.id, p.replay, p.created_at) NOT IN (SELECT * FROM unnest($4::bigint[], $5::bigint[], $8::timestamptz[]))
    ORDER BY p.id %[1]s, p.replay %[1]s LIMIT $6) p
ORDER BY p.id %[1]s, p.replay %[1]s LIMIT $6`

// Probe reads pending events behind a place, without the events of inHand. They come from all lanes of
// the lease, also from lanes of which no event was sent yet. With Ordered, Probe omits an event while
// an earlier event of its key is pending, even if the caller has that earlier event.
func (s *Store) Probe(ctx context.Context, l relay.Lease, inHand []relay.Ref, p relay.Probe) (relay.Probed, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var probed relay.Probed
	err := unhidden(ctx, s.pool, func() (err error) {
		probed, err = s.probe(ctx, l, inHand, p)
		if err == nil && len(probed.Events) > 0 {
			err = s.fill(ctx, s.pool, probed.Events)
		}
		if err == nil {
			// A page, not a probe, decides about an event that was not found.
			probed.Events = slices.DeleteFunc(probed.Events, func(e relay.Event) bool { return e.EventID == "" })
			if p.Ordered && len(probed.Events) > 0 {
				probed.Events, err = s.firstOfKeys(ctx, l, inHand, probed.Events)
			}
		}
		return err
	})
	if err != nil {
		return relay.Probed{}, fmt.Errorf("probe events: %w", err)
	}
	return probed, nil
}

func (s *Store) probe(ctx context.Context, l relay.Lease, inHand []relay.Ref, p relay.Probe) (probed relay.Probed, err error) {
	lanes := slices.Sorted(maps.Keys(l.LowID))
	lows := make([]int64, len(lanes))
	direction := "DESC"
	for i, n := range lanes {
		lows[i] = l.LowID[n]
		if !p.Newest {
			lows[i], direction = max(lows[i], p.After+1), "ASC"
		}
	}
	c := refColumns(inHand)
	rows, err := s.pool.Query(ctx, fmt.Sprintf(probeSQL, direction), l.Topic, lanes, lows, c.ids, c.replays, p.Events, relay.ProbeBytes, c.created, l.Holder)
	if err != nil {
		return probed, err
	}
	var e relay.Event
	var created pgtype.Timestamptz
	found, bytes := 0, int64(0)
	_, err = pgx.ForEachRow(rows, []any{&e.Lane, &e.ID, &e.Replay, &created, &e.Bytes, &probed.At}, func() error {
		e.At, e.CreatedAt = microseconds(created), created.Time
		found++
		if bytes += e.Bytes; bytes > relay.ProbeBytes && len(probed.Events) > 0 {
			return nil
		}
		probed.Events = append(probed.Events, e)
		return nil
	})
	if err != nil {
		return probed, err
	}
	if cut := len(probed.Events) < found; cut || found == p.Events {
		probed.More, probed.Next = true, probed.Events[len(probed.Events)-1].ID
	}
	slices.SortFunc(probed.Events, func(a, b relay.Event) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Replay, b.Replay))
	})
	return probed, nil
}

// earlierLimit is the maximum number of pending events that firstOfKeys reads.
const earlierLimit = 100_000

// earlierSQL finds the first pending event of some keys. An event that is not found counts as an event
// of every key of its lane: its partition may be about to be attached.
const earlierSQL = `
SELECT p.lane, e.key, min(p.id)
FROM (SELECT p.lane, p.id, p.created_at
      FROM unnest($2::smallint[], $3::bigint[]) AS lease(lane, low_id)
      CROSS JOIN LATERAL (
          SELECT p.lane, p.id, p.created_at FROM outbox.pending p
          WHERE p.topic = $1 AND p.lane = lease.lane AND p.id BETWEEN lease.low_id AND $4
          ORDER BY p.id LIMIT $6) p
      LIMIT $6) p
LEFT JOIN LATERAL (
    SELECT e.key FROM outbox.event e WHERE e.id = p.id AND e.created_at = p.created_at LIMIT 1) e ON true
WHERE e.key IS NULL OR e.key = ANY ($5)
GROUP BY p.lane, e.key`

// earlierCountSQL counts the events that earlierSQL would read.
const earlierCountSQL = `
SELECT count(*)
FROM (SELECT FROM unnest($2::smallint[], $3::bigint[]) AS lease(lane, low_id)
      CROSS JOIN LATERAL (
          SELECT FROM outbox.pending p
          WHERE p.topic = $1 AND p.lane = lease.lane AND p.id BETWEEN lease.low_id AND $4
          ORDER BY p.id LIMIT $5) p
      LIMIT $5) p`

// firstOfKeys keeps the events whose key has no earlier pending event. It reads the earlier events
// after the events themselves: transactions of one key follow one another, so every earlier pending
// event of a key is visible by then. If too many events are pending to read, it keeps only events
// without a key.
func (s *Store) firstOfKeys(ctx context.Context, l relay.Lease, inHand []relay.Ref, events []relay.Event) ([]relay.Event, error) {
	firstID, lows := make(map[string]int64), make(map[int16]int64)
	var last int64
	for _, e := range events {
		if e.Key == "" {
			continue
		}
		if _, seen := firstID[e.Key]; !seen {
			firstID[e.Key] = e.ID
		}
		lows[e.Lane], last = l.LowID[e.Lane], e.ID
	}
	lanes := slices.Sorted(maps.Keys(lows))
	from := make([]int64, len(lanes))
	for i, n := range lanes {
		from[i] = lows[n]
	}
	ready := make(map[string]bool)
	var count int
	if err := s.pool.QueryRow(ctx, earlierCountSQL, l.Topic, lanes, from, last, earlierLimit+1).Scan(&count); err != nil {
		return nil, fmt.Errorf("count earlier events: %w", err)
	}
	if count <= earlierLimit && len(lanes) > 0 {
		rows, err := s.pool.Query(ctx, earlierSQL, l.Topic, lanes, from, last, slices.Sorted(maps.Keys(firstID)), earlierLimit)
		if err != nil {
			return nil, fmt.Errorf("find earlier events: %w", err)
		}
		unknown := make(map[int16]bool)
		var lane int16
		var key *string
		var first int64
		_, err = pgx.ForEachRow(rows, []any{&lane, &key, &first}, func() error {
			if key == nil {
				unknown[lane] = true
			} else if first == firstID[*key] {
				ready[*key] = true
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("find earlier events: %w", err)
		}
		for _, e := range events {
			if unknown[e.Lane] {
				delete(ready, e.Key)
			}
		}
	}
	held := make(map[int64]bool, len(inHand)) // another delivery of the same event
	for _, r := range inHand {
		held[r.ID] = true
	}
	return slices.DeleteFunc(events, func(e relay.Event) bool { return e.Key != "" && (!ready[e.Key] || held[e.ID]) }), nil
}
