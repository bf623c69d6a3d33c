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

// attempt is one attempt of PublishBatch. It sends the events of its lanes, decides about the
// refused ones, and carries the decision out. Four loops work at the same time: the loader, the
// publisher, the settler and the heartbeat. They share the events in flight. Each loop can stop the
// sending of further events, but the attempt waits for each request in flight.
type attempt struct {
	request   PublishRequest
	mode      mode
	topic     string
	cfg       Config
	policy    TopicPolicy
	store     PublishStore
	pace      func(n int) time.Duration
	ledger    *ledger
	receipts  *receipts
	ambiguous *ambiguity
	lease     relay.Lease
	flight    *inFlight
	tenure    *tenure
	// workflowID goes into dead letters, as the workflow that saw the refusal.
	workflowID string
	// number is that of the attempt, from 1, as Temporal counts for its backoff.
	number int32
	// last is the checkpoint of the attempt before.
	last checkpoint
	// probes are the result of the probing behind the first page of a recovery.
	probes probes
	// belief has the ambiguous refusals that the attempt believes.
	belief belief
}

func (a *Activities) newAttempt(r PublishRequest, l relay.Lease, leaseFrom timing.Reading, last checkpoint) *attempt {
	topic := r.Batch.Topic
	l.UpTo = relay.Bound{ID: r.ParkUpTo, At: r.ParkBefore}
	t := &attempt{
		request: r, mode: r.mode(), topic: topic, cfg: a.cfg, policy: a.cfg.policy(topic), store: a.batches,
		pace: a.pace(topic), ledger: a.ledger, receipts: a.receipts, ambiguous: &a.ambiguous,
		lease: l, flight: newInFlight(a.budget), tenure: newTenure(a.clock, a.cfg.Lease, leaseFrom), last: last,
	}
	t.flight.begin(l, last, a.cfg.Publisher.Ordered(topic))
	return t
}

// run publishes until the lanes are empty, the time is over, an event was refused, or the attempt
// is stopped. Then it releases all lanes except those that the next attempt needs.
func (t *attempt) run(ctx context.Context, until time.Time) (requests int, err error) {
	// If the activity is cancelled or the worker stops, the attempt still settles and releases.
	detached := context.WithoutCancel(ctx)
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer t.flight.forget()
	defer t.beat(ctx, stop)() // until all lanes are released or kept

	sent := t.send(sending, detached, stop, until)
	t.flight.forget() // before the database is asked, which may be away
	if ctx.Err() != nil {
		sent.ending = cancelled
	}

	f := t.facts()
	f.ending, f.fault = sent.ending, sent.fault
	if err := t.recordRefusals(detached, &f); err != nil {
		return sent.requests, err
	}
	return sent.requests, t.carryOut(detached, decide(f))
}

// beat starts the heartbeat, and returns a function that ends it.
func (t *attempt) beat(ctx context.Context, stop context.CancelCauseFunc) (end func()) {
	h := heartbeat{store: t.store, lease: t.lease, flight: t.flight, tenure: t.tenure, stop: stop}
	var beating sync.WaitGroup
	until, cancel := context.WithCancel(ctx)
	beating.Go(func() { h.run(ctx, until) })
	return func() {
		cancel()
		beating.Wait()
	}
}

// sending is how the sending of an attempt ended.
type sending struct {
	requests int
	ending   ending
	fault    fault
}

// send loads, sends and settles at the same time, until no event is left to send or ctx ends.
func (t *attempt) send(ctx, detached context.Context, stop context.CancelCauseFunc, until time.Time) (s sending) {
	// Loaded events get a little more time. But a key whose events are sent one by one must not keep
	// the other lanes for long.
	pageCtx, timeOver := context.WithCancelCause(ctx)
	defer timeOver(nil)
	defer time.AfterFunc(time.Until(until)+timing.SendGrace, func() { timeOver(relay.ErrStopped) }).Stop()

	loader, settler := t.newLoader(stop, until), settler{store: t.store, flight: t.flight, stop: stop}
	events, over := make(chan []relay.Event), make(chan struct{})
	var loading, settling sync.WaitGroup
	loading.Go(func() {
		defer close(events)
		if s.fault.early = !t.othersHaveSettled(pageCtx); !s.fault.early {
			s.fault.loading = loader.run(pageCtx, events)
		}
	})
	settling.Go(func() { s.fault.settling = settler.run(detached, over) })
	noMore := sync.OnceFunc(func() { close(over) })
	defer func() { // also when it panics
		noMore()
		settling.Wait()
		t.keepUnsettled(ctx)
	}()

	published, err := t.publish(pageCtx, stop, events)
	s.requests = published.Requests
	cause := context.Cause(pageCtx)
	if ctx.Err() == nil {
		if t.facts().isUndecided() {
			t.probes = t.newProber(stop).run(ctx)
			s.requests += t.probes.requests
		}
		cause = cmp.Or(context.Cause(ctx), cause)
	}
	noMore()
	settling.Wait()
	stop(nil)
	loading.Wait()

	if errors.Is(cause, relay.ErrClaimLost) {
		s.fault.claim = cause
	}
	s.ending = complete
	if cause != nil || err != nil {
		s.ending = stopped
	}
	var unroutable *relay.PublishError
	if errors.As(err, &unroutable) {
		t.flight.unroutable(t.topic, unroutable)
	}
	if !errors.Is(err, relay.ErrStopped) {
		s.fault.publishing = err
	}
	return s
}

// othersHaveSettled waits until the worker of the lanes' last attempt has had time to settle, if
// that attempt has not released the lanes. The database answers that worker as well as this one.
// othersHaveSettled reports false if ctx ends before.
func (t *attempt) othersHaveSettled(ctx context.Context) bool {
	if !t.mustWait() {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(timing.SettleGrace):
	}
	t.flight.note(t.topic, func(c *checkpoint) { c.Waited = true })
	return true
}

// mustWait reports whether another worker may have something to settle in the batch's
// lanes. A recovery's batch has been loaded by the relay before.
func (t *attempt) mustWait() bool {
	return t.request.Batch.Settling && t.mode == relaying && !t.last.Waited
}

// publish sends events until the channel is closed.
func (t *attempt) publish(ctx context.Context, stop context.CancelCauseFunc, events <-chan []relay.Event) (relay.PublishResult, error) {
	return t.cfg.Publisher.Publish(ctx, relay.PublishRequest{
		Topic: t.topic, Concurrency: t.request.concurrency(t.last.Throttled), Events: events,
		Deadline: t.tenure.deadline, Pace: t.pace, Isolate: t.mode == parking,
		Report:   func(outcomes []relay.Outcome) { t.report(stop, outcomes) },
		Answered: func(a relay.Answer) { t.cfg.Metrics.Answered(t.topic, a) },
	})
}

// report takes the answer to one request. It tells inFlight last: from then on, the settler may
// settle the events, and their receipts and metrics must come before.
func (t *attempt) report(stop context.CancelCauseFunc, outcomes []relay.Outcome) {
	// Also if a receipt or a metric panics: the destination has accepted the events.
	defer func() {
		t.flight.answered(t.topic, outcomes)
		ends := func(o relay.Outcome) bool { return o.Err != nil && endsSending(o.Err) }
		if t.mode != parking && slices.ContainsFunc(outcomes, ends) {
			stop(relay.ErrStopped) // the destination would refuse the others, too
		}
	}()
	if t.policy.Receipts > 0 {
		t.receipts.add(t.topic, outcomes)
	}
	t.cfg.Metrics.Reported(t.topic, outcomes, t.flight.latencies(t.topic, outcomes))
}

// keepUnsettled gives the acknowledgements that this attempt has not settled to the ledger. The
// heartbeat has them too, because the next attempt may begin on another worker, or this worker
// may die.
func (t *attempt) keepUnsettled(ctx context.Context) {
	left := t.flight.checkpoint(t.topic).Unsettled
	if len(left) == 0 {
		return
	}
	t.ledger.add(t.topic, left)
	activity.GetLogger(ctx).Warn("acknowledged events could not be settled; the worker keeps them and settles them when the database answers",
		"topic", t.topic, "events", len(left))
}

// facts returns the facts that the attempt itself knows now.
func (t *attempt) facts() facts {
	return facts{
		topic: t.topic, destination: t.cfg.Publisher.Destination(t.topic), ordered: t.cfg.Publisher.Ordered(t.topic),
		mode: t.mode, state: t.flight.state(t.topic), probes: t.probes, number: t.number, now: time.Now(), jitter: rand.Float64(),
		expireAfter: t.policy.GiveUpAfter, ambiguousTo: t.last.AmbiguousTo, parkUpTo: t.request.ParkUpTo,
	}
}

// recordRefusals records which events were refused alone, and adds to the facts for how long each
// has been refused and how other attempts of this worker fared.
func (t *attempt) recordRefusals(ctx context.Context, f *facts) error {
	if f.fault.any() || f.mode == parking {
		return nil
	}
	if f.accepted > 0 {
		t.ambiguous.noteAccepted(f.topic, f.sent)
	}
	f.believed, f.othersGotThrough = t.ambiguous.of(f.topic, f.refused.ambiguous, f.expireAfter)
	v := f.judge()
	if !t.ambiguous.believe(f.topic, &t.belief, v.believed) {
		f.believed = ambiguousLimit // by another batch, meanwhile
		v = f.judge()
	}
	// The next attempt has to know this, even if the database fails from here on.
	t.flight.note(f.topic, func(c *checkpoint) {
		c.ProvedAt, c.GivenUp = v.provedAt, v.givenUp
		c.noteOnceMore(v, proves(f.noted.ProvedAt, f.now))
	})
	known, err := t.store.Refuse(ctx, f.topic, f.toRecord(v))
	f.refusedFor = make(map[relay.Ref]time.Duration, len(known))
	for _, k := range known {
		f.refusedFor[k.Ref] = k.For
	}
	if err != nil {
		t.ambiguous.disbelieve(&t.belief)
	}
	return err
}

// carryOut carries a decision out, up to the first error.
func (t *attempt) carryOut(ctx context.Context, d decision) error {
	if len(d.deadLetters) > 0 {
		if err := t.store.DeadLetter(ctx, t.lease, t.workflowID, d.deadLetters); err != nil {
			if errors.Is(err, relay.ErrClaimLost) { // after other errors, the dead letters may exist
				t.ambiguous.disbelieve(&t.belief)
			}
			return err
		}
		t.flight.deadLettered(t.topic, d.deadLetters)
		t.cfg.Metrics.DeadLettered(t.topic, d.deadLetters)
	}
	if len(d.giveBack) > 0 {
		if err := t.store.Release(ctx, t.lease, relay.Read{Next: t.flight.giveBack(t.topic)}); err != nil {
			return err
		}
	}
	t.flight.note(t.topic, func(c *checkpoint) { c.set(d.tally) })
	if d.isHandedOver {
		if err := t.store.HoldForRecovery(ctx, t.topic, t.request.RecoveryID, t.cfg.HandoverHold); err != nil {
			return err
		}
	}
	if len(d.release) > 0 {
		read := t.flight.lowWatermarks(t.topic)
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
		if err := t.store.ReleaseClaim(ctx, t.request.Batch); err != nil {
			return err
		}
	}
	if d.failure != nil {
		// Only people read it, so the attempt ends in the same way if the store cannot keep it.
		if err := t.store.NoteFailure(ctx, t.topic, t.request.RecoveryID, *d.failure, d.next); err != nil {
			activity.GetLogger(ctx).Warn("the reason is not kept with the topic", "topic", t.topic, "error", err)
		}
	}
	return d.err
}
