package activities

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// finish makes dead letters of what will never be accepted and gives back every
// lane in which nothing is left open. If something else was refused and there
// will be a next attempt, it keeps the other lanes for that one and returns the
// refusal.
func (t *attempt) finish(ctx context.Context, again bool) error {
	s := t.flight.state(t.lease.Topic)
	refused, accepted, stopped := s.refused, s.accepted, t.stopped
	if t.Park {
		if stopped && again && accepted == 0 && !refused.any() {
			return t.untold()
		}
		return t.parked(ctx, refused.all())
	}
	soon, proved := t.doubt(&refused, accepted)
	refused.weigh(accepted)
	given, err := t.giveUp(ctx, refused)
	if err != nil {
		return err
	}
	dead := slices.Concat(refused.poison, refused.doubtful, given)
	if err := t.bury(ctx, dead); err != nil {
		return err
	}
	if accepted == 0 && !proved {
		t.doubts.buried(t.lease.Topic, len(refused.doubtful))
	}
	if err := t.giveBack(ctx); err != nil {
		return err
	}
	left := refused.whole
	if left == nil && len(refused.alone) > len(given) {
		left = refused.alone[0].Err
	}
	switch {
	case again && refused.whole == nil && soon != nil:
		return t.goOn(ctx, soon)
	case t.Recovering:
		return t.recovered(ctx, refused, cmp.Or(left, soon), accepted == 0, stopped, again)
	}
	if left == nil || !again {
		return t.release(ctx, nil)
	}
	return t.fail(ctx, refused, left, accepted+len(dead) == 0)
}

// recovered is finish for a recovery: its batch got through if any event did, or if
// what is left fails alone, because that is for the relay to deal with. An attempt
// that was ended before it could tell keeps everything for the next one.
func (t *attempt) recovered(ctx context.Context, refused refusals, left *relay.PublishError, fruitless, stopped, again bool) error {
	untold := left == nil && fruitless && stopped
	allAlone := refused.whole == nil && len(refused.alone) < fruitlessEvents
	// Events behind the page got through lately, and this attempt has tried all others.
	othersDo := refused.whole == nil && t.probing.exhausted && time.Since(t.flight.state(t.lease.Topic).noted.ProvedAt) < provedFor
	switch {
	case !again && (fruitless || left != nil):
		if err := t.store.Keep(ctx, t.lease, t.flight.lanes(t.lease.Topic)); err != nil {
			return err
		}
		return context.Canceled // whoever cancels a recovery says what becomes of its batch
	case untold:
		return t.untold()
	case left == nil, allAlone || othersDo, !fruitless && !needsSomebody(left):
		return t.release(ctx, nil)
	}
	return t.fail(ctx, refused, left, fruitless)
}

// untold is the end of an attempt of a recovery that was stopped before it could
// tell whether the destination is back.
func (t *attempt) untold() error {
	return fmt.Errorf("%s: %w before anything was sent", t.goesTo(), relay.ErrStopped)
}

// giveUp remembers what was refused alone and returns what has been for too long,
// while others got through. When many are, and nothing else is accepted, it is not
// the events, and nothing is given up. In a recovery, only an accepted probe says that it
// is the events. An event that needs a new version of this program, or a repair, is not
// given up.
func (t *attempt) giveUp(ctx context.Context, refused refusals) (dead []relay.Outcome, err error) {
	together := refused.whole != nil || t.published() == 0 && len(refused.alone) >= fruitlessEvents
	if t.Recovering && t.probing.accepted == 0 || together {
		return nil, nil
	}
	known, err := t.store.Refuse(ctx, t.lease.Topic, refused.alone)
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
func (t *attempt) published() int { return t.flight.state(t.lease.Topic).through }

// bury moves events to the dead letters.
func (t *attempt) bury(ctx context.Context, dead []relay.Outcome) error {
	if err := t.store.DeadLetter(ctx, t.lease, t.workflowID, dead); err != nil {
		return err
	}
	t.flight.deadLettered(t.lease.Topic, dead)
	t.cfg.Metrics.DeadLettered(t.lease.Topic, dead)
	return nil
}
