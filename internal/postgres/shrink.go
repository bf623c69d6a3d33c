package postgres

import (
	"context"
	"fmt"
	"time"
)

const shrinkSQL = `SELECT outbox.shrink_pending()`

const (
	// shrinkPatience is how long Shrink waits for a moment in which no event is pending and nothing uses the table,
	// and shrinkRetry is the time between two tries.
	shrinkPatience = 5 * time.Second
	shrinkRetry    = 50 * time.Millisecond
)

// Shrink gives the disk space back that outbox.pending has taken during a backlog, at a moment when no event is
// pending. If there is no such moment soon, done is false, and a later call tries again.
func (s *Store) Shrink(ctx context.Context) (done bool, err error) {
	for began := time.Now(); ; {
		var shrunk *bool
		if err := s.committed(ctx, false, shrinkSQL, nil, []any{&shrunk}); err != nil {
			return false, fmt.Errorf("shrink outbox.pending: %w", err)
		}
		if shrunk != nil {
			return *shrunk, nil
		}
		if time.Since(began) >= shrinkPatience {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("shrink outbox.pending: %w", ctx.Err())
		case <-time.After(shrinkRetry):
		}
	}
}
