package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Sweeps begin this often, but take at most a tenth of the time.
const (
	sweepEvery   = time.Second
	sweepShare   = 10
	sweepTimeout = 30 * time.Second
	// Refusals of events that got through are forgotten this often.
	forgetEvery = time.Minute
)

// sweeper runs one sweep at a time, in the background: with a snapshot held open
// somewhere a sweep reads everything that was settled since, and claims must not
// wait for that.
type sweeper struct {
	mu      sync.Mutex
	running sync.WaitGroup
	busy    bool
	next    time.Time
	swept   bool      // at least once
	forget  time.Time // of the running sweep only
	err     error
}

func (w *sweeper) wait() { w.running.Wait() }

// sweepWhenDue starts a sweep if one is due, and returns the error of the last.
// The first sweep of a process is waited for: what was pending before the
// process knew of any lane is then found by its first claim.
func (s *Store) sweepWhenDue(ctx context.Context) error {
	w := &s.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.swept {
		err := s.Sweep(ctx)
		w.swept = err == nil
		w.next = time.Now().Add(sweepEvery)
		return err
	}
	if !w.busy && time.Now().After(w.next) {
		w.busy = true
		w.running.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTimeout)
			defer cancel()
			began := time.Now()
			err := s.Sweep(ctx)
			if err == nil && began.Sub(w.forget) > forgetEvery {
				w.forget = began
				err = s.forgetRefusals(ctx)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.busy, w.err = false, err
			w.next = began.Add(max(sweepEvery, sweepShare*time.Since(began)))
		})
	}
	err := w.err
	w.err = nil
	return err
}

// sweepSQL finds the first pending event of every lane by a loose index scan. It makes
// the rows of lanes that are new, and lowers low_id where something is pending below it:
// no event is inserted there (see rounds), but people and other programs can put one.
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
UPDATE outbox.lane l SET low_id = lowering.id
FROM lowering
WHERE l.topic = lowering.topic AND l.lane = lowering.lane AND l.low_id > lowering.id`

// Sweep makes sure that everything pending can be found by a claim. Claim calls
// it once a second.
func (s *Store) Sweep(ctx context.Context) error {
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
