package activities

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	heartbeatEvery = timing.HeartbeatEvery
	// loadEvents is how much is loaded at once: half a page, so that one half is
	// sent while the other is loaded and both together stay a page.
	loadEvents = relay.PageEvents / 2
	// Acknowledgements are settled when there are so many of them, or after so
	// long, unless nothing else is under way: each settlement is a commit that waits
	// for the disk, and nothing waits for it but the next page.
	settleEvents = loadEvents / 2
	settleEvery  = 50 * time.Millisecond
)

// attempt is one attempt of PublishBatch. Four things go on at once: loading,
// sending, settling, and keeping the lease and the heartbeat.
type attempt struct {
	PublishRequest
	cfg      Config
	store    PublishStore
	policy   TopicPolicy
	pace     func(n int) time.Duration
	doubts   *doubts
	ledger   *ledger
	receipts *receipts
	lease    relay.Lease
	// workflowID goes into dead letters, so that it is known who saw them.
	workflowID string
	// number is that of the attempt, from 1, as Temporal counts for its backoff.
	number int32
	// last is what the attempt before left.
	last checkpoint

	flight *inFlight
	tenure *tenure

	// stop ends the sending of anything new; what is under way is waited for.
	stop context.CancelCauseFunc

	probing probing
	stopped bool // before everything was sent
}

func (a *Activities) newAttempt(r PublishRequest, l relay.Lease, leaseFrom timing.Reading, last checkpoint) *attempt {
	l.UpTo = relay.Bound{ID: r.ParkUpTo, At: r.ParkBefore}
	t := &attempt{
		PublishRequest: r, cfg: a.cfg, store: a.batches, policy: a.cfg.policy(r.Batch.Topic), pace: a.pace(r.Batch.Topic), doubts: &a.doubts, ledger: a.ledger, receipts: a.receipts,
		lease: l, last: last, flight: newInFlight(), tenure: newTenure(a.clock, a.cfg.Lease, leaseFrom),
	}
	t.flight.begin(l, last)
	return t
}

// run publishes until the lanes are empty, the time is over, something was
// refused, or it is stopped, and leaves nothing leased but the lanes of what was
// refused.
func (t *attempt) run(ctx context.Context, until time.Time) (requests int, err error) {
	sendCtx, stop := context.WithCancelCause(ctx)
	t.stop = stop
	defer stop(nil)
	// What is loaded by then gets a little longer, but a key that is sent one event
	// at a time must not keep the other lanes for long.
	pageCtx, timeOver := context.WithCancelCause(sendCtx)
	defer timeOver(nil)
	defer time.AfterFunc(time.Until(until)+timing.SendGrace, func() { timeOver(relay.ErrStopped) }).Stop()
	// Settling and releasing go on when the activity is cancelled or the worker
	// stops: they are what makes the end clean.
	cleanCtx := context.WithoutCancel(ctx)

	events := make(chan []relay.Event)
	var keeper, loader, settler sync.WaitGroup
	keepCtx, keepEnd := context.WithCancel(ctx)
	keeper.Go(func() { t.keep(ctx, keepCtx) })
	defer func() { // it heartbeats until everything is given back
		keepEnd()
		keeper.Wait()
	}()
	var loadErr error
	var early bool // it ended before it could load
	loader.Go(func() {
		if early = !t.othersHaveSettled(pageCtx); early {
			close(events)
			return
		}
		loadErr = t.feed(pageCtx, events, until, t.Stay)
	})
	sent := make(chan struct{})
	noMore := sync.OnceFunc(func() { close(sent) })
	var settleErr error
	settler.Go(func() { settleErr = t.settle(cleanCtx, sent) })
	defer func() { // also when it panics
		noMore()
		settler.Wait()
		t.handOver(ctx)
	}()

	published, publishErr := t.publish(pageCtx, events)
	cause := context.Cause(pageCtx)
	if sendCtx.Err() == nil {
		published.Requests += t.probe(sendCtx)
		cause = cmp.Or(context.Cause(sendCtx), cause)
	}
	t.stopped = cause != nil || errors.Is(publishErr, relay.ErrStopped)
	noMore()
	settler.Wait()
	stop(nil)
	loader.Wait()

	var unroutable *relay.PublishError
	if errors.As(publishErr, &unroutable) {
		t.flight.unroutable(t.lease.Topic, unroutable)
	}
	switch {
	case settleErr != nil:
		// The database is away. The claim is kept for the next attempt, and lanes with
		// acknowledgements that are not settled are never given back.
		return published.Requests, settleErr
	case errors.Is(cause, relay.ErrClaimLost):
		// Some lanes may still be ours, and nobody else would free them.
		return published.Requests, cmp.Or(t.release(cleanCtx, nil), cause)
	case loadErr != nil:
		return published.Requests, loadErr
	case early:
		// The next claim waits anew, because this attempt is not the lanes' last in order.
		return published.Requests, t.store.ReleaseClaim(cleanCtx, t.Batch)
	case publishErr != nil && !errors.Is(publishErr, relay.ErrStopped):
		return published.Requests, publishErr
	}
	return published.Requests, t.finish(cleanCtx, ctx.Err() == nil)
}

func (t *attempt) publish(ctx context.Context, events <-chan []relay.Event) (relay.PublishResult, error) {
	return t.cfg.Publisher.Publish(ctx, relay.PublishRequest{
		Topic: t.lease.Topic, Concurrency: t.concurrency(), Events: events,
		Deadline: t.tenure.deadline, Report: t.report, Pace: t.pace, Isolate: t.Park,
		Answered: func(a relay.Answer) { t.cfg.Metrics.Answered(t.lease.Topic, a) },
	})
}

// report takes the answer to one request.
func (t *attempt) report(outcomes []relay.Outcome) {
	latencies := t.flight.answered(t.lease.Topic, outcomes)
	ends := func(o relay.Outcome) bool { return o.Err != nil && endsSending(o.Err) }
	if !t.Park && slices.ContainsFunc(outcomes, ends) {
		t.stop(relay.ErrStopped) // the rest would fare no better
	}
	if t.policy.Receipts > 0 {
		t.receipts.add(t.lease.Topic, outcomes)
	}
	t.cfg.Metrics.Reported(t.lease.Topic, outcomes, latencies)
}
