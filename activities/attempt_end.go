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

// finish makes dead letters of what will never be accepted and gives back every
// lane in which nothing is left open. If something else was refused and there
// will be a next attempt, it keeps the other lanes for that one and returns the
// refusal.
func (t *attempt) finish(ctx context.Context, again bool) error {
	t.mu.Lock()
	refused, accepted, stopped := t.refused, t.accepted, t.stopped
	t.mu.Unlock()
	if t.Park {
		return t.parked(ctx, refused.all())
	}
	believed := t.doubts.believe(t.lease.Topic, len(refused.doubtful), accepted)
	if !believed {
		first := *refused.doubtful[0].Err
		first.Class, first.Message = relay.ClassDestination, "every event is refused alike, so it is not the events: "+first.Message
		refused.stop(&first)
		refused.doubtful = nil
	}
	refused.weigh(accepted)
	given, err := t.giveUp(ctx, refused)
	if err != nil {
		return err
	}
	dead := slices.Concat(refused.poison, refused.doubtful, given)
	if err := t.bury(ctx, dead); err != nil {
		return err
	}
	if accepted == 0 {
		t.doubts.buried(t.lease.Topic, len(refused.doubtful))
	}
	left := refused.whole
	if left == nil && len(refused.alone) > len(given) {
		left = refused.alone[0].Err
	}
	if t.Recovering {
		return t.recovered(ctx, refused, left, accepted == 0, stopped, again)
	}
	if left == nil || !again {
		return t.release(ctx, nil)
	}
	return t.fail(ctx, refused, left, accepted+len(dead) == 0)
}

// parked makes dead letters of everything that was refused. While there was
// something, it keeps its lanes for a next round, so that on an ordered destination
// nothing of theirs gets between.
func (t *attempt) parked(ctx context.Context, dead []relay.Outcome) error {
	if err := t.bury(ctx, dead); err != nil {
		return err
	}
	if len(dead) > 0 {
		return t.cfg.Store.Renew(ctx, t.lease, t.lanes())
	}
	return t.release(ctx, nil)
}

// recovered is finish for a recovery: its batch got through if any event did, or if
// what is left fails alone, because that is for the relay to deal with. An attempt
// that was ended before it could tell keeps everything for the next one.
func (t *attempt) recovered(ctx context.Context, refused refusals, left *relay.PublishError, fruitless, stopped, again bool) error {
	untold := left == nil && fruitless && stopped
	allAlone := refused.whole == nil && len(refused.alone) < fruitlessEvents
	switch {
	case !again && (fruitless || left != nil):
		return context.Canceled // whoever cancels a recovery says what becomes of its batch
	case untold:
		return fmt.Errorf("%s: %w before anything was sent", t.lease.Topic, relay.ErrStopped)
	case left == nil, allAlone, !fruitless && !needsSomebody(left):
		return t.release(ctx, nil)
	}
	return t.fail(ctx, refused, left, fruitless)
}

// giveUp remembers what was refused alone and returns what has been for too long,
// while others got through. When many are, and nothing else is accepted, it is not
// the events, and nothing is given up. Neither is what only a new version of this
// program, or a repair, can help.
func (t *attempt) giveUp(ctx context.Context, refused refusals) (dead []relay.Outcome, err error) {
	together := refused.whole != nil || t.published() == 0 && len(refused.alone) >= fruitlessEvents
	if t.Recovering || together {
		return nil, nil
	}
	known, err := t.cfg.Store.Refuse(ctx, t.lease.Topic, refused.alone)
	if err != nil || t.published() == 0 && !t.doubts.othersGotThrough(t.lease.Topic, t.policy.GiveUpAfter) {
		return nil, err
	}
	late := make(map[relay.Ref]bool)
	for _, k := range known {
		late[k.Ref] = k.For > t.policy.GiveUpAfter
	}
	for _, o := range refused.alone {
		if late[o.Ref] && !needsSomebody(o.Err) {
			dead = append(dead, o)
		}
	}
	return dead, nil
}

// published is how much got through, in all attempts.
func (t *attempt) published() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.through
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
func (t *attempt) fail(ctx context.Context, refused refusals, left *relay.PublishError, fruitless bool) error {
	t.mu.Lock()
	r := &refusal{PublishError: left}
	r.text = fmt.Sprintf("%s: %d of %d left: %s", t.lease.Topic, len(t.open), t.loaded, left.Error())
	lanes := make(map[int16]bool)
	for ref := range t.open {
		lanes[ref.Lane] = true
	}
	// Refusals of single events speak against their destination only if there are
	// many of them and never anything else.
	if fruitless && (refused.whole != nil || len(refused.alone) >= fruitlessEvents && t.through == 0) {
		t.last.Fruitless++
	} else {
		t.last.Fruitless = 0
	}
	if refused.throttle != nil {
		t.last.Throttled++
		pause := min(throttlePauseMax, throttlePause<<min(t.last.Throttled-1, 8))
		r.pause = pause/2 + rand.N(pause/2)
	}
	broken := refused.whole != nil && needsSomebody(refused.whole)
	r.final = !t.Recovering && (broken || t.last.Fruitless >= fruitlessLimit)
	t.mu.Unlock()
	if r.final {
		// The recovery tries all that this attempt had, so that it has more than one
		// event to tell by.
		for lane := range t.lease.LowID {
			lanes[lane] = true
		}
		if err := t.cfg.Store.PauseTopic(ctx, t.lease.Topic, t.RecoveryID, t.cfg.HandoverPause); err != nil {
			return err
		}
	}
	keep := slices.Sorted(maps.Keys(lanes))
	if err := t.release(ctx, keep); err != nil {
		return err
	}
	if err := t.cfg.Store.Keep(ctx, t.lease, keep); err != nil {
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
	c.Published, c.Unsettled = t.through, nil
	c.Unsettled = append(c.Unsettled, t.settling...)
	c.Unsettled = append(c.Unsettled, t.acked...)
	return c
}
