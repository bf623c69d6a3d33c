package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

// stallLimit is how long an attempt may go without a sign of life of its own. It
// is half of the heartbeat timeout, after which Temporal gives the batch to
// another attempt: a process that was stopped for longer renews its lease before
// it sends another request.
const stallLimit = 5 * time.Second

// keep heartbeats and renews the lease until keepCtx ends. It stops the attempt
// when the lease is in other hands or the worker shuts down.
func (t *attempt) keep(ctx, keepCtx context.Context) {
	stopped := activity.GetWorkerStopChannel(ctx)
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	renewed := time.Now()
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
			if !stalled && time.Since(renewed) < t.cfg.Lease/renewalsPerLease {
				t.alive()
				continue
			}
			before := time.Now()
			switch err := t.cfg.Store.Renew(keepCtx, t.lease, t.lanes()); {
			case err == nil:
				renewed = before
				t.mu.Lock()
				t.leaseEnd, t.seenAlive = before.Add(t.cfg.Lease), time.Now()
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
	t.seenAlive = time.Now()
}

func (t *attempt) stalled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.seenAlive) > stallLimit
}

// deadline is when this attempt must have fallen silent: at once if it was
// stalled, because the batch may have been given to another since.
func (t *attempt) deadline() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.seenAlive) > stallLimit {
		return t.seenAlive
	}
	return t.leaseEnd.Add(-leaseMargin)
}
