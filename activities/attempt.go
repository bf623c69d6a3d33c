package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	heartbeatEvery = time.Second
	// A lease is renewed this often in its length, so that two renewals may fail.
	renewalsPerLease = 4
	// leaseMargin is how long before the end of its lease an attempt falls silent:
	// a request under way then is over when somebody else may claim the lanes.
	leaseMargin = 5 * time.Second
	// settlePatience is how long an attempt tries to settle before it fails and
	// hands the acknowledgements to the next one.
	settlePatience = 5 * time.Second
	// loadEvents is how much is loaded at once: half a page, so that one half is
	// sent while the other is loaded and both together stay a page.
	loadEvents = relay.PageEvents / 2
	// markAge is the least age at which a mark may be used.
	markAge = time.Second
	// sendGrace is how much longer than it loads a batch sends.
	sendGrace = time.Second
	// Acknowledgements are settled when there are so many of them, or after so
	// long: each settlement is a commit that waits for the disk.
	settleEvents = 100
	settleEvery  = 5 * time.Millisecond
)

// attempt is one attempt of PublishBatch. Four things go on at once: loading,
// sending, settling, and keeping the lease and the heartbeat.
type attempt struct {
	cfg   Config
	lease relay.Lease

	// stop ends the sending of anything new; what is under way is waited for.
	stop context.CancelCauseFunc

	mu        sync.Mutex
	leaseEnd  time.Time
	next      map[int16]int64     // behind what was loaded, by lane
	open      map[relay.Ref]int   // loaded and not settled, with the payload's bytes
	openBytes int                 // the sum of those
	acked     []relay.Ref         // acknowledged, to be settled
	settling  []relay.Ref         // being settled now
	first     *relay.PublishError // the first refusal
	loaded    int
	published int

	// Each holds a token when there is news.
	changed chan struct{} // acked or refused has grown
	settled chan struct{} // open has shrunk, or something was refused
}

func newAttempt(cfg Config, l relay.Lease, leaseFrom time.Time, published int) *attempt {
	return &attempt{
		cfg: cfg, lease: l, leaseEnd: leaseFrom.Add(cfg.Lease), published: published,
		next: maps.Clone(l.LowID), open: make(map[relay.Ref]int),
		changed: make(chan struct{}, 1), settled: make(chan struct{}, 1),
	}
}

// run publishes until the lanes are empty, the time is over, something was
// refused, or it is stopped, and leaves nothing leased but the lanes of what was
// refused.
func (t *attempt) run(ctx context.Context, concurrency int, until time.Time, stay time.Duration) (requests int, err error) {
	sendCtx, stop := context.WithCancelCause(ctx)
	t.stop = stop
	defer stop(nil)
	// What is loaded by then gets a little longer, but a key that is sent one event
	// at a time must not keep the other lanes for long.
	defer time.AfterFunc(time.Until(until)+sendGrace, func() { stop(relay.ErrStopped) }).Stop()
	// Settling and releasing go on when the activity is cancelled or the worker
	// stops: they are what makes the end clean.
	cleanCtx := context.WithoutCancel(ctx)

	events := make(chan []relay.Event)
	var background, settler sync.WaitGroup
	keepCtx, keepEnd := context.WithCancel(ctx)
	background.Go(func() { t.keep(ctx, keepCtx) })
	var loadErr error
	background.Go(func() { loadErr = t.feed(sendCtx, events, until, stay) })
	sent := make(chan struct{})
	var settleErr error
	settler.Go(func() { settleErr = t.settle(cleanCtx, sent) })

	published, publishErr := t.cfg.Publisher.Publish(sendCtx, relay.PublishRequest{
		Topic: t.lease.Topic, Concurrency: concurrency, Events: events,
		Deadline: t.deadline, Report: t.report,
	})
	cause := context.Cause(sendCtx)
	close(sent)
	settler.Wait()
	stop(nil)
	keepEnd()
	background.Wait()

	switch {
	case errors.Is(cause, relay.ErrClaimLost):
		// Some lanes may still be ours, and nobody else would free them.
		return published.Requests, cmp.Or(t.release(cleanCtx, nil), cause)
	case settleErr != nil, loadErr != nil:
		// The database is away. The claim is kept for the next attempt.
		return published.Requests, cmp.Or(settleErr, loadErr)
	case publishErr != nil && !errors.Is(publishErr, relay.ErrStopped):
		return published.Requests, publishErr
	}
	return published.Requests, t.finish(cleanCtx, ctx.Err() == nil)
}

// deadline is when this attempt must have fallen silent.
func (t *attempt) deadline() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leaseEnd.Add(-leaseMargin)
}

// report takes the answer to one request.
func (t *attempt) report(outcomes []relay.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range outcomes {
		if o.Err == nil {
			t.published++
			t.acked = append(t.acked, o.Ref)
			continue
		}
		t.refuse(o.Err)
		if o.Err.Whole {
			t.stop(relay.ErrStopped) // the rest would fare no better
		}
	}
	signal(t.changed)
}

// refuse notes a refusal. t.mu is held.
func (t *attempt) refuse(err *relay.PublishError) {
	if t.first == nil {
		t.first = err
	}
	signal(t.settled)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (t *attempt) checkpoint() checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := checkpoint{Published: t.published}
	c.Unsettled = append(c.Unsettled, t.settling...)
	c.Unsettled = append(c.Unsettled, t.acked...)
	return c
}

// finish gives back every lane in which nothing is left open. If something was
// refused and there will be a next attempt, it keeps the others for that one and
// returns the refusal.
func (t *attempt) finish(ctx context.Context, again bool) error {
	t.mu.Lock()
	refused, open, loaded := t.first, len(t.open), t.loaded
	var keep []int16
	if refused != nil && again {
		left := make(map[int16]bool)
		for ref := range t.open {
			left[ref.Lane] = true
		}
		keep = slices.Sorted(maps.Keys(left))
	}
	t.mu.Unlock()
	if err := t.release(ctx, keep); err != nil {
		return err
	}
	if refused == nil || !again {
		return nil
	}
	if err := t.cfg.Store.Renew(ctx, t.lease, keep); err != nil {
		return err
	}
	return fmt.Errorf("%s: %d of %d left: %w", t.lease.Topic, open, loaded, refused)
}

// release frees all lanes that are still this attempt's, but for some.
func (t *attempt) release(ctx context.Context, keep []int16) error {
	t.mu.Lock()
	next := maps.Clone(t.next)
	for ref := range t.open {
		next[ref.Lane] = min(next[ref.Lane], ref.ID)
	}
	t.mu.Unlock()
	for _, lane := range keep {
		delete(next, lane)
	}
	return t.cfg.Store.Release(ctx, t.lease, next)
}
