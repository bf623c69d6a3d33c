package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/timing"
)

// settle settles what is acknowledged until sent is closed and nothing is left.
// What arrives while one statement runs goes into the next, so a slow database is
// asked less often, not more.
func (t *attempt) settle(ctx context.Context, sent <-chan struct{}) error {
	for last := false; ; {
		select {
		case <-t.flight.answers:
		case <-sent:
			last = true
		}
		// A few more for the same commit.
		for enough := time.After(settleEvery); !last && t.flight.moreComes(); {
			select {
			case <-t.flight.answers:
				continue
			case <-sent:
				last = true
			case <-enough:
			}
			break
		}
		if err := t.settleAcked(ctx); err != nil {
			t.stop(err)
			return err
		}
		if last {
			return nil
		}
	}
}

func (t *attempt) settleAcked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timing.SettlePatience)
	defer cancel()
	for _, acked := range t.flight.next() {
		for wait := 50 * time.Millisecond; ; wait *= 2 {
			err := t.store.Settle(ctx, acked.topic, acked.refs)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(wait):
			}
		}
		t.flight.settled(acked.topic)
	}
	return nil
}

// handOver gives the ledger the acknowledgements that this attempt has not settled. The
// heartbeat has them too: the next attempt may begin on another worker, or this worker
// may die.
func (t *attempt) handOver(ctx context.Context) {
	left := t.flight.checkpoint(t.lease.Topic).Unsettled
	if len(left) == 0 {
		return
	}
	t.ledger.add(t.lease.Topic, left)
	activity.GetLogger(ctx).Warn("acknowledged events could not be settled; the worker keeps them and settles them when the database answers",
		"topic", t.lease.Topic, "events", len(left))
}

// othersHaveSettled gives the worker of the lanes' last attempt time to settle, if that
// attempt has not given them back. The database answers that worker as well as this one.
// It reports false if ctx ends before.
func (t *attempt) othersHaveSettled(ctx context.Context) bool {
	if !t.mustWait() {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(timing.SettleGrace):
	}
	t.flight.note(t.lease.Topic, func(c *checkpoint) { c.Waited = true })
	return true
}

// mustWait reports whether another worker may have something to settle in the batch's
// lanes. A recovery's batch has been loaded by the relay before.
func (t *attempt) mustWait() bool { return t.Batch.Settling && t.mode == relaying && !t.last.Waited }
