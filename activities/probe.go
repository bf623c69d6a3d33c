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

// probes are what an attempt of a recovery has found out beyond its first page.
type probes struct {
	requests int
	asked    int   // events
	accepted int   // of them
	failed   error // why it could not ask more
	// exhausted is true once there is no event behind those that were asked.
	exhausted bool
}

// prober sends events beyond a page that was refused, in small portions, until one is
// accepted, the time is over or enough was asked. It sends no event before an earlier
// one of its key where order counts. The next attempt probes on from the same place.
type prober struct {
	store   ProbeStore
	ledger  *ledger
	screen  screen
	flight  *inFlight
	batch   relay.Batch
	lease   relay.Lease
	facts   func() facts
	publish func(context.Context, <-chan []relay.Event) (relay.PublishResult, error)
	probes  probes
}

func (t *attempt) newProber(stop context.CancelCauseFunc) *prober {
	return &prober{
		store: t.store, ledger: t.ledger, screen: t.screen(), flight: t.flight, batch: t.request.Batch, lease: t.lease, facts: t.facts,
		publish: func(ctx context.Context, events <-chan []relay.Event) (relay.PublishResult, error) {
			return t.publish(ctx, stop, events)
		},
	}
}

// run probes. If it could not ask, it says why, for people, unless it was stopped: the attempt fails
// with the refusals of the first page.
func (p *prober) run(ctx context.Context) probes {
	ctx, cancel := context.WithTimeoutCause(ctx, probeFor, relay.ErrStopped)
	defer cancel()
	if err := p.probe(ctx); err != nil && ctx.Err() == nil {
		p.probes.failed = err
	}
	return p.probes
}

func (p *prober) probe(ctx context.Context) error {
	topic := p.batch.Topic
	p.noteAmbiguous()
	borrowed, err := p.store.Borrow(ctx, p.batch, p.lease)
	if err != nil {
		return err
	}
	lease := p.lease
	lease.LowID = maps.Clone(p.lease.LowID)
	maps.Copy(lease.LowID, borrowed)
	p.flight.borrow(topic, borrowed)
	// Nothing is sent that this worker knows to be published.
	if err := p.ledger.settle(ctx, topic, slices.Collect(maps.Keys(borrowed))); err != nil {
		return err
	}
	for range probePages - 1 {
		ask := relay.Probe{After: p.flight.state(topic).noted.ProbedTo, Ordered: p.facts().ordered, Events: probeEvents}
		probed, goesOn, err := p.sendPortion(ctx, lease, ask)
		if err != nil || !goesOn {
			return err
		}
		p.noteProbed(probed)
		if p.probes.exhausted = probed.Next == 0; p.probes.exhausted || !p.facts().probesOn() {
			return nil
		}
	}
	_, _, err = p.sendPortion(ctx, lease, relay.Probe{Newest: true, Ordered: p.facts().ordered, Events: newestEvents})
	return err
}

// sendPortion publishes a portion of events and waits for their outcomes. It reports false if sending was
// ended, as by a refusal that others would get as well.
func (p *prober) sendPortion(ctx context.Context, lease relay.Lease, ask relay.Probe) (probed relay.Probed, goesOn bool, err error) {
	topic, asked := p.batch.Topic, time.Now()
	known, err := p.flight.takeUnknown(ctx, topic, relay.ProbeBytes)
	if err != nil {
		return probed, true, err
	}
	probed, err = p.store.Probe(ctx, lease, p.flight.inHand(topic), ask)
	known(probed.Events)
	if err != nil || len(probed.Events) == 0 {
		return probed, true, err
	}
	ready, err := p.screen.admit(ctx, probed.Page, asked)
	if err != nil {
		return probed, false, err
	}
	p.probes.asked += len(ready)
	events := make(chan []relay.Event, 1)
	events <- ready
	close(events)
	result, err := p.publish(ctx, events)
	p.probes.requests += result.Requests
	p.probes.accepted = p.flight.state(topic).accepted
	return probed, err == nil, nil
}

// noteAmbiguous notes how far everything was refused.
func (p *prober) noteAmbiguous() {
	refused := p.flight.state(p.batch.Topic).refused
	p.flight.note(p.batch.Topic, func(c *checkpoint) {
		for _, o := range refused.ambiguous {
			c.AmbiguousTo = max(c.AmbiguousTo, o.ID)
			c.noteEvidence(o.Ref)
		}
	})
}

// noteOnceMore notes which events the next attempt sends once more. The ids up to AmbiguousTo are no proof
// unless they have one: an accepted event speaks only against those that were refused before it.
func (c *checkpoint) noteOnceMore(v verdict, isProved bool) {
	if len(v.passed)+len(v.open) == 0 {
		return
	}
	if len(v.passed) > 0 {
		c.Passed = nil
		if !isProved {
			c.AmbiguousTo = 0
		}
	}
	c.Open = nil
	for _, o := range v.passed[:min(len(v.passed), passedMost)] {
		c.Passed = append(c.Passed, o.ID)
		c.noteEvidence(o.Ref)
	}
	for _, o := range v.open[:min(len(v.open), max(0, passedMost-len(c.Passed)))] {
		c.Open = append(c.Open, o.ID)
		c.noteEvidence(o.Ref)
	}
}

// noteProbed notes from where the next portion is probed.
func (p *prober) noteProbed(probed relay.Probed) {
	p.noteAmbiguous()
	s := p.flight.state(p.batch.Topic)
	p.flight.note(p.batch.Topic, func(c *checkpoint) {
		for _, e := range probed.Events {
			c.noteEvidence(e.Ref)
		}
		c.ProbedTo = probed.Next
		if s.accepted == 0 && len(s.refused.ambiguous) > 0 { // the events left out are behind refused ones
			c.AmbiguousTo = max(c.AmbiguousTo, probed.Next)
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
// no destination has refused.
func (a *Activities) forgetOtherHistory(ctx context.Context, c *checkpoint) error {
	if c.ProbedTo == 0 && c.AmbiguousTo == 0 && c.GivenUp == 0 && len(c.Open)+len(c.Passed) == 0 {
		return nil
	}
	if c.Evidence != nil {
		exists, err := a.batches.Exists(ctx, *c.Evidence)
		if err != nil || exists {
			return err
		}
	}
	c.ProbedTo, c.AmbiguousTo, c.ProvedAt, c.GivenUp, c.Evidence = 0, 0, time.Time{}, 0, nil
	c.Open, c.Passed = nil, nil
	return nil
}
