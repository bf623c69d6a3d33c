package activities

import (
	"context"
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
)

// probe is what an attempt of a recovery has asked beyond its first page.
type probe struct {
	asked    int   // events
	accepted int   // of them
	failed   error // why it could not ask more
	// exhausted is true once the place has come to the end.
	exhausted bool
}

// noteAmbiguous notes how far everything was refused.
func (t *attempt) noteAmbiguous() {
	refused := t.flight.state(t.lease.Topic).refused
	t.flight.note(t.lease.Topic, func(c *checkpoint) {
		for _, o := range refused.ambiguous {
			c.AmbiguousTo = max(c.AmbiguousTo, o.ID)
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
	if c.ProbedTo == 0 && c.AmbiguousTo == 0 && c.GivenUp == 0 {
		return nil
	}
	if c.Evidence != nil {
		exists, err := a.batches.Exists(ctx, *c.Evidence)
		if err != nil || exists {
			return err
		}
	}
	c.ProbedTo, c.AmbiguousTo, c.ProvedAt, c.GivenUp, c.Evidence = 0, 0, time.Time{}, 0, nil
	return nil
}

// probe sends events beyond a page that was refused, in small portions, until one is
// accepted, the time is over or enough was asked. It sends no event before an earlier
// one of its key where order counts. The next attempt probes on from the same place.
func (t *attempt) probe(ctx context.Context) (requests int) {
	if !t.facts().isUndecided() {
		return 0
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeFor, relay.ErrStopped)
	defer cancel()
	t.noteAmbiguous()
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
		t.noteAmbiguous()
		s := t.flight.state(t.lease.Topic)
		t.flight.note(t.lease.Topic, func(c *checkpoint) {
			for _, e := range probed.Events {
				c.noteEvidence(e.Ref)
			}
			c.ProbedTo = probed.Next
			if s.accepted == 0 && len(s.refused.ambiguous) > 0 { // the events left out are behind refused ones
				c.AmbiguousTo = max(c.AmbiguousTo, probed.Next)
			}
		})
		if t.probed.exhausted = probed.Next == 0; t.probed.exhausted || !t.facts().probesOn() {
			return requests
		}
	}
	return requests
}

// couldNotProbe notes why, for people, unless the attempt was stopped. The refusals of
// the first page are what the attempt fails with.
func (t *attempt) couldNotProbe(ctx context.Context, err error) {
	if ctx.Err() == nil {
		t.probed.failed = err
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
	t.probed.asked += len(ready)
	events := make(chan []relay.Event, 1)
	events <- ready
	close(events)
	result, err := t.publish(ctx, events)
	t.probed.accepted = t.flight.state(t.lease.Topic).accepted
	return result.Requests, err
}
