package postgres

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/outbox"
)

// Claim runs up to four statements: mayWaitSQL tells whether to search, waitingLanesSQL finds the free lanes
// with pending events, countWaitingSQL counts these events, and claimLanesSQL claims lanes for the batches that
// pack makes. Claimed runs earlierClaimsSQL, which finds the claims of an earlier attempt.

// Claim leases pending lanes and returns them as batches. It returns none if no event is pending,
// or if all pending events are leased, paused, lingering, or in topics without a route or with their
// share of claims in flight. It does not wait.
func (s *Store) Claim(ctx context.Context, r relay.ClaimRequest) ([]relay.Batch, error) {
	if r.Batches <= 0 {
		return nil, nil
	}
	if err := s.sweepWhenDue(ctx); err != nil {
		return nil, err
	}
	s.advanceWhenDue(ctx)
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if may, err := s.mayWait(ctx, r); err != nil || !may {
		return nil, err
	}
	topics := slices.Sorted(maps.Keys(r.Shares))
	shares := make([]int, len(topics))
	for i, topic := range topics {
		shares[i] = r.Shares[topic]
	}
	waiting, err := s.waiting(ctx, r, topics, shares)
	if unconvertible(err) {
		if err = s.setAside(ctx, r.By); err == nil {
			waiting, err = s.waiting(ctx, r, topics, shares)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find waiting lanes: %w", err)
	}
	waiting = s.buryUnreadable(ctx, r.By, waiting)
	if len(waiting) == 0 {
		return nil, nil
	}
	waiting, err = s.count(ctx, ofFirstTopics(waiting, r.Batches), countLimit(r.PerTopic))
	if err != nil {
		return nil, err
	}
	return s.lease(ctx, r.By, pack(waiting, r))
}

// searchEvery is how often a claim searches all lanes at least, while workers hold all shares.
const searchEvery = time.Second

// mayWaitSQL reports whether a claim may find something. While workers hold all shares, only lanes that are
// apart can be claimed, and the index of these has few entries. A share that is mixed may have other lanes.
// Lanes that wait for an operator, a recovery or an operation do not count: they may wait for days.
const mayWaitSQL = `
SELECT (SELECT count(*) FROM outbox.share WHERE leased_until >= now() - $1::interval AND NOT mixed) < $2
       OR EXISTS (
           SELECT FROM outbox.lane l
           CROSS JOIN LATERAL (
               SELECT FROM outbox.pending p
               WHERE p.topic = l.topic AND p.lane = l.lane AND p.id >= l.low_id
               ORDER BY p.id LIMIT 1) first
           WHERE l.apart AND (l.leased_until IS NULL OR l.leased_until < now())
             AND (l.reserved_until IS NULL OR l.reserved_until < now())
             AND l.topic NOT IN (` + stoppedTopics + `))
       OR ` + filtered

// mayWait reports whether to search for waiting lanes, which reads each lane of each topic. A worker that
// holds shares claims often and mostly finds nothing.
func (s *Store) mayWait(ctx context.Context, r relay.ClaimRequest) (may bool, err error) {
	since := time.Duration(time.Now().UnixNano() - s.searched.Load())
	if r.Carries && since >= 0 && since < searchEvery {
		if err := s.pool.QueryRow(ctx, mayWaitSQL, timing.ShareFirst, relay.Lanes).Scan(&may); err != nil {
			return false, fmt.Errorf("look for lanes that may wait: %w", err)
		}
		if !may {
			return false, nil
		}
	}
	s.searched.Store(time.Now().UnixNano())
	return true, nil
}

// In a statement whose $6 is timing.ShareFirst, seatsOffered tells whether the first workers have just been
// offered seats, and mayClaimNow is true of lanes l that no worker has by their share, or will have in a moment.
const (
	seatsOffered = `seats_offered AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM outbox.worker WHERE offered_at BETWEEN now() - $6::interval AND now())
           AND NOT EXISTS (SELECT FROM outbox.lane WHERE leased_until >= now() AND NOT retrying) AS are)`
	mayClaimNow = `(l.lane <> ALL (ARRAY(SELECT s.lane FROM outbox.share s
                                WHERE s.leased_until >= now() - $6::interval OR (SELECT are FROM seats_offered)))
           OR l.apart OR l.claim_id IS NOT NULL)`
)

// waitingLanesSQL finds the free lanes that have pending events, in the order in which to serve
// them: round-robin over topics, and within a topic the lane first that was claimed longest ago.
// (In index order, topic "audit" would starve topic "orders".) It leaves out a topic that has its
// share of claims. It counts these claims itself, because a claim waits, and its caller's knowledge
// is soon out of date.
//
// It leaves out lanes that an operation has reserved, and lanes that belong to a worker because it holds
// their share. It also leaves lanes to the workers that will take their share in a moment: its last holder
// has given it back, or has died, or the first workers have just been offered seats. If batches publish
// already, seats may be long in coming, and the claims go on.
//
// It leaves out topics without a route, except a few at a time, because an attempt to publish such
// a topic can only fail. Unrouted topics that are leased or in recovery count as these few. Once
// they are enough, the statement probes no lanes of the others: there may be thousands.
//
// It probes each lane from its low_id: from the lane's beginning, a probe would read all events
// that were settled since the oldest open snapshot. The probe is a LATERAL with LIMIT, because
// PostgreSQL makes a join of EXISTS, which scans the whole table.
//
// A row without a topic says that rows may be hidden. It comes also if no lane is found: hidden rows look
// like rows that are not there.
const waitingLanesSQL = `
WITH leased AS MATERIALIZED (
    SELECT topic, claim_id, retrying FROM outbox.lane WHERE leased_until >= now()),
busy AS (SELECT topic, count(DISTINCT claim_id)::int AS claims FROM leased WHERE NOT retrying GROUP BY topic),
lowered AS (SELECT * FROM unnest($2::text[], $3::int[]) AS s(topic, share)),
routed AS MATERIALIZED (SELECT DISTINCT topic FROM unnest($4::text[]) AS r(topic)),
held AS MATERIALIZED (
    SELECT count(*)::int AS topics
    FROM (SELECT topic FROM leased UNION SELECT topic FROM outbox.topic WHERE recovery_paused_until >= now()) t
    WHERE topic NOT IN (SELECT topic FROM routed)),
` + seatsOffered + `,
known AS (
    SELECT l.topic, l.lane, l.low_id, l.claimed_at, l.leased_until, l.reserved_until,
           routed.topic IS NULL AND $4::text[] IS NOT NULL AS unrouted
    FROM outbox.lane l LEFT JOIN routed USING (topic)
    WHERE (routed.topic IS NOT NULL OR $4::text[] IS NULL OR (SELECT topics FROM held) < $5)
      AND ` + mayClaimNow + `)
SELECT topic, lane, claims, CASE WHEN unrouted THEN $5 - (SELECT topics FROM held) ELSE -1 END
FROM (SELECT l.topic, l.lane, l.claimed_at, l.unrouted, coalesce(busy.claims, 0) AS claims,
             row_number() OVER (PARTITION BY l.topic ORDER BY l.claimed_at NULLS FIRST, l.lane) AS turn
      FROM known l
      LEFT JOIN busy USING (topic)
      LEFT JOIN outbox.topic t USING (topic)
      LEFT JOIN lowered USING (topic)
      CROSS JOIN LATERAL (
          SELECT FROM outbox.pending p
          WHERE p.topic = l.topic AND p.lane = l.lane AND p.id >= l.low_id
          ORDER BY p.id LIMIT 1) first
      WHERE (l.leased_until IS NULL OR l.leased_until < now())
        AND (l.reserved_until IS NULL OR l.reserved_until < now())
        AND coalesce(busy.claims, 0) < coalesce(lowered.share, $1)
        AND t.paused_at IS NULL
        AND (t.recovery_paused_until IS NULL OR t.recovery_paused_until < now())
      UNION ALL SELECT '', 0::smallint, NULL, false, 0, 0 WHERE ` + filtered + `) waiting
ORDER BY turn, claimed_at NULLS FIRST, topic`

func (s *Store) waiting(ctx context.Context, r relay.ClaimRequest, topics []string, shares []int) (found []lane, err error) {
	rows, err := s.pool.Query(ctx, waitingLanesSQL, r.PerTopic, topics, shares, r.Routed, r.Unrouted, timing.ShareFirst)
	if err != nil {
		return nil, err
	}
	isFiltered := false
	var l lane
	var more int // how many topics without a route may follow; -1: this one has a route
	unrouted := make(map[string]bool)
	_, err = pgx.ForEachRow(rows, []any{&l.topic, &l.lane, &l.claims, &more}, func() error {
		if l.topic == "" {
			isFiltered = true
			return nil
		}
		if more >= 0 && !unrouted[l.topic] {
			if len(unrouted) >= more {
				return nil
			}
			unrouted[l.topic] = true
		}
		found = append(found, l)
		return nil
	})
	if err == nil && isFiltered {
		err = s.Security(ctx)
	}
	return found, err
}

// leftOutSQL finds a topic without a route that is neither claimed nor paused.
const leftOutSQL = `
WITH routed AS MATERIALIZED (SELECT DISTINCT topic FROM unnest($1::text[]) AS r(topic))
SELECT coalesce((
    SELECT true FROM outbox.lane l
    LEFT JOIN outbox.topic t USING (topic)
    CROSS JOIN LATERAL (
        SELECT FROM outbox.pending p
        WHERE p.topic = l.topic AND p.lane = l.lane AND p.id >= l.low_id
        ORDER BY p.id LIMIT 1) first
    WHERE l.topic NOT IN (SELECT topic FROM routed)
      AND (l.leased_until IS NULL OR l.leased_until < now()) AND ` + mayClaim + `
      AND t.paused_at IS NULL
      AND (t.recovery_paused_until IS NULL OR t.recovery_paused_until < now())
    LIMIT 1), false)`

// LeavesOut reports whether events wait that Claim leaves out because their topic has no route.
func (s *Store) LeavesOut(ctx context.Context, routed []string) (leaves bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.pool.QueryRow(ctx, leftOutSQL, routed).Scan(&leaves); err != nil {
		return false, fmt.Errorf("look for topics without a route: %w", err)
	}
	return leaves, nil
}

// countWaitingSQL counts the waiting events of some lanes, up to a limit in each. It takes a time before
// 1970 for 1970, and a time to come for now: see safeAgeFrom.
const countWaitingSQL = `
SELECT l.topic, l.lane, c.events, c.bytes, ` + safeAgeFrom + `c.oldest` + safeAgeTo + `
FROM unnest($1::text[], $2::smallint[]) AS wanted(topic, lane)
JOIN outbox.lane l USING (topic, lane)
CROSS JOIN LATERAL (
    SELECT count(*)::int AS events, coalesce(sum(bytes), 0)::bigint AS bytes, min(created_at) AS oldest
    FROM (SELECT p.bytes, p.created_at FROM outbox.pending p
          WHERE p.topic = l.topic AND p.lane = l.lane AND p.id >= l.low_id
          ORDER BY p.id LIMIT $3) page) c
WHERE c.events > 0`

// countLimit is the number up to which a lane is counted: all lanes of a topic together then show
// as many full pages as the topic may have batches.
func countLimit(perTopic int) int { return max(1, relay.PageEvents*perTopic/relay.Lanes) }

func (s *Store) count(ctx context.Context, lanes []lane, limit int) ([]lane, error) {
	topics, numbers := columns(lanes)
	rows, err := s.pool.Query(ctx, countWaitingSQL, topics, numbers, limit)
	if err != nil {
		return nil, fmt.Errorf("count waiting events: %w", err)
	}
	counted := make(map[laneKey]lane, len(lanes))
	var l lane
	var age float64
	_, err = pgx.ForEachRow(rows, []any{&l.topic, &l.lane, &l.events, &l.bytes, &age}, func() error {
		l.age = time.Duration(age * float64(time.Second))
		counted[l.key()] = l
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count waiting events: %w", err)
	}
	// Serve in the order of the argument. A lane that is missing from the answer has become
	// empty since.
	inOrder := make([]lane, 0, len(counted))
	for _, l := range lanes {
		if c, ok := counted[l.key()]; ok {
			c.claims = l.claims
			inOrder = append(inOrder, c)
		}
	}
	return inOrder, nil
}

// claimLanesSQL leases the lanes that are still free. It chooses them where it locks them, by the
// predicate of the lease itself: with the choice in a sub-select, two claimers got the same lanes.
//
// A lane that has a holder was not given back: the lease of the last attempt expired, or another
// activity released its claim. The worker of that attempt may still run and have acknowledgements
// to settle. It has until quiet_at for that. The same holds if the lane's last holder was a worker that
// did not give the share back. A trigger skips lanes whose share is taken at the same time.
//
// A batch also gets the lanes of its topic that have no events yet, see pack. So the statement itself leaves
// lanes to the workers that will take their share in a moment, as waitingLanesSQL does. If it took one of
// them, the lease of the share would end for good, and the next claims would take the lanes of all topics.
const claimLanesSQL = `
WITH ` + seatsOffered + `,
free AS (
    SELECT l.topic, l.lane, wanted.claim_id, l.holder IS NOT NULL AND NOT l.retrying OR ` + keptByShare + ` AS settling
    FROM unnest($1::text[], $2::smallint[], $3::uuid[]) AS wanted(topic, lane, claim_id)
    JOIN outbox.lane l USING (topic, lane)
    WHERE (l.leased_until IS NULL OR l.leased_until < now())
      AND (l.reserved_until IS NULL OR l.reserved_until < now())
      AND ` + mayClaimNow + `
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l SKIP LOCKED)
UPDATE outbox.lane l
SET claim_id = free.claim_id, holder = NULL, retrying = false, leased_until = now() + $4::interval,
    claimed_at = now(), claimed_by = $5,
    quiet_at = CASE WHEN free.settling THEN greatest(now() + $7::interval, l.quiet_at) ELSE l.quiet_at END
FROM free
WHERE l.topic = free.topic AND l.lane = free.lane
RETURNING l.topic, l.lane, free.settling`

func (s *Store) lease(ctx context.Context, by string, packed [][]lane) ([]relay.Batch, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	var all []lane
	var claims []string
	claimOf := make(map[laneKey]string)
	for _, lanes := range packed {
		claim := outbox.NewID().String()
		for _, l := range lanes {
			all, claims = append(all, l), append(claims, claim)
			claimOf[l.key()] = claim
		}
	}
	topics, numbers := columns(all)
	rows, err := s.pool.Query(ctx, claimLanesSQL, topics, numbers, claims, s.cfg.ClaimLease, by, timing.ShareFirst, timing.SettleGrace)
	if err != nil {
		return nil, fmt.Errorf("claim lanes: %w", err)
	}
	settling := make(map[laneKey]bool, len(all)) // of the leased lanes
	var k laneKey
	var isSettling bool
	_, err = pgx.ForEachRow(rows, []any{&k.topic, &k.lane, &isSettling}, func() error {
		settling[k] = isSettling
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim lanes: %w", err)
	}
	batches := make([]relay.Batch, 0, len(packed))
	for _, lanes := range packed {
		lanes = slices.DeleteFunc(lanes, func(l lane) bool { _, got := settling[l.key()]; return !got })
		if len(lanes) > 0 {
			b := batchOf(lanes, claimOf[lanes[0].key()])
			b.Settling = slices.ContainsFunc(lanes, func(l lane) bool { return settling[l.key()] })
			batches = append(batches, b)
			s.remember(b.ClaimID)
		}
	}
	return batches, nil
}

func batchOf(lanes []lane, claim string) relay.Batch {
	slices.SortFunc(lanes, func(a, b lane) int { return cmp.Compare(a.lane, b.lane) })
	b := relay.Batch{Topic: lanes[0].topic, ClaimID: claim}
	for _, l := range lanes {
		b.Lanes = append(b.Lanes, l.lane)
		b.Events += l.events
		b.Bytes += l.bytes
	}
	return b
}

// earlierClaimsSQL finds the claims of one activity that no attempt has begun and whose leases last long
// enough to hand them out. Lanes that are not quiet may have acknowledgements to settle.
const earlierClaimsSQL = `
SELECT topic, lane, claim_id::text, coalesce(quiet_at > now(), false)
FROM outbox.lane
WHERE claimed_by = $1 AND claim_id IS NOT NULL AND holder IS NULL
  AND leased_until > now() + $2::interval
ORDER BY topic, lane`

// Claimed returns the batches that an earlier attempt of the same activity claimed before its
// answer was lost.
func (s *Store) Claimed(ctx context.Context, by string) ([]relay.Batch, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	rows, err := s.pool.Query(ctx, earlierClaimsSQL, by, timing.ClaimHandOut)
	if err != nil {
		return nil, fmt.Errorf("find earlier claims: %w", err)
	}
	var held []lane
	claimOf := make(map[laneKey]string)
	settling := make(map[string]bool) // by claim
	var l lane
	var claim string
	var isSettling bool
	_, err = pgx.ForEachRow(rows, []any{&l.topic, &l.lane, &claim, &isSettling}, func() error {
		held = append(held, l)
		claimOf[l.key()] = claim
		settling[claim] = settling[claim] || isSettling
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find earlier claims: %w", err)
	}
	if len(held) == 0 {
		return nil, nil
	}
	counted, err := s.count(ctx, held, relay.PageEvents)
	if err != nil {
		return nil, err
	}
	byClaim := make(map[string][]lane)
	for _, l := range counted {
		byClaim[claimOf[l.key()]] = append(byClaim[claimOf[l.key()]], l)
	}
	batches := make([]relay.Batch, 0, len(byClaim))
	for claim, lanes := range byClaim {
		b := batchOf(lanes, claim)
		b.Settling = settling[claim]
		batches = append(batches, b)
	}
	slices.SortFunc(batches, func(a, b relay.Batch) int { return cmp.Compare(a.ClaimID, b.ClaimID) })
	return batches, nil
}
