package activities

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/timing"
)

// settle settles what is acknowledged until sent is closed and nothing is left.
// What arrives while one statement runs goes into the next, so a slow database is
// asked less often, not more.
func (t *attempt) settle(ctx context.Context, sent <-chan struct{}) error {
	for last := false; ; {
		select {
		case <-t.changed:
		case <-sent:
			last = true
		}
		// A few more for the same commit.
		for enough := time.After(settleEvery); !last && t.moreComes(); {
			select {
			case <-t.changed:
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

// moreComes reports whether acknowledgements are few and others are on their way.
func (t *attempt) moreComes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.acked) < settleEvents && len(t.acked) < len(t.open)
}

func (t *attempt) settleAcked(ctx context.Context) error {
	t.mu.Lock()
	t.settling, t.acked = t.acked, nil
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timing.SettlePatience)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		err := t.cfg.Store.Settle(ctx, t.lease.Topic, t.settling)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
	t.mu.Lock()
	for _, ref := range t.settling {
		t.openBytes -= t.open[ref].bytes
		delete(t.open, ref)
	}
	t.settling = nil
	t.mu.Unlock()
	signal(t.settled)
	return nil
}
