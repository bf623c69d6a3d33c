package activities

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

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
	mode      mode
	cfg       Config
	store     PublishStore
	policy    TopicPolicy
	pace      func(n int) time.Duration
	ambiguous *ambiguity
	ledger    *ledger
	receipts  *receipts
	lease     relay.Lease
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

	probed probe
}

func (a *Activities) newAttempt(r PublishRequest, l relay.Lease, leaseFrom timing.Reading, last checkpoint) *attempt {
	l.UpTo = relay.Bound{ID: r.ParkUpTo, At: r.ParkBefore}
	t := &attempt{
		PublishRequest: r, mode: r.mode(), cfg: a.cfg, store: a.batches, policy: a.cfg.policy(r.Batch.Topic), pace: a.pace(r.Batch.Topic), ambiguous: &a.ambiguous, ledger: a.ledger, receipts: a.receipts,
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
	noMore()
	settler.Wait()
	stop(nil)
	loader.Wait()

	var unroutable *relay.PublishError
	if errors.As(publishErr, &unroutable) {
		t.flight.unroutable(t.lease.Topic, unroutable)
	}
	f := t.facts()
	f.fault = fault{settling: settleErr, loading: loadErr, early: early}
	if errors.Is(cause, relay.ErrClaimLost) {
		f.fault.claim = cause
	}
	if publishErr != nil && !errors.Is(publishErr, relay.ErrStopped) {
		f.fault.publishing = publishErr
	}
	switch {
	case ctx.Err() != nil:
		f.ending = cancelled
	case cause != nil, publishErr != nil:
		f.ending = stopped
	}
	if err := t.remember(cleanCtx, &f); err != nil {
		return published.Requests, err
	}
	return published.Requests, t.carryOut(cleanCtx, decide(f))
}

func (t *attempt) publish(ctx context.Context, events <-chan []relay.Event) (relay.PublishResult, error) {
	return t.cfg.Publisher.Publish(ctx, relay.PublishRequest{
		Topic: t.lease.Topic, Concurrency: t.concurrency(), Events: events,
		Deadline: t.tenure.deadline, Report: t.report, Pace: t.pace, Isolate: t.mode == parking,
		Answered: func(a relay.Answer) { t.cfg.Metrics.Answered(t.lease.Topic, a) },
	})
}

// report takes the answer to one request.
func (t *attempt) report(outcomes []relay.Outcome) {
	latencies := t.flight.answered(t.lease.Topic, outcomes)
	ends := func(o relay.Outcome) bool { return o.Err != nil && endsSending(o.Err) }
	if t.mode != parking && slices.ContainsFunc(outcomes, ends) {
		t.stop(relay.ErrStopped) // the rest would fare no better
	}
	if t.policy.Receipts > 0 {
		t.receipts.add(t.lease.Topic, outcomes)
	}
	t.cfg.Metrics.Reported(t.lease.Topic, outcomes, latencies)
}

// facts are what the attempt knows now.
func (t *attempt) facts() facts {
	topic := t.lease.Topic
	return facts{
		topic: topic, destination: t.cfg.Publisher.Destination(topic), ordered: t.cfg.Publisher.Ordered(topic),
		mode: t.mode, state: t.flight.state(topic), probe: t.probed, number: t.number, now: time.Now(), jitter: rand.Float64(),
		expireAfter: t.policy.GiveUpAfter, ambiguousTo: t.last.AmbiguousTo, parkUpTo: t.ParkUpTo,
	}
}

// remember adds what is known from other attempts: it puts on record which events were refused
// alone, and finds out for how long each has been.
func (t *attempt) remember(ctx context.Context, f *facts) error {
	if f.fault.is() || f.mode == parking {
		return nil
	}
	if f.accepted > 0 {
		t.ambiguous.gotThrough(f.topic)
	}
	f.believed, f.othersGotThrough = t.ambiguous.of(f.topic, f.expireAfter)
	v := f.judge()
	// The next attempt is to know this, even if the database fails from here on.
	t.flight.note(f.topic, func(c *checkpoint) { c.ProvedAt, c.GivenUp = v.provedAt, v.givenUp })
	known, err := t.store.Refuse(ctx, f.topic, f.toRemember(v))
	f.refusedFor = make(map[relay.Ref]time.Duration, len(known))
	for _, k := range known {
		f.refusedFor[k.Ref] = k.For
	}
	return err
}

// carryOut carries a decision out, up to the first error.
func (t *attempt) carryOut(ctx context.Context, d decision) error {
	topic := t.lease.Topic
	if len(d.deadLetters) > 0 {
		if err := t.store.DeadLetter(ctx, t.lease, t.workflowID, d.deadLetters); err != nil {
			return err
		}
		t.flight.deadLettered(topic, d.deadLetters)
		t.cfg.Metrics.DeadLettered(topic, d.deadLetters)
		t.ambiguous.believe(topic, d.believed)
	}
	if len(d.giveBack) > 0 {
		if err := t.store.Release(ctx, t.lease, relay.Read{Next: t.flight.giveBack(topic)}); err != nil {
			return err
		}
	}
	t.flight.note(topic, func(c *checkpoint) {
		c.AttemptsWithoutSuccess, c.Throttled = d.noted.AttemptsWithoutSuccess, d.noted.Throttled
	})
	if d.isHandedOver {
		if err := t.store.PauseTopic(ctx, topic, t.RecoveryID, t.cfg.HandoverPause); err != nil {
			return err
		}
	}
	if len(d.release) > 0 {
		read := t.flight.lowWatermarks(topic)
		maps.DeleteFunc(read.Next, func(lane int16, _ int64) bool { return !slices.Contains(d.release, lane) })
		if err := t.store.Release(ctx, t.lease, read); err != nil {
			return err
		}
	}
	if len(d.keep) > 0 {
		if err := t.store.Keep(ctx, t.lease, d.keep); err != nil {
			return err
		}
	}
	if d.releaseClaim {
		if err := t.store.ReleaseClaim(ctx, t.Batch); err != nil {
			return err
		}
	}
	if d.failure != nil {
		// Nothing depends on it, so that the attempt ends alike if it cannot be kept.
		if err := t.store.NoteFailure(ctx, topic, t.RecoveryID, *d.failure, d.next); err != nil {
			activity.GetLogger(ctx).Warn("the reason is not kept with the topic", "topic", topic, "error", err)
		}
	}
	return d.err
}

// concurrency is how many requests may be under way: half as many after every
// attempt that was throttled.
func (t *attempt) concurrency() int {
	return max(1, t.Concurrency>>min(t.last.Throttled, 8))
}
