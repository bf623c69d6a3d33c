package activities

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// fruitlessLimit is after how many attempts in a row in which nothing got
	// through a topic is left to its recovery.
	fruitlessLimit = 3
	// fruitlessEvents is how many events, each refused by itself and nothing
	// accepted, say that it is not the events: a request's worth. Fewer are retried
	// alone, and given up in the end.
	fruitlessEvents = 10
	// Throttling is answered with a pause of between half of it and all of it.
	throttlePause    = 2 * time.Second
	throttlePauseMax = 30 * time.Second
)

// refusal is why an attempt failed.
type refusal struct {
	*relay.PublishError
	text string
	// final means that Temporal's retry of this activity is over: somebody has to
	// do something, or it is time for the topic's recovery.
	final bool
	// pause replaces the usual backoff.
	pause time.Duration
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.PublishError }

// fail says why events are left, and keeps their lanes for the next attempt. If
// there is none in this activity, it first keeps claims away from the topic, for
// as long as it takes its recovery to begin.
func (t *attempt) fail(ctx context.Context, refused refusals, left *relay.PublishError, fruitless bool) error {
	s := t.flight.state(t.lease.Topic)
	next := s.noted
	r := &refusal{PublishError: left}
	r.text = fmt.Sprintf("%s: %d of %d left: %s", t.goesTo(), len(s.inHand), s.loaded, left.Error())
	lanes := make(map[int16]bool)
	for _, ref := range s.inHand {
		lanes[ref.Lane] = true
	}
	// Refusals of single events speak against their destination only if there are
	// many of them and never anything else.
	if fruitless && (refused.whole != nil || len(refused.alone) >= fruitlessEvents && s.through == 0) {
		next.Fruitless++
	} else {
		next.Fruitless = 0
	}
	if refused.throttle != nil {
		next.Throttled++
		pause := min(throttlePauseMax, throttlePause<<min(next.Throttled-1, 8))
		r.pause = pause/2 + rand.N(pause/2)
	}
	if t.Recovering && left.Code == relay.CodeNoRoute {
		// Only another worker can have the route, and may have it at any time.
		r.pause = min(timing.RouteRetryMost, timing.RecoveryFirst<<min(max(0, next.Fruitless-1), 8))
	}
	broken := refused.whole != nil && needsSomebody(refused.whole)
	r.final = !t.Recovering && (broken || next.Fruitless >= fruitlessLimit)
	t.flight.note(t.lease.Topic, func(c *checkpoint) { c.Fruitless, c.Throttled = next.Fruitless, next.Throttled })
	if r.final {
		// The recovery tries all that this attempt had, so that it has more than one
		// event to tell by.
		for lane := range t.lease.LowID {
			lanes[lane] = true
		}
		if err := t.store.PauseTopic(ctx, t.lease.Topic, t.RecoveryID, t.cfg.HandoverPause); err != nil {
			return err
		}
	}
	keep := slices.Sorted(maps.Keys(lanes))
	if err := t.release(ctx, keep); err != nil {
		return err
	}
	if err := t.store.Keep(ctx, t.lease, keep); err != nil {
		return err
	}
	t.note(ctx, r)
	return r
}

// note keeps with the topic why it waits for its destination, so that people need not look
// for the recovery. Nothing depends on it, so that an attempt ends alike if it cannot.
func (t *attempt) note(ctx context.Context, r *refusal) {
	if !t.Recovering && !r.final {
		return
	}
	next := time.Duration(0) // the recovery begins now
	if t.Recovering {
		next = cmp.Or(r.pause, backoff(t.number, timing.RecoveryFirst, timing.RecoveryMost))
	}
	f := relay.Failure{Code: r.Code, Message: printable.Cut(r.Message, relay.FailureText+len("…")), Destination: t.cfg.Publisher.Destination(t.lease.Topic)}
	if err := t.store.NoteFailure(ctx, t.lease.Topic, t.RecoveryID, f, next); err != nil {
		activity.GetLogger(ctx).Warn("the reason is not kept with the topic", "topic", t.lease.Topic, "error", err)
	}
}

// goesTo names the topic and its destination: "orders → SNS topic orders-events".
func (t *attempt) goesTo() string {
	if destination := t.cfg.Publisher.Destination(t.lease.Topic); destination != "" {
		return t.lease.Topic + " → " + destination
	}
	return t.lease.Topic
}

// release frees all lanes that are still this attempt's, but for some.
func (t *attempt) release(ctx context.Context, keep []int16) error {
	read := t.flight.lowWatermarks(t.lease.Topic)
	for _, lane := range keep {
		delete(read.Next, lane)
	}
	return t.store.Release(ctx, t.lease, read)
}

// concurrency is how many requests may be under way: half as many after every
// attempt that was throttled.
func (t *attempt) concurrency() int {
	return max(1, t.Concurrency>>min(t.last.Throttled, 8))
}
