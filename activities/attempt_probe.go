package activities

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	// probeEvents is how many events a probe looks at, and newestEvents how many of
	// the newest. These are few, because each event that is accepted can speak for the
	// destination only once.
	probeEvents  = 100
	newestEvents = 10
	// probePages is how many probes one attempt makes at most: all but the last from
	// where the attempt before stopped, and the last of the newest events, which a
	// producer wrote after it was repaired.
	probePages = 5
	// probeFor is how long an attempt probes. It does not count towards the time of the
	// page, because a page of refusals may use that up.
	probeFor = 5 * time.Second
	// provedFor is how long an accepted probe speaks against the events that were
	// refused before it.
	provedFor = 2 * time.Minute
	// provedPause is the pause before the attempt that sends these once more, and
	// between two pages of dead letters.
	provedPause = 500 * time.Millisecond
)

// probing is what an attempt of a recovery has asked beyond its first page.
type probing struct {
	asked    int   // events
	accepted int   // of them
	failed   error // why it could not ask more
	// exhausted is true once the place has come to the end.
	exhausted bool
}

// isDoubtful reports whether everything that was sent was refused one by one, with codes
// that may be the events' fault or the destination's, or that ask for a retry: a page of
// such events cannot tell, and neither can any number of attempts with the same page.
func (t *attempt) isDoubtful() bool {
	s := t.flight.state(t.lease.Topic)
	return t.Recovering && !t.Park && s.accepted == 0 && s.refused.whole == nil && len(s.refused.broken) == 0 &&
		(len(s.refused.doubtful) > 0 || len(s.refused.alone) >= fruitlessEvents) && len(t.proved(s.noted, s.refused.doubtful)) == 0
}

// decides reports whether an accepted event decides something about refused ones. It does
// not about events that fail alone: the probes go on for the good ones among them.
func (t *attempt) decides() bool {
	refused := t.flight.state(t.lease.Topic).refused
	return len(refused.doubtful) > 0 || len(refused.alone) == 0 || refused.whole != nil || len(refused.broken) > 0
}

// proved returns the refusals that are believed because an attempt before was refused
// the same, and then got another event through.
func (t *attempt) proved(noted checkpoint, doubtful []relay.Outcome) (believed []relay.Outcome) {
	if time.Since(noted.ProvedAt) >= provedFor {
		return nil
	}
	for _, o := range doubtful {
		if o.ID <= t.last.DoubtedTo {
			believed = append(believed, o)
		}
	}
	return believed
}

// noteDoubted notes how far everything was refused.
func (t *attempt) noteDoubted() {
	refused := t.flight.state(t.lease.Topic).refused
	t.flight.note(t.lease.Topic, func(c *checkpoint) {
		for _, o := range refused.doubtful {
			c.DoubtedTo = max(c.DoubtedTo, o.ID)
			c.noteEvidence(o.Ref)
		}
	})
}

// noteEvidence keeps the event with the highest id that probing has come to.
func (c *checkpoint) noteEvidence(r relay.Ref) {
	if c.Evidence == nil || r.ID > c.Evidence.ID {
		c.Evidence = &r
	}
}

// forgetOtherHistory forgets how far an attempt before has probed if the database does not
// have the event that it came to: after a failover it gives these ids to other events, which
// nobody has refused.
func (a *Activities) forgetOtherHistory(ctx context.Context, c *checkpoint) error {
	if c.ProbedTo == 0 && c.DoubtedTo == 0 && c.GivenUp == 0 {
		return nil
	}
	if c.Evidence != nil {
		exists, err := a.batches.Exists(ctx, *c.Evidence)
		if err != nil || exists {
			return err
		}
	}
	c.ProbedTo, c.DoubtedTo, c.ProvedAt, c.GivenUp, c.Evidence = 0, 0, time.Time{}, 0, nil
	return nil
}

// probe sends events beyond a page that was refused, in small portions, until one is
// accepted, the time is over or enough was asked. It sends no event before an earlier
// one of its key where order counts. The next attempt probes on from the same place.
func (t *attempt) probe(ctx context.Context) (requests int) {
	if !t.isDoubtful() {
		return 0
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeFor, relay.ErrStopped)
	defer cancel()
	t.noteDoubted()
	lease := t.lease
	borrowed, err := t.store.Borrow(ctx, t.Batch, t.lease)
	if err != nil {
		t.couldNotProbe(ctx, err)
		return 0
	}
	lease.LowID = maps.Clone(t.lease.LowID)
	maps.Copy(lease.LowID, borrowed)
	t.flight.borrow(t.lease.Topic, borrowed)
	// Nothing is sent that this worker knows to be published.
	if err := t.ledger.settle(ctx, t.lease.Topic, slices.Collect(maps.Keys(borrowed))); err != nil {
		t.couldNotProbe(ctx, err)
		return 0
	}
	for page := 1; page <= probePages; page++ {
		p := relay.Probe{After: t.flight.state(t.lease.Topic).noted.ProbedTo, Ordered: t.cfg.Publisher.Ordered(t.lease.Topic), Events: probeEvents}
		if page == probePages {
			p.After, p.Newest, p.Events = 0, true, newestEvents
		}
		before := time.Now()
		probed, err := t.store.Probe(ctx, lease, t.flight.inHand(t.lease.Topic), p)
		if err != nil {
			t.couldNotProbe(ctx, err)
			return requests
		}
		n, err := t.sendProbe(ctx, probed.Page, before)
		requests += n
		if p.Newest || err != nil {
			return requests
		}
		t.noteDoubted()
		s := t.flight.state(t.lease.Topic)
		t.flight.note(t.lease.Topic, func(c *checkpoint) {
			for _, e := range probed.Events {
				c.noteEvidence(e.Ref)
			}
			c.ProbedTo = probed.Next
			if s.accepted == 0 && len(s.refused.doubtful) > 0 { // the events left out are behind refused ones
				c.DoubtedTo = max(c.DoubtedTo, probed.Next)
			}
		})
		if t.probing.exhausted = probed.Next == 0; t.probing.exhausted || !t.isDoubtful() && t.decides() {
			return requests
		}
	}
	return requests
}

// couldNotProbe notes why, for people, unless the attempt was stopped. The refusals of
// the first page are what the attempt fails with.
func (t *attempt) couldNotProbe(ctx context.Context, err error) {
	if ctx.Err() == nil {
		t.probing.failed = err
	}
}

// sendProbe publishes a page of probed events and waits for their outcomes.
func (t *attempt) sendProbe(ctx context.Context, page relay.Page, asked time.Time) (requests int, err error) {
	if len(page.Events) == 0 {
		return 0, nil
	}
	blocked, err := t.blockedKeys(ctx, page.Events)
	if err != nil {
		t.couldNotProbe(ctx, err)
		return 0, err
	}
	t.flight.probed(t.lease.Topic, page, asked)
	ready := t.opened(page.Events, blocked)
	t.probing.asked += len(ready)
	events := make(chan []relay.Event, 1)
	events <- ready
	close(events)
	result, err := t.publish(ctx, events)
	t.probing.accepted = t.flight.state(t.lease.Topic).accepted
	return result.Requests, err
}

// doubt decides about the doubtful refusals of an attempt, and leaves in refused the
// verdicts that are believed. proved is true if an attempt before is the reason. soon
// is set if another attempt follows at once, and says why. Without other evidence, the
// destination is at fault.
func (t *attempt) doubt(refused *refusals, accepted int) (soon *relay.PublishError, proved bool) {
	noted := t.flight.state(t.lease.Topic).noted
	defer func() {
		t.flight.note(t.lease.Topic, func(c *checkpoint) { c.ProvedAt, c.GivenUp = noted.ProvedAt, noted.GivenUp })
	}()
	believed := t.doubts.believe(t.lease.Topic, len(refused.doubtful), accepted)
	again, doubtful := t.proved(noted, refused.doubtful), refused.doubtful
	switch {
	case len(doubtful) == 0 && t.probing.accepted > 0 && !t.probing.exhausted && len(refused.alone) > 0:
		noted.ProvedAt = time.Now()
		return because(refused.alone[0].Err, "%d events fail alone, and %d behind them were accepted; the next attempt goes on behind these",
			len(refused.alone), t.probing.accepted), false
	case len(doubtful) == 0 && len(refused.alone) > 0: // ProvedAt stays
		return nil, false
	case t.probing.accepted > 0:
		refused.doubtful = nil
		noted.ProvedAt = time.Now()
		return because(doubtful[0].Err, "%d events are tried once more, and then dead letters, because %d behind them were accepted",
			len(doubtful), t.probing.accepted), false
	case accepted == 0 && len(again) > 0:
		refused.doubtful = again
		return because(again[0].Err, "%d events became dead letters, because others were accepted; the next attempt reads on", len(again)), true
	case !believed && t.mayGiveUpOne(noted.GivenUp):
		last := slices.MaxFunc(doubtful, func(a, b relay.Outcome) int { return cmp.Compare(a.ID, b.ID) })
		refused.doubtful = []relay.Outcome{last}
		noted.GivenUp++
		return because(last.Err, "every event that may be sent is refused alike, and the others wait behind them; "+
			"one became a dead letter, so that the next of its key can be tried"), true
	case !believed:
		refused.stop(t.allAlike(*doubtful[0].Err))
		refused.doubtful = nil
	}
	noted.ProvedAt = time.Time{}
	return nil, false
}

// mayGiveUpOne reports whether an event may become a dead letter though it is not
// known to be poison: on an ordered destination, where all that may be sent was
// refused, and only for as many as are believed without proof anyway.
func (t *attempt) mayGiveUpOne(given int) bool {
	return t.probing.exhausted && t.cfg.Publisher.Ordered(t.lease.Topic) && given < doubtLimit
}

// because is an error that says what follows from it.
func because(first *relay.PublishError, format string, args ...any) *relay.PublishError {
	err := *first
	err.Message = fmt.Sprintf(format, args...) + ": " + err.Message
	return &err
}

// allAlike turns the doubt about every event into a verdict on the destination.
func (t *attempt) allAlike(first relay.PublishError) *relay.PublishError {
	probed := ""
	switch {
	case t.probing.failed != nil:
		probed = fmt.Sprintf(" (events behind them could not be probed: %v)", t.probing.failed)
	case t.probing.asked > 0:
		probed = fmt.Sprintf(", %d probed behind the first page among them", t.probing.asked)
	}
	first.Class = relay.ClassDestination
	first.Message = "every event is refused alike" + probed + ", so it is not the events: " + first.Message
	return &first
}

// goOn keeps the batch's lanes and fails, so that the next attempt follows soon.
func (t *attempt) goOn(ctx context.Context, why *relay.PublishError) error {
	if err := t.store.Keep(ctx, t.lease, t.flight.lanes(t.lease.Topic)); err != nil {
		return err
	}
	r := &refusal{PublishError: why, text: t.goesTo() + ": " + why.Error(), pause: provedPause}
	t.note(ctx, r)
	return r
}

// giveBack frees the lanes that were borrowed for probing.
func (t *attempt) giveBack(ctx context.Context) error {
	next := t.flight.giveBack(t.lease.Topic)
	if len(next) == 0 {
		return nil
	}
	return t.store.Release(ctx, t.lease, relay.Read{Next: next})
}
