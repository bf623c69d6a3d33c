package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

// takeOverSQL makes an attempt the holder of the lanes that its claim still has. An expired lease
// is still valid if no other claim has the lane since. An earlier attempt that did not end in order
// may continue until the end of its lease: quiet_at. Claims skip a topic that an operator has
// paused, but this claim may be older than the pause.
const takeOverSQL = `
WITH mine AS (
    SELECT topic, lane FROM outbox.lane
    WHERE topic = $1 AND lane = ANY ($2::smallint[]) AND claim_id = $3
    ORDER BY topic, lane
    FOR NO KEY UPDATE)
UPDATE outbox.lane l
SET holder = $4, retrying = false, leased_until = now() + $5::interval,
    quiet_at = CASE WHEN l.holder IS NOT NULL AND NOT l.retrying THEN greatest(l.leased_until, l.quiet_at) ELSE l.quiet_at END
FROM mine
WHERE l.topic = mine.topic AND l.lane = mine.lane
RETURNING l.lane, l.low_id,
          coalesce((SELECT t.paused_by FROM outbox.topic t WHERE t.topic = l.topic AND t.paused_at IS NOT NULL), ''), ` + filtered

const pausedBySQL = `SELECT coalesce((SELECT paused_by FROM outbox.topic WHERE topic = $1 AND paused_at IS NOT NULL), '')`

// TakeOver makes the caller the holder of a batch. An earlier attempt of the batch that still runs
// can change nothing from then on. TakeOver returns relay.ErrClaimLost if the claim has none of the
// lanes any more.
func (s *Store) TakeOver(ctx context.Context, b relay.Batch) (relay.Lease, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	s.forget(b.ClaimID)
	holder := outbox.NewID().String()
	rows, err := s.pool.Query(ctx, takeOverSQL, b.Topic, b.Lanes, b.ClaimID, holder, s.cfg.Lease)
	if err != nil {
		return relay.Lease{}, fmt.Errorf("take batch over: %w", err)
	}
	l := relay.Lease{Topic: b.Topic, Holder: holder, LowID: make(map[int16]int64, len(b.Lanes))}
	var number int16
	var low int64
	var isFiltered bool
	_, err = pgx.ForEachRow(rows, []any{&number, &low, &l.PausedBy, &isFiltered}, func() error {
		l.LowID[number] = low
		return nil
	})
	if err == nil && isFiltered { // the pause may have been hidden
		err = unhidden(ctx, s.pool, func() error { return s.pool.QueryRow(ctx, pausedBySQL, b.Topic).Scan(&l.PausedBy) })
	}
	if err != nil {
		return relay.Lease{}, fmt.Errorf("take batch over: %w", err)
	}
	if len(l.LowID) == 0 {
		return relay.Lease{}, fmt.Errorf("take batch over: %w", relay.ErrClaimLost)
	}
	return l, nil
}

// renewSQL extends the lanes that an attempt still holds.
const renewSQL = `
WITH mine AS (
    SELECT topic, lane FROM outbox.lane
    WHERE topic = $1 AND lane = ANY ($2::smallint[]) AND holder = $3
    ORDER BY topic, lane
    FOR NO KEY UPDATE)
UPDATE outbox.lane l
SET leased_until = now() + $4::interval, retrying = l.retrying OR $5
FROM mine
WHERE l.topic = mine.topic AND l.lane = mine.lane`

// Renew extends an attempt's hold on some of its lanes to a full lease from now. It returns
// relay.ErrClaimLost if another claim has one of them.
func (s *Store) Renew(ctx context.Context, l relay.Lease, lanes []int16) error {
	return s.renew(ctx, l, lanes, false)
}

// Keep is Renew for lanes that wait for another attempt of their batch. Until that attempt begins,
// they do not count towards their topic's share of claims.
func (s *Store) Keep(ctx context.Context, l relay.Lease, lanes []int16) error {
	return s.renew(ctx, l, lanes, true)
}

func (s *Store) renew(ctx context.Context, l relay.Lease, lanes []int16, retrying bool) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, renewSQL, l.Topic, lanes, l.Holder, s.cfg.Lease, retrying)
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	if tag.RowsAffected() < int64(len(lanes)) {
		return fmt.Errorf("renew lease: %w", relay.ErrClaimLost)
	}
	return nil
}

// releaseSQL frees lanes that an attempt still holds, and notes their next low watermark, unless
// the last noted one still waits for its round. (A round ahead of outbox.round belongs to another
// history of the database, and never ends.) It notes none if this database does not have the
// last event that was read: the ids are then from before a failover, and the database will give
// them to other events.
const releaseSQL = `
WITH history AS (
    SELECT EXISTS (SELECT FROM outbox.event e WHERE e.id = $5 AND e.created_at = $6::timestamptz) AS ours),
mine AS (
    SELECT l.topic, l.lane, done.next_id, round.number,
           history.ours AND round.number IS NOT NULL AND done.next_id > l.low_id AND (l.mark_id <= l.low_id OR l.mark_round >= round.number) AS noted
    FROM unnest($2::smallint[], $3::bigint[]) AS done(lane, next_id)
    JOIN outbox.lane l ON l.topic = $1 AND l.lane = done.lane
    CROSS JOIN history LEFT JOIN outbox.round ON true
    WHERE l.holder = $4
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l)
UPDATE outbox.lane l
SET claim_id = NULL, holder = NULL, retrying = false, leased_until = NULL, claimed_by = NULL,
    mark_id    = CASE WHEN noted THEN next_id ELSE l.mark_id END,
    mark_round = CASE WHEN noted THEN number ELSE l.mark_round END
FROM mine
WHERE l.topic = mine.topic AND l.lane = mine.lane`

// Release frees lanes, and notes how far they were read. It ignores lanes that another claim has.
func (s *Store) Release(ctx context.Context, l relay.Lease, read relay.Read) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if len(read.Next) == 0 {
		return nil
	}
	lanes := slices.Sorted(maps.Keys(read.Next))
	ids := make([]int64, len(lanes))
	for i, n := range lanes {
		ids[i] = read.Next[n]
	}
	if _, err := s.pool.Exec(ctx, releaseSQL, l.Topic, lanes, ids, l.Holder, read.Last.ID, timestamp(read.Last.At)); err != nil {
		return fmt.Errorf("release lanes: %w", err)
	}
	s.rounds.want()
	return nil
}

// releaseClaimsSQL frees claims that no attempt has begun. A lane that is not quiet gets a new id
// as its holder, which belongs to no attempt: see claimLanesSQL.
const releaseClaimsSQL = `
WITH idle AS (
    SELECT topic, lane FROM outbox.lane
    WHERE claim_id = ANY ($1::uuid[]) AND holder IS NULL
    ORDER BY topic, lane
    FOR NO KEY UPDATE)
UPDATE outbox.lane l
SET claim_id = NULL, leased_until = NULL, claimed_by = NULL,
    holder = CASE WHEN l.quiet_at > now() THEN gen_random_uuid() END
FROM idle
WHERE l.topic = idle.topic AND l.lane = idle.lane`

// ReleaseUnbegun frees the lanes that this process has claimed and no attempt has begun to
// publish. It is the last call of a worker that shuts down: Temporal may still schedule the batches
// of its last answers, while no worker runs.
func (s *Store) ReleaseUnbegun(ctx context.Context) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	s.mu.Lock()
	claims := slices.Collect(maps.Keys(s.unbegun))
	clear(s.unbegun)
	s.mu.Unlock()
	if len(claims) == 0 {
		return nil
	}
	if _, err := s.pool.Exec(ctx, releaseClaimsSQL, claims); err != nil {
		return fmt.Errorf("release claims without an attempt: %w", err)
	}
	return nil
}

// remember notes a claim of this process. It forgets claims that another process took over once
// their first lease is long past.
func (s *Store) remember(claim string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.unbegun) >= 1000 {
		maps.DeleteFunc(s.unbegun, func(_ string, at time.Time) bool { return now.Sub(at) > 2*s.cfg.ClaimLease })
	}
	s.unbegun[claim] = now
}

func (s *Store) forget(claim string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unbegun, claim)
}

// releaseClaimSQL frees the lanes that a claim still has, with and without a holder. If an attempt
// did not end in order, its lane gets a new id as its holder, which belongs to no attempt: the
// attempt can change nothing any more, and the next claim sees that the lane was not given back.
const releaseClaimSQL = `
WITH mine AS (
    SELECT topic, lane FROM outbox.lane
    WHERE topic = $1 AND lane = ANY ($2::smallint[]) AND claim_id = $3
    ORDER BY topic, lane
    FOR NO KEY UPDATE)
UPDATE outbox.lane l
SET claim_id = NULL, retrying = false, leased_until = NULL, claimed_by = NULL,
    holder = CASE WHEN CASE WHEN l.holder IS NULL THEN l.quiet_at > now() ELSE NOT l.retrying END THEN gen_random_uuid() END,
    quiet_at = CASE WHEN l.holder IS NOT NULL AND NOT l.retrying THEN greatest(l.leased_until, l.quiet_at) ELSE l.quiet_at END
FROM mine
WHERE l.topic = mine.topic AND l.lane = mine.lane`

// ReleaseClaim frees the lanes of a claim that no attempt will publish any more.
func (s *Store) ReleaseClaim(ctx context.Context, b relay.Batch) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	s.forget(b.ClaimID)
	if _, err := s.pool.Exec(ctx, releaseClaimSQL, b.Topic, b.Lanes, b.ClaimID); err != nil {
		return fmt.Errorf("release claim: %w", err)
	}
	return nil
}
