package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// keep heartbeats and renews the lease until keepCtx ends. It stops the attempt
// when the lease is in other hands or the worker shuts down.
func (t *attempt) keep(ctx, keepCtx context.Context) {
	stopped := activity.GetWorkerStopChannel(ctx)
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	renewed := t.clock.Now()
	for {
		select {
		case <-keepCtx.Done():
			return
		case <-stopped:
			t.stop(relay.ErrStopped)
			stopped = nil
		case <-ticker.C:
			activity.RecordHeartbeat(ctx, t.checkpoint())
			stalled := t.stalled()
			if !stalled && t.clock.Since(renewed) < t.cfg.Lease/timing.RenewalsPerLease {
				t.alive()
				continue
			}
			before := t.clock.Now()
			switch err := t.store.Renew(keepCtx, t.lease, t.lanes()); {
			case err == nil:
				renewed = before
				t.mu.Lock()
				t.leaseFrom, t.seenAlive = before, t.clock.Now()
				t.mu.Unlock()
			case errors.Is(err, relay.ErrClaimLost):
				t.stop(err)
				return
			case !stalled:
				// The deadline comes nearer, and the next tick tries again.
				t.alive()
			}
		}
	}
}

func (t *attempt) alive() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seenAlive = t.clock.Now()
}

func (t *attempt) stalled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock.Since(t.seenAlive) > timing.StallLimit
}

// deadline is when this attempt must have fallen silent. It is in the past if the lease
// is over, or if the attempt stood still: the batch may have been given to another
// since. Both are measured with a clock that goes on while the machine is suspended.
// The instant itself is one of Go's clock, which does not: a request that is under way
// when the machine is suspended may still arrive when it wakes up.
func (t *attempt) deadline() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	left := t.cfg.Lease - timing.LeaseMargin - now.Since(t.leaseFrom)
	if left <= 0 || now.Since(t.seenAlive) > timing.StallLimit {
		return time.Now().Add(-time.Second)
	}
	return time.Now().Add(left)
}
