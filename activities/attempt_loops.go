package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

// feed loads page after page into events and closes it at the end. It ends when
// the lanes are empty, the time is over, or something was refused: then it is the
// next attempt's turn.
func (t *attempt) feed(ctx context.Context, events chan<- []relay.Event, until time.Time) error {
	defer close(events)
	from := maps.Clone(t.lease.From)
	for first := true; len(from) > 0; first = false {
		if !first && (time.Now().After(until) || !t.roomForMore(ctx)) {
			return nil
		}
		page, err := t.cfg.Store.Load(ctx, t.lease.Topic, from, loadEvents)
		if err != nil {
			if ctx.Err() != nil {
				return nil // stopped; whoever stopped it knows why
			}
			return err
		}
		for _, e := range page.Events {
			from[e.Lane] = relay.Position{ID: e.ID, Replay: e.Replay}
		}
		ready := t.opened(page.Events, from)
		maps.DeleteFunc(from, func(lane int16, _ relay.Position) bool { return !slices.Contains(page.More, lane) })
		if len(ready) == 0 {
			continue
		}
		select {
		case events <- ready:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// opened notes what was loaded, and returns what can be sent of it.
func (t *attempt) opened(loaded []relay.Event, cursor map[int16]relay.Position) []relay.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded += len(loaded)
	maps.Copy(t.cursor, cursor)
	for _, e := range loaded {
		t.open[e.Ref] = true
		if e.EventID == "" {
			t.refuse(&relay.PublishError{
				Code:    relay.CodeEventMissing,
				Message: fmt.Sprintf("event %d is pending but no longer in outbox.event", e.ID),
			})
		}
	}
	return slices.DeleteFunc(loaded, func(e relay.Event) bool { return e.EventID == "" })
}

// roomForMore waits until half a page is settled. It reports false if there is
// nothing more to load for: something was refused, or ctx ended.
func (t *attempt) roomForMore(ctx context.Context) bool {
	for {
		t.mu.Lock()
		room, refused := len(t.open) <= relay.PageEvents-loadEvents, t.first != nil
		t.mu.Unlock()
		if refused || ctx.Err() != nil {
			return false
		}
		if room {
			return true
		}
		select {
		case <-t.settled:
		case <-ctx.Done():
		}
	}
}

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
	t.mu.Lock()
	t.settling, t.acked = t.acked, nil
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
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
		delete(t.open, ref)
	}
	t.settling = nil
	t.mu.Unlock()
	signal(t.settled)
	return nil
}

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
			if time.Since(renewed) < t.cfg.Lease/renewalsPerLease {
				continue
			}
			before := time.Now()
			switch err := t.cfg.Store.Renew(keepCtx, t.lease, t.lanes()); {
			case err == nil:
				renewed = before
				t.mu.Lock()
				t.leaseEnd = before.Add(t.cfg.Lease)
				t.mu.Unlock()
			case errors.Is(err, relay.ErrClaimLost):
				t.stop(err)
				return
			}
			// Any other error: the deadline comes nearer, and the next tick tries again.
		}
	}
}

func (t *attempt) lanes() []int16 { return slices.Sorted(maps.Keys(t.lease.From)) }
