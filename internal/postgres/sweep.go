package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// New topics are looked for this often. That reads nothing of the others.
	findEvery = time.Second
	// Sweeps begin this often, but take at most a tenth of the time.
	sweepEvery   = 15 * time.Second
	sweepShare   = 10
	sweepTimeout = 30 * time.Second
	// Refusals of events that got through are forgotten this often.
	forgetEvery = time.Minute
)

// sweeper looks for new topics and runs sweeps, one after the other, in the background:
// with a snapshot held open somewhere a sweep reads everything settled since, and claims
// must not wait for that.
type sweeper struct {
	mu      sync.Mutex
	running sync.WaitGroup
	busy    bool
	next    time.Time
	swept   bool // at least once
	err     error

	// Of the goroutine that runs only.
	sweep, forget time.Time // when they are due
}

func (w *sweeper) wait() { w.running.Wait() }

// sweepWhenDue starts a look for new topics if one is due, and returns the error of the
// last. A process waits for its first sweep, so that its first claim finds the events of
// topics without lanes.
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

// look looks for new topics, and now and then for more.
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
		return s.forgetRefusals(ctx)
	}
	return nil
}

// holdNoLongerSQL is about times that are further ahead than any worker writes them: the
// clock has been set back since, or another server has the database. They become what a
// worker would write now. Nothing is freed at once: the worker that has a lane may live, and
// then renews its lease in time.
const holdNoLongerSQL = `
WITH topics AS (
    UPDATE outbox.topic SET recovery_paused_until = now() + $2::interval
    WHERE recovery_paused_until > now() + $2::interval + $3::interval),
ahead AS (
    SELECT topic, lane FROM outbox.lane
    WHERE greatest(leased_until, quiet_at, reserved_until, claimed_at) > now() + $1::interval + $3::interval
    ORDER BY topic, lane
    FOR NO KEY UPDATE SKIP LOCKED)
UPDATE outbox.lane l
SET leased_until   = CASE WHEN l.leased_until   > now() + $1::interval THEN now() + $1::interval ELSE l.leased_until END,
    quiet_at       = CASE WHEN l.quiet_at       > now() + $1::interval THEN now() + $1::interval ELSE l.quiet_at END,
    reserved_until = CASE WHEN l.reserved_until > now() + $1::interval THEN now() + $1::interval ELSE l.reserved_until END,
    claimed_at     = CASE WHEN l.claimed_at     > now() THEN now() ELSE l.claimed_at END
FROM ahead
WHERE l.topic = ahead.topic AND l.lane = ahead.lane`

// holdNoLonger makes sure that no lane and no topic is held for longer than a worker holds
// one, whatever the database's clock was.
func (s *Store) holdNoLonger(ctx context.Context) error {
	if _, err := s.pool.Exec(ctx, holdNoLongerSQL, max(s.cfg.Lease, timing.Lease), timing.RecoveryPause, timing.ClockMargin); err != nil {
		return fmt.Errorf("look for times ahead of the clock: %w", err)
	}
	return nil
}

// findTopicsSQL makes the lanes of topics that have none. It looks between the topics that
// are known, where the index has no entries of settled events.
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

// findTopics makes the lanes of topics that are new.
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

// sweepSQL finds the first pending event of every lane by a loose index scan. It makes
// the rows of lanes that are new, and lowers low_id where something is pending below it:
// no event is inserted there (see rounds), but people and other programs can put one, and
// a sequence can be set back. The mark is lowered as well, or low_id would follow it again.
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

// Sweep makes sure that everything pending can be found by a claim, and that nothing is
// held for longer than a worker holds it. Claim starts one now and then.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.holdNoLonger(ctx); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, sweepSQL, relay.Lanes); err != nil {
		return fmt.Errorf("sweep for pending events: %w", err)
	}
	return nil
}

// ensureLanesSQL makes the rows of topics before their first event.
const ensureLanesSQL = `
INSERT INTO outbox.lane (topic, lane)
SELECT t, n FROM unnest($1::text[]) t CROSS JOIN generate_series(0, $2 - 1) n
ORDER BY t, n
ON CONFLICT DO NOTHING`

// EnsureLanes makes the given topics known, so that the very first event of each
// need not wait for a sweep.
func (s *Store) EnsureLanes(ctx context.Context, topics []string) error {
	if _, err := s.pool.Exec(ctx, ensureLanesSQL, topics, relay.Lanes); err != nil {
		return fmt.Errorf("prepare lanes: %w", err)
	}
	return nil
}
