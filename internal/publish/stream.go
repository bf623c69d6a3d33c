package publish

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	// idleFor is how long nothing happens to a topic until a stream forgets its outlet, and
	// sweepEvery how often it looks for such outlets.
	idleFor    = time.Minute
	sweepEvery = 15 * time.Second
	// listenEvery is how often a stream looks whether destinations answer. One that has not answered for
	// more than silentFor looks is silent. Looks are counted, because a process that stood still has
	// answers that it has not read.
	listenEvery = time.Second
	silentFor   = 5
	// askAgain is when a stream asks again for a deadline that has passed.
	askAgain = 50 * time.Millisecond
)

// Open returns a sender for the events of many topics. It sends until Close.
//
// Topics take turns, request by request. The limiter of a destination decides how many requests to
// it are in flight, up to 96 or r.Most; up to 256 are in total. So neither a topic with many events nor a
// destination that hangs delays the others. A topic's destination is looked up in the background. If it is
// not found, or not configured, all events of the topic fail until the topic is dropped.
func (p *Publisher) Open(r relay.SenderRequest) relay.Sender {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{
		SenderRequest: r,
		publisher:     p,
		branches:      make(map[string]*branch),
		gates:         make(map[string]*gate),
		inbox:         newInbox(),
		cancel:        cancel,
		sweeps:        time.Now().Add(sweepEvery),
		ended:         make(chan struct{}),
	}
	s.loop = loop{
		side:     s,
		sending:  context.Background(),
		timeout:  p.cfg.RequestTimeout,
		rota:     rota{most: mostInFlight},
		grants:   newGrants(),
		requests: make(map[*request]bool),
		answered: make(chan *request, mostInFlight),
	}
	if r.Deadline != nil {
		s.sending = detach.WithDeadline(s.sending, r.Deadline)
	}
	s.lookUps = newLookUps(func(topic string) (found, error) { return p.resolve(ctx, topic) }, &s.running)
	go func() {
		defer close(s.ended)
		defer func() {
			s.close()
			for _, g := range s.gates {
				g.leave()
			}
		}()
		s.run()
	}()
	return s
}

// stream is a loop with an outlet for each topic. Its goroutine owns all but inbox and backlog.
type stream struct {
	relay.SenderRequest
	loop
	publisher *Publisher
	branches  map[string]*branch // by topic
	gates     map[string]*gate   // by the address of the destination
	lookUps   *lookUps
	cancel    context.CancelFunc // of look-ups
	closed    bool               // nothing is sent any more
	now       time.Time          // when the last wait ended
	sweeps    time.Time          // when to look for idle outlets
	listens   time.Time          // when to look for destinations that are silent

	inbox   *inbox
	backlog atomic.Int64
	ended   chan struct{}
}

// branch is the part of a stream for one topic.
type branch struct {
	topic    string
	outlet   *outlet         // nil until the destination has been looked up
	waiting  [][]relay.Event // for that
	next     time.Time       // when to look the destination up again; zero: never
	dropping bool
	backlog  int // events of the branch in the stream's backlog
	used     time.Time
}

// Add implements relay.Sender.
func (s *stream) Add(topic string, events []relay.Event) {
	// Counted before the loop can take them, so that the backlog is never negative.
	s.backlog.Add(int64(len(events)))
	if len(events) == 0 || !s.inbox.add(topic, events) {
		s.backlog.Add(-int64(len(events)))
	}
}

// Drop implements relay.Sender.
func (s *stream) Drop(topic string) { s.inbox.drop(topic) }

// Backlog implements relay.Sender.
func (s *stream) Backlog() int { return int(s.backlog.Load()) }

// Close implements relay.Sender.
func (s *stream) Close(ctx context.Context) error {
	s.inbox.close()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close sender: %w", context.Cause(ctx))
	}
}

// refill takes the orders that have arrived, so that a Drop counts before the next request.
func (s *stream) refill() {
	if s.inbox.some.Load() {
		s.read()
	}
}

// read takes everything out of the inbox.
func (s *stream) read() {
	orders, closed := s.inbox.take()
	s.now = time.Now()
	for _, o := range orders {
		if o.drop {
			s.drop(o.topic)
		} else {
			s.add(o.topic, o.events)
		}
	}
	if !closed || s.closed {
		return
	}
	s.closed = true
	s.cancel()
	for _, b := range s.branches {
		s.forget(b)
	}
}

func (s *stream) add(topic string, events []relay.Event) {
	b := s.branches[topic]
	if b == nil {
		b = &branch{topic: topic}
		s.branches[topic] = b
	}
	b.used = s.now
	b.backlog += len(events)
	if b.outlet == nil {
		b.waiting = append(b.waiting, events)
		s.lookUp(topic)
		return
	}
	b.outlet.add(events)
	s.count(b) // without those that are held behind a failed one
	s.offer(b.outlet)
	if !b.next.IsZero() && s.now.After(b.next) {
		s.lookUp(topic)
	}
}

func (s *stream) drop(topic string) {
	b := s.branches[topic]
	if b == nil {
		b = &branch{topic: topic}
	}
	b.dropping = true
	s.forget(b)
	n := notice{topic: topic, kind: isDropping}
	if b.outlet != nil {
		n.inFlight = s.flying(b.outlet)
	}
	s.notices = append(s.notices, n)
	s.endDrop(b)
}

// endDrop ends a branch that is being dropped when no request of it is in flight.
func (s *stream) endDrop(b *branch) {
	if b.dropping && (b.outlet == nil || b.outlet.inFlight == 0) {
		s.remove(b)
		s.notices = append(s.notices, notice{topic: b.topic, kind: isDropped})
	}
}

// forget gives up the unsent events of a branch.
func (s *stream) forget(b *branch) {
	b.waiting = nil
	if b.outlet != nil {
		b.outlet.forget()
	}
	s.count(b)
}

// count updates the backlog after something has happened to a branch.
func (s *stream) count(b *branch) {
	unsent := 0
	for _, events := range b.waiting {
		unsent += len(events)
	}
	if b.outlet != nil {
		unsent += b.outlet.unsent()
	}
	s.backlog.Add(int64(unsent - b.backlog))
	b.backlog = unsent
}

func (s *stream) remove(b *branch) {
	delete(s.branches, b.topic)
	if b.outlet == nil {
		return
	}
	g := b.outlet.gate
	if g.outlets--; g.outlets == 0 {
		delete(s.gates, g.address)
		g.leave()
	}
}

// lookUp looks a topic's destination up, in the background unless the answer is at hand.
func (s *stream) lookUp(topic string) {
	if c := s.publisher.routes[topic]; c != nil {
		if f, ok := c.atHand(s.now); ok {
			s.open(s.branches[topic], f, nil)
			return
		}
	}
	s.lookUps.begin(topic)
}

// open gives a branch its destination, or a new one after another look-up.
func (s *stream) open(b *branch, f found, unresolved error) {
	b.next = f.next
	to := f.open
	if unresolved != nil {
		to = newUnroutable(f.Route, unresolved, true)
	}
	if b.outlet != nil {
		b.outlet.redirect(to, s.publisher.routes[b.topic])
		return
	}
	b.outlet = newOutlet(Request{Topic: b.topic}, to, s.publisher.routes[b.topic], s.gate(to.Properties().Address))
	b.outlet.frees = true
	if c := s.publisher.routes[b.topic]; c != nil {
		b.outlet.fill = c.fill
	}
	for _, events := range b.waiting {
		b.outlet.add(events)
	}
	b.waiting = nil
	s.rota.offer(b.outlet)
}

// gate returns the gate of a destination for one more outlet.
func (s *stream) gate(address string) *gate {
	g := s.gates[address]
	if g == nil {
		most := mostAtOneDestination
		if s.Most != nil {
			most = max(most, s.Most())
		}
		g = s.join(s.publisher.limiter(address), leastAtOneDestination, most)
		g.address, g.ceiling = address, s.Most
		s.gates[address] = g
	}
	g.outlets++
	return g
}

// deadline is not bounded by the end of the lease as it is known now, because the lease is renewed
// all the time. Each attempt of the request asks for it again.
func (s *stream) deadline() (time.Time, error) {
	now := time.Now()
	if s.Deadline != nil && !s.Deadline().After(now) {
		s.wake(now.Add(askAgain))
		return time.Time{}, errDeadline
	}
	return now.Add(s.timeout), nil
}

func (s *stream) answeredBy(o *outlet, a relay.Answer) {
	if s.Answered != nil {
		s.Answered(o.topic, a)
	}
}

func (s *stream) changed(o *outlet) {
	b := s.branches[o.topic]
	b.used = s.now
	if b.dropping || s.closed {
		o.forget() // the halves of a divided request
	}
	s.count(b)
	s.endDrop(b)
}

// report reports outcomes, or how far the dropping of a topic is.
func (s *stream) report(n notice) {
	switch n.kind {
	case hasOutcomes:
		s.Report(n.topic, n.outcomes)
	case isSilent:
		s.Silent(n.topic)
	case isDropping:
		if s.Dropping != nil {
			s.Dropping(n.topic, n.inFlight)
		}
	case isDropped:
		s.inbox.dropped(n.topic)
		if s.Dropped != nil {
			s.Dropped(n.topic)
		}
	}
}

func (s *stream) over() bool { return s.closed && s.inFlight == 0 }

// wait blocks until there is something to do: an order, an answer, a request that may start because
// it is its turn, a destination that was looked up, or the time to ask for the deadline again.
func (s *stream) wait() {
	if len(s.branches) > 0 || len(s.idle) > 0 {
		s.wake(s.sweeps)
	}
	if s.Silent != nil && s.inFlight > 0 {
		s.wake(s.listens)
	}
	select {
	case <-s.inbox.arrived:
		s.read()
	case r := <-s.answered:
		s.now = time.Now()
		s.take(r)
	case <-s.grants.some:
		s.now = time.Now()
		s.granted()
	case l := <-s.lookUps.over:
		s.now = time.Now()
		s.lookedUp(l)
	case <-s.tick():
		s.now = time.Now()
		s.ticked()
		if !s.now.Before(s.sweeps) {
			s.sweep()
		}
		if s.Silent != nil && !s.now.Before(s.listens) {
			s.listen()
		}
	}
}

func (s *stream) lookedUp(l lookedUp) {
	s.lookUps.end(l.topic)
	if b := s.branches[l.topic]; b != nil && !s.closed {
		s.open(b, l.found, l.err)
	}
}

// listen notes for how long each destination with requests in flight has not answered, and reports the
// topics of those that are silent.
func (s *stream) listen() {
	s.listens = s.now.Add(listenEvery)
	silent := false
	for _, g := range s.gates {
		if g.inFlight > 0 {
			g.silent++
			silent = silent || g.silent > silentFor
		}
	}
	if !silent {
		return
	}
	for _, b := range s.branches {
		if o := b.outlet; o != nil && !b.dropping && o.gate.silent > silentFor && o.inFlight+o.unsent() > 0 {
			s.notices = append(s.notices, notice{topic: b.topic, kind: isSilent})
		}
	}
}

// sweep forgets outlets that are idle, with their senders, and requests that are not needed. An
// outlet that holds events back behind a failed one stays until it is dropped.
func (s *stream) sweep() {
	s.sweeps = s.now.Add(sweepEvery)
	s.retire()
	for _, b := range s.branches {
		if o := b.outlet; o != nil && o.isIdle() && s.now.Sub(b.used) >= idleFor {
			s.remove(b)
		}
	}
}
