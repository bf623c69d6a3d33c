package activities

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	// fruitlessLimit is after how many attempts in a row in which nothing got
	// through a topic is left to its recovery.
	fruitlessLimit = 3
	// fruitlessEvents is how many events, each refused by itself, say that it is not
	// the events. Fewer are retried, and given up in the end, alone.
	fruitlessEvents = 3
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

// finish makes dead letters of what will never be accepted and gives back every
// lane in which nothing is left open. If something else was refused and there
// will be a next attempt, it keeps the other lanes for that one and returns the
// refusal.
func (t *attempt) finish(ctx context.Context, again bool) error {
	t.mu.Lock()
	refused, accepted := t.refused, t.accepted
	t.mu.Unlock()
	if t.Park {
		if err := t.bury(ctx, slices.Concat(refused.poison, refused.doubtful, refused.alone, refused.others)); err != nil {
			return err
		}
		return t.release(ctx, nil)
	}
	if !t.doubts.believe(t.lease.Topic, len(refused.doubtful), accepted) {
		first := *refused.doubtful[0].Err
		first.Class, first.Message = relay.ClassDestination, "every event is refused alike, so it is not the events: "+first.Message
		refused.whole, refused.doubtful = &first, nil
	}
	dead := slices.Concat(refused.poison, refused.doubtful)
	given, err := t.giveUp(ctx, refused.alone)
	if err != nil {
		return err
	}
	dead = append(dead, given...)
	if err := t.bury(ctx, dead); err != nil {
		return err
	}
	if refused.whole == nil && len(refused.alone) > len(given) {
		refused.whole = refused.alone[0].Err
	}
	switch {
	case t.Recovering:
		return t.recovered(ctx, refused, accepted+len(dead) == 0, again)
	case refused.whole == nil, !again:
		return t.release(ctx, nil)
	}
	return t.fail(ctx, refused, accepted+len(dead) == 0)
}

// recovered is finish for a recovery: its batch got through if any event did,
// because the rest can then be left to the relay, which deals with what fails
// alone. An attempt that was ended before it could tell keeps everything for the
// next one.
func (t *attempt) recovered(ctx context.Context, refused refusals, fruitless, again bool) error {
	t.mu.Lock()
	untold := refused.whole == nil && fruitless && t.stopped
	t.mu.Unlock()
	switch {
	case !again && (fruitless || refused.whole != nil):
		return context.Canceled // whoever cancels a recovery says what becomes of its batch
	case untold:
		return fmt.Errorf("%s: %w before anything was sent", t.lease.Topic, relay.ErrStopped)
	case refused.whole == nil, !fruitless && !needsSomebody(refused.whole):
		return t.release(ctx, nil)
	}
	return t.fail(ctx, refused, fruitless)
}

// giveUp remembers what was refused alone and returns what has been for too long.
// Recovery gives nothing up by itself.
func (t *attempt) giveUp(ctx context.Context, alone []relay.Outcome) (dead []relay.Outcome, err error) {
	if t.Recovering {
		return nil, nil
	}
	known, err := t.cfg.Store.Refuse(ctx, t.lease.Topic, alone)
	if err != nil {
		return nil, err
	}
	late := make(map[relay.Ref]bool)
	for _, k := range known {
		late[k.Ref] = k.For > t.policy.GiveUpAfter
	}
	for _, o := range alone {
		if late[o.Ref] {
			dead = append(dead, o)
		}
	}
	return dead, nil
}

// bury moves events to the dead letters.
func (t *attempt) bury(ctx context.Context, dead []relay.Outcome) error {
	if err := t.cfg.Store.DeadLetter(ctx, t.lease, t.workflowID, dead); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range dead {
		t.openBytes -= t.open[o.Ref]
		delete(t.open, o.Ref)
	}
	t.last.Dead += len(dead)
	return nil
}

// fail says why events are left, and keeps their lanes for the next attempt. If
// there is none in this activity, it first keeps claims away from the topic, for
// as long as it takes its recovery to begin.
func (t *attempt) fail(ctx context.Context, refused refusals, fruitless bool) error {
	t.mu.Lock()
	r := &refusal{PublishError: refused.whole}
	r.text = fmt.Sprintf("%s: %d of %d left: %s", t.lease.Topic, len(t.open), t.loaded, refused.whole.Error())
	lanes := make(map[int16]bool)
	for ref := range t.open {
		lanes[ref.Lane] = true
	}
	keep := slices.Sorted(maps.Keys(lanes))
	if fruitless && (refused.whole.Whole || refused.throttle != nil || len(refused.alone) >= fruitlessEvents) {
		t.last.Fruitless++
	} else {
		t.last.Fruitless = 0
	}
	if refused.throttle != nil {
		t.last.Throttled++
		pause := min(throttlePauseMax, throttlePause<<min(t.last.Throttled-1, 8))
		r.pause = pause/2 + rand.N(pause/2)
	}
	r.final = !t.Recovering && (needsSomebody(refused.whole) || t.last.Fruitless >= fruitlessLimit)
	t.mu.Unlock()
	if r.final {
		if err := t.cfg.Store.PauseTopic(ctx, t.lease.Topic, t.RecoveryID, t.cfg.RecoveryPause); err != nil {
			return err
		}
	}
	if err := t.release(ctx, keep); err != nil {
		return err
	}
	if err := t.cfg.Store.Renew(ctx, t.lease, keep); err != nil {
		return err
	}
	return r
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

// concurrency is how many requests may be under way: half as many after every
// attempt that was throttled.
func (t *attempt) concurrency() int {
	return max(1, t.Concurrency>>min(t.last.Throttled, 8))
}

func (t *attempt) checkpoint() checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.last
	c.Published, c.Unsettled = t.published, nil
	c.Unsettled = append(c.Unsettled, t.settling...)
	c.Unsettled = append(c.Unsettled, t.acked...)
	return c
}
