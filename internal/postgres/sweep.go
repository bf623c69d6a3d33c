package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// The store looks for new topics this often. That reads no rows of known topics.
	findEvery = time.Second
	// Sweeps begin this often, but take at most a tenth of the whole time.
	sweepEvery   = 15 * time.Second
	sweepShare   = 10
	sweepTimeout = 30 * time.Second
	// The store deletes refusals of published events, and workers that are gone, this often.
	forgetEvery = time.Minute
)

// sweeper looks for new topics and runs sweeps, one after the other, in the background: while an old
// snapshot is open, a sweep reads all events that were settled since, and claims must not wait for
// that.
type sweeper struct {
	mu      sync.Mutex
	running sync.WaitGroup
	busy    bool
	next    time.Time
	swept   bool // at least once
	err     error

	// Only the running goroutine uses these.
	sweep, forget time.Time // when they are due
}

func (w *sweeper) wait() { w.running.Wait() }

// sweepWhenDue starts a look for new topics if it is due, and returns the error of the last one. A
// process waits for its first sweep, so that its first claim finds the events of topics without lanes.
func (s *Store) sweepWhenDue(ctx context.Context) error {
	w := &s.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.swept {
		err := s.Sweep(ctx)
		w.swept = err == nil
		w.next = time.Now().Add(findEvery)
		w.sweep = time.Now().Add(sweepEvery)
		return err
	}
	if !w.busy && time.Now().After(w.next) {
		w.busy = true
		w.running.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTimeout)
			defer cancel()
			err := s.look(ctx)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.busy, w.err = false, err
			w.next = time.Now().Add(findEvery)
		})
	}
	err := w.err
	w.err = nil
	return err
}

// look looks for new topics. Less often, it also runs a sweep, and deletes refusals and workers.
func (s *Store) look(ctx context.Context) error {
	w := &s.sweep
	if err := s.findTopics(ctx); err != nil {
		return err
	}
	if began := time.Now(); began.After(w.sweep) {
		if err := s.Sweep(ctx); err != nil {
			return err
		}
		w.sweep = began.Add(max(sweepEvery, sweepShare*time.Since(began)))
	}
	if time.Now().After(w.forget) {
		w.forget = time.Now().Add(forgetEvery)
		return errors.Join(s.forgetRefusals(ctx), s.forgetWorkers(ctx), s.forgetDated(ctx))
	}
	return nil
}

// holdNoLongerSQL corrects times that are further ahead than any worker writes them: the clock has been
// set back since, or the database has moved to another server. They become the times that a worker
// would write now. No lane and no share becomes free at once: its worker may still run, and then renews
// the lease in time.
const holdNoLongerSQL = `
WITH topics AS (
    UPDATE outbox.topic SET recovery_paused_until = now() + $2::interval
    WHERE recovery_paused_until > now() + $2::interval + $3::interval),
ahead AS (
    SELECT topic, lane FROM outbox.lane
    WHERE greatest(leased_until, quiet_at, reserved_until, claimed_at) > now() + $1::interval + $3::interval
    ORDER BY topic, lane
    FOR NO KEY UPDATE SKIP LOCKED),
workers_ahead AS (
    SELECT id FROM outbox.worker WHERE seen_at > now() + $3::interval
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED),
workers AS (UPDATE outbox.worker w SET seen_at = now() FROM workers_ahead WHERE w.id = workers_ahead.id),
shares_ahead AS (
    SELECT lane FROM outbox.share
    WHERE greatest(leased_until, renewed_at) > now() + $4::interval + $3::interval
    ORDER BY lane
    FOR NO KEY UPDATE SKIP LOCKED),
shares AS (
    UPDATE outbox.share s
    SET leased_until = least(s.leased_until, now() + $4::interval), renewed_at = least(s.renewed_at, now())
    FROM shares_ahead WHERE s.lane = shares_ahead.lane)
UPDATE outbox.lane l
SET leased_until   = CASE WHEN l.leased_until   > now() + $1::interval THEN now() + $1::interval ELSE l.leased_until END,
    quiet_at       = CASE WHEN l.quiet_at       > now() + $1::interval THEN now() + $1::interval ELSE l.quiet_at END,
    reserved_until = CASE WHEN l.reserved_until > now() + $1::interval THEN now() + $1::interval ELSE l.reserved_until END,
    claimed_at     = CASE WHEN l.claimed_at     > now() THEN now() ELSE l.claimed_at END
FROM ahead
WHERE l.topic = ahead.topic AND l.lane = ahead.lane`

// holdNoLonger makes sure that no lane and no topic is held for longer than a worker holds it, even if
// the database's clock was ahead.
func (s *Store) holdNoLonger(ctx context.Context) error {
	if _, err := s.pool.Exec(ctx, holdNoLongerSQL, max(s.cfg.Lease, timing.Lease), timing.RecoveryHold, timing.ClockMargin, max(s.cfg.ShareLease, timing.ShareLease)); err != nil {
		return fmt.Errorf("look for times ahead of the clock: %w", err)
	}
	return nil
}

// findTopicsSQL makes the lanes of topics without lanes. It looks between the known topics, where the
// index has no entries of settled events.
const findTopicsSQL = `
WITH known AS (SELECT topic, lead(topic) OVER (ORDER BY topic) AS following FROM outbox.lane WHERE lane = 0),
gap AS (SELECT topic AS after, following AS before FROM known UNION ALL SELECT '', min(topic) FROM known),
found AS (
    SELECT p.topic FROM gap CROSS JOIN LATERAL (
        SELECT p.topic FROM outbox.pending p
        WHERE p.topic > gap.after AND p.topic < gap.before ORDER BY p.topic LIMIT 1) p
    UNION ALL
    SELECT p.topic FROM gap CROSS JOIN LATERAL (
        SELECT p.topic FROM outbox.pending p
        WHERE p.topic > gap.after AND gap.before IS NULL ORDER BY p.topic LIMIT 1) p)
INSERT INTO outbox.lane (topic, lane)
SELECT topic, n FROM found CROSS JOIN generate_series(0, $1 - 1) n
ORDER BY topic, n
ON CONFLICT DO NOTHING`

// findTopics makes the lanes of new topics.
func (s *Store) findTopics(ctx context.Context) error {
	for more := true; more; { // one in each gap
		tag, err := s.pool.Exec(ctx, findTopicsSQL, relay.Lanes)
		if err != nil {
			return fmt.Errorf("look for new topics: %w", err)
		}
		more = tag.RowsAffected() > 0
	}
	return nil
}

// sweepSQL finds the first pending event of every lane by a loose index scan. It makes the rows of new
// lanes, and lowers low_id to a pending event below it. The trigger inserts no event there (see
// rounds), but people and other programs can, and a sequence can be set back. It also lowers the next low
// watermark, mark_id, because otherwise low_id would rise to it again.
const sweepSQL = `
WITH RECURSIVE first AS (
    (SELECT topic, lane, id FROM outbox.pending ORDER BY topic, lane, id LIMIT 1)
    UNION ALL
    SELECT following.topic, following.lane, following.id
    FROM first CROSS JOIN LATERAL (
        SELECT p.topic, p.lane, p.id FROM outbox.pending p
        WHERE (p.topic, p.lane) > (first.topic, first.lane)
        ORDER BY p.topic, p.lane, p.id LIMIT 1) following),
missing AS (
    INSERT INTO outbox.lane (topic, lane)
    SELECT t.topic, n
    FROM (SELECT DISTINCT topic FROM first) t CROSS JOIN generate_series(0, $1 - 1) n
    WHERE NOT EXISTS (SELECT FROM outbox.lane l WHERE l.topic = t.topic AND l.lane = n)
    ORDER BY t.topic, n
    ON CONFLICT DO NOTHING),
lowering AS (
    SELECT l.topic, l.lane, first.id
    FROM outbox.lane l JOIN first USING (topic, lane)
    WHERE l.low_id > first.id
    ORDER BY l.topic, l.lane
    FOR NO KEY UPDATE OF l)
UPDATE outbox.lane l SET low_id = lowering.id, mark_id = least(l.mark_id, lowering.id)
FROM lowering
WHERE l.topic = lowering.topic AND l.lane = lowering.lane AND l.low_id > lowering.id`

// Sweep makes sure that claims can find all pending events, and that no lane is held for longer than a
// worker holds it. Claim starts a sweep from time to time.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.holdNoLonger(ctx); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, sweepSQL, relay.Lanes); err != nil {
		return fmt.Errorf("sweep for pending events: %w", err)
	}
	return nil
}

// ensureLanesSQL makes the lanes of topics before their first event.
const ensureLanesSQL = `
INSERT INTO outbox.lane (topic, lane)
SELECT t, n FROM unnest($1::text[]) t CROSS JOIN generate_series(0, $2 - 1) n
ORDER BY t, n
ON CONFLICT DO NOTHING`

// EnsureLanes makes the lanes of topics, so that the first event of each topic need not wait for a
// sweep.
func (s *Store) EnsureLanes(ctx context.Context, topics []string) error {
	if _, err := s.pool.Exec(ctx, ensureLanesSQL, topics, relay.Lanes); err != nil {
		return fmt.Errorf("prepare lanes: %w", err)
	}
	return nil
}
