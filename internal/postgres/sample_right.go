package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/timing"
)

// acquireSamplingSQL gives a worker the right to take the next sample of all topics, if that sample is
// due. Otherwise it returns how long to wait. The sample is due a little later for all workers except the
// one that took the last sample, so that the right stays with a worker that continues to claim. A due
// time that is further ahead than any worker sets it was written before the clock was set back; the
// sample is then due.
const acquireSamplingSQL = `
WITH due AS (
    SELECT due_at + CASE WHEN by = $1 THEN interval '0' ELSE $3::interval END AS at FROM outbox.sample),
taken AS (
    UPDATE outbox.sample SET by = $1, due_at = now() + $2::interval
    WHERE due_at + CASE WHEN by = $1 THEN interval '0' ELSE $3::interval END <= now() OR due_at > now() + $4::interval
    RETURNING true)
SELECT EXISTS (SELECT FROM taken),
       CASE WHEN due.at > now() THEN extract(epoch FROM due.at - now()) ELSE 0 END::float8
FROM due`

// graceShare is the part of the interval, one in graceShare, that other workers wait longer.
const graceShare = 5

// TryAcquireSampling reports whether the worker by has the right to sample all topics now. In every
// interval, one of the workers that call it gets the right. For the others, wait is the time until the
// next sample is due.
func (s *Store) TryAcquireSampling(ctx context.Context, by string, every time.Duration) (taken bool, wait time.Duration, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var seconds float64
	if err := s.pool.QueryRow(ctx, acquireSamplingSQL, by, every, every/graceShare, every+timing.SampleDeferMost).Scan(&taken, &seconds); err != nil {
		return false, 0, fmt.Errorf("acquire the right to sample topics: %w", orRow(err, "outbox.sample"))
	}
	return taken, time.Duration(seconds * float64(time.Second)), nil
}

const deferSamplingSQL = `UPDATE outbox.sample SET due_at = now() + $2::interval WHERE by = $1`

// DeferSampling defers the next sample of all workers, after the worker by took a sample that was slow.
// It defers the sample by wait, but at most by timing.SampleDeferMost. It changes nothing if another
// worker has the right.
func (s *Store) DeferSampling(ctx context.Context, by string, wait time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, deferSamplingSQL, by, min(wait, timing.SampleDeferMost)); err != nil {
		return fmt.Errorf("defer the next sample of topics: %w", err)
	}
	return nil
}
