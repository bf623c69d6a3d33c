package simulation

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/temporal-outbox/relay/examples/shop/order"
)

// runOrders places orders and waits until everything has arrived, or the limit has
// passed. The reconciliation finds the events that have not arrived by then.
func (s *shop) runOrders(ctx context.Context) error {
	s.began = time.Now()
	s.view.say(ordering)
	load := load{
		service:  order.Service{DB: failingCommits{s.cfg.DB, s.cfg.RollbackShare}},
		recorder: s.recorder, suffix: s.suffix, rate: s.cfg.Rate, duration: s.cfg.For,
	}
	work, working := errgroup.WithContext(ctx)
	work.Go(func() error { return load.run(working) })
	limit := s.cfg.Drain
	if s.outage != nil {
		work.Go(func() error { return s.outage.run(working) })
		limit += longestBackoff
	}
	if err := work.Wait(); err != nil {
		return err
	}
	s.view.say("no more orders; waiting for the last events")
	if err := s.drain(ctx, time.Now().Add(limit)); err != nil {
		return err
	}
	s.view.say("all events are here; waiting for repeats")
	return sleep(ctx, linger)
}

// drain waits until everything has arrived, or the limit has passed.
func (s *shop) drain(ctx context.Context, limit time.Time) error {
	for time.Now().Before(limit) {
		pending, err := s.pending(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if pending == 0 && s.recorder.missing() == 0 {
			break
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// ordering is the state of the view while customers come.
const ordering = "customers are ordering"
