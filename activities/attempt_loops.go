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

// feed loads page after page into events and closes it at the end. When the lanes
// are empty it stays on them for a while, because what comes next is then
// published without another claim. It ends when nothing has come for that long,
// the time is over, or something was refused: then it is the next attempt's turn.
func (t *attempt) feed(ctx context.Context, events chan<- []relay.Event, until time.Time, stay time.Duration) error {
	defer close(events)
	lease := t.lease
	lease.LowID = maps.Clone(lease.LowID)
	var seen mark
	for lastCame := time.Now(); ; {
		page, err := t.cfg.Store.Load(ctx, lease, t.inHand(), loadEvents)
		if err != nil {
			if ctx.Err() != nil {
				return nil // stopped; whoever stopped it knows why
			}
			return err
		}
		first := firstIDs(page.Events)
		if ready := t.opened(page.Events); len(ready) > 0 {
			select {
			case events <- ready:
			case <-ctx.Done():
				return nil
			}
		}
		if len(page.Events) > 0 {
			lastCame = time.Now()
			seen = t.raise(lease.LowID, seen, page, first)
		}
		if !page.More {
			if time.Since(lastCame) >= stay {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(t.cfg.PollEvery):
			}
		}
		if time.Now().After(until) || !t.roomForMore(ctx) {
			return nil
		}
	}
}

// mark is how far the lanes had been read, and in which snapshot.
type mark struct {
	next map[int16]int64
	xmax int64
	at   time.Time
}

// raise moves the place from which pages are read behind what is settled, because
// while a snapshot is held open somewhere, what is settled is read again each
// time. It does so once every transaction that was open at the mark has ended, and
// a page has been read since: then nothing comes below the mark any more but what
// that page begins with. (The second that it waits is for a transaction that had
// drawn an id and did not show in the snapshot yet.)
func (t *attempt) raise(low map[int16]int64, seen mark, page relay.Page, first map[int16]int64) mark {
	if seen.next != nil {
		if time.Since(seen.at) < markAge || page.Xmin < seen.xmax {
			return seen
		}
		for lane, next := range seen.next {
			switch id, ok := first[lane]; {
			case ok:
				low[lane] = min(next, id)
			case !page.More:
				low[lane] = next
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return mark{next: maps.Clone(t.next), xmax: page.Xmax, at: time.Now()}
}

// firstIDs are the lowest ids in each lane of a page.
func firstIDs(events []relay.Event) map[int16]int64 {
	first := make(map[int16]int64)
	for _, e := range events {
		if id, ok := first[e.Lane]; !ok || e.ID < id {
			first[e.Lane] = e.ID
		}
	}
	return first
}

// inHand is what is loaded and not settled.
func (t *attempt) inHand() []relay.Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.open))
}

// opened notes what was loaded, and returns what can be sent of it.
func (t *attempt) opened(loaded []relay.Event) []relay.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded += len(loaded)
	for _, e := range loaded {
		t.open[e.Ref] = len(e.Payload)
		t.openBytes += len(e.Payload)
		t.next[e.Lane] = max(t.next[e.Lane], e.ID+1)
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
// nothing to load for: something was refused, or ctx ended.
func (t *attempt) roomForMore(ctx context.Context) bool {
	for {
		t.mu.Lock()
		room := len(t.open) <= relay.PageEvents-loadEvents && t.openBytes <= relay.PageBytes/2
		refused := t.first != nil
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
		if !last && t.moreComes() {
			// A few more for the same commit, unless nothing else is under way.
			select {
			case <-sent:
				last = true
			case <-time.After(settleEvery):
			}
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
		t.openBytes -= t.open[ref]
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

func (t *attempt) lanes() []int16 { return slices.Sorted(maps.Keys(t.lease.LowID)) }
