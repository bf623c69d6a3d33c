package activities

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const heartbeatEvery = timing.HeartbeatEvery

// heartbeat records what the next attempt is to know, and renews the lease.
type heartbeat struct {
	store  LaneStore
	lease  relay.Lease
	flight *inFlight
	tenure *tenure
	stop   context.CancelCauseFunc
}

// run heartbeats and renews until the second context ends. It stops the attempt
// when the lease is in other hands or the worker shuts down.
func (h heartbeat) run(ctx, until context.Context) {
	stopped := activity.GetWorkerStopChannel(ctx)
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	clock := h.tenure.clock
	renewed := clock.Now()
	for {
		select {
		case <-until.Done():
			return
		case <-stopped:
			h.stop(relay.ErrStopped)
			stopped = nil
		case <-ticker.C:
			activity.RecordHeartbeat(ctx, h.flight.checkpoint(h.lease.Topic))
			stalled := h.tenure.stalled()
			if !stalled && clock.Since(renewed) < h.tenure.lease/timing.RenewalsPerLease {
				h.tenure.alive()
				continue
			}
			asked := clock.Now()
			switch err := h.store.Renew(until, h.lease, h.flight.lanes(h.lease.Topic)); {
			case err == nil:
				renewed = asked
				h.tenure.renewed(asked)
			case errors.Is(err, relay.ErrClaimLost):
				h.stop(err)
				return
			case !stalled:
				// The deadline comes nearer, and the next tick tries again.
				h.tenure.alive()
			}
		}
	}
}

// tenure is how long an attempt may rely on its lease, by clocks that go on while the machine
// is suspended. Only the heartbeat writes to it.
type tenure struct {
	clock timing.Clock
	lease time.Duration
	signs atomic.Pointer[signs]
}

// signs are when the lease was renewed last, and when the attempt last showed that it does not
// stand still.
type signs struct{ renewed, alive timing.Reading }

func newTenure(clock timing.Clock, lease time.Duration, leaseFrom timing.Reading) *tenure {
	t := &tenure{clock: clock, lease: lease}
	t.signs.Store(&signs{leaseFrom, leaseFrom})
	return t
}

// renewed notes a lease that was asked for at that time and granted.
func (t *tenure) renewed(asked timing.Reading) { t.signs.Store(&signs{asked, t.clock.Now()}) }

func (t *tenure) alive() { t.aliveAt(t.clock.Now()) }

func (t *tenure) aliveAt(at timing.Reading) { t.signs.Store(&signs{t.signs.Load().renewed, at}) }

func (t *tenure) stalled() bool { return t.clock.Since(t.signs.Load().alive) > timing.StallLimit }

// deadline is when this attempt must have fallen silent. It is in the past if the lease
// is over, or if the attempt stood still: the batch may have been given to another
// since. The instant itself is one of Go's clock, which stands still while the machine is
// suspended: a request that is under way then may still arrive when it wakes up.
func (t *tenure) deadline() time.Time {
	s, now := t.signs.Load(), t.clock.Now()
	left := t.lease - timing.LeaseMargin - now.Since(s.renewed)
	if left <= 0 || now.Since(s.alive) > timing.StallLimit {
		return time.Now().Add(-time.Second)
	}
	return time.Now().Add(left)
}
