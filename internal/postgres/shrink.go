package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/timing"
)

const shrinkSQL = `SELECT outbox.shrink_pending()`

// shrinkRetry is the time between two tries.
const shrinkRetry = 50 * time.Millisecond

// Shrink gives the disk space back that outbox.pending has taken during a backlog, at a moment in which no event is
// pending and nothing uses the table. If there is none within timing.ShrinkPatience, done is false, and a later call
// tries again.
func (s *Store) Shrink(ctx context.Context) (done bool, err error) {
	for began := time.Now(); ; {
		var shrunk *bool
		if err := s.committed(ctx, false, shrinkSQL, nil, []any{&shrunk}); err != nil {
			return false, fmt.Errorf("shrink outbox.pending: %w", err)
		}
		if shrunk != nil {
			return *shrunk, nil
		}
		if time.Since(began) >= timing.ShrinkPatience {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("shrink outbox.pending: %w", ctx.Err())
		case <-time.After(shrinkRetry):
		}
	}
}
