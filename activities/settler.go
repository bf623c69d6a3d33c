package activities

import (
	"context"
	"errors"
	"time"

	"github.com/temporal-outbox/relay/internal/timing"
)

// Acknowledgements are settled when there are so many of them, or after so
// long, unless nothing else is under way: each settlement is a commit that waits
// for the disk, and nothing waits for it but the next page.
const (
	settleEvents = loadEvents / 2
	settleEvery  = 50 * time.Millisecond
)

// settler settles the acknowledgements of an attempt. Those that arrive while one statement runs
// go into the next, so a slow database is asked less often, not more.
type settler struct {
	store  SettleStore
	flight *inFlight
	stop   context.CancelCauseFunc
}

// run settles until over is closed and no acknowledgement is left. If it cannot settle for
// timing.SettlePatience, it stops the attempt.
func (s settler) run(ctx context.Context, over <-chan struct{}) error {
	for last := false; !last; {
		select {
		case <-s.flight.wakeSettler:
		case <-over:
			last = true
		}
		// A few more for the same commit.
		for enough := time.After(settleEvery); !last && s.flight.moreComes(); {
			select {
			case <-s.flight.wakeSettler:
				continue
			case <-over:
				last = true
			case <-enough:
			}
			break
		}
		if err := s.settle(ctx); err != nil {
			s.stop(err)
			return err
		}
	}
	return nil
}

// settle settles all acknowledgements that have come. A topic that fails does not keep the others
// from it: it is tried again after them.
func (s settler) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timing.SettlePatience)
	defer cancel()
	left := s.flight.next()
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		var failed []acknowledgements
		var errs []error
		for _, acked := range left {
			if err := s.store.Settle(ctx, acked.topic, acked.refs); err != nil {
				failed, errs = append(failed, acked), append(errs, err)
				continue
			}
			s.flight.settled(acked.topic)
		}
		if left = failed; len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errs...)
		case <-time.After(wait):
		}
	}
}
