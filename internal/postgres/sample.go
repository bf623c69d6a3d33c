package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/timing"
)

// turnSQL takes the turn to sample all topics, if it is due. Otherwise it returns how long to wait. For
// other workers than the last one, the turn is due a little later, so that it stays with a worker that
// continues to claim. A turn that is further ahead than any worker sets it is from before the clock was
// set back, and is due.
const turnSQL = `
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

// TakeTurn reports whether it is by's turn to sample all topics: one of the workers that ask gets the
// turn in every interval. If it is not, TakeTurn returns how long to wait.
func (s *Store) TakeTurn(ctx context.Context, by string, every time.Duration) (taken bool, wait time.Duration, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var seconds float64
	if err := s.pool.QueryRow(ctx, turnSQL, by, every, every/graceShare, every+timing.SampleDeferMost).Scan(&taken, &seconds); err != nil {
		return false, 0, fmt.Errorf("take the turn to sample topics: %w", orRow(err, "outbox.sample"))
	}
	return taken, time.Duration(seconds * float64(time.Second)), nil
}

const deferTurnSQL = `UPDATE outbox.sample SET due_at = now() + $2::interval WHERE by = $1`

// DeferTurn makes all workers wait for the next turn, after a sample that took long, for at most
// timing.SampleDeferMost.
func (s *Store) DeferTurn(ctx context.Context, by string, wait time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, deferTurnSQL, by, min(wait, timing.SampleDeferMost)); err != nil {
		return fmt.Errorf("defer the next sample of topics: %w", err)
	}
	return nil
}
