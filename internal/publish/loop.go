package publish

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/limit"
	"github.com/temporal-outbox/relay/internal/relay"
)

// loop sends the events of outlets. The goroutine that runs it owns it, with everything that
// belongs to it. The only exceptions are requests in flight: from start until it comes back
// through answered, a request belongs to the goroutine that sends it.
type loop struct {
	side    side
	sending context.Context // of all requests
	timeout time.Duration   // of a request with all its attempts

	rota     rota
	grants   grants
	idle     []*request        // those that are not in flight; the one that was used last is the last
	unused   int               // how many of idle were not used since retire
	requests map[*request]bool // all: idle and in flight
	inFlight int               // requests
	running  sync.WaitGroup    // the goroutines of all requests
	answered chan *request     // has room for all, so that they end even after a panic in report

	timer   *time.Timer // ends a wait
	wakes   time.Time   // when the timer fires; zero: it does not
	notices []notice    // what is to be reported
}

// side is the other side of a loop: where events come from, and outcomes go to. It is a call of
// Publish, or a stream. The loop calls its methods from its own goroutine.
type side interface {
	// refill adds events that are there already, if they could make the next request fuller.
	refill()
	// deadline returns the deadline of a request that starts now, or why none may.
	deadline() (time.Time, error)
	// answeredBy is told of every request that is over.
	answeredBy(o *outlet, a relay.Answer)
	// changed is told that an outlet has started a request, or recorded outcomes.
	changed(o *outlet)
	// report gets a notice. The loop has started further requests before.
	report(n notice)
	// over reports whether there is nothing left to do.
	over() bool
	// wait blocks until there is something to do.
	wait()
}

// notice is what a side has to report of a topic.
type notice struct {
	topic    string
	kind     noticeKind
	outcomes []relay.Outcome
	inFlight []relay.Ref // isDropping
}

type noticeKind int

const (
	hasOutcomes noticeKind = iota
	isDropping             // the unsent events of the topic are forgotten
	isDropped              // and no request of it is in flight
	isSilent               // its destination does not answer
)

// run does everything in turn: it starts requests, reports outcomes, and waits until there is
// more to do.
func (l *loop) run() {
	for {
		// The next requests first: while report runs, they are under way.
		again := l.startRequests()
		l.report()
		if again {
			continue
		}
		if l.side.over() {
			return
		}
		l.side.wait()
	}
}

// startRequests starts requests until no outlet may start one, or nothing may start at all. It
// returns true when it has found invalid events: they have their outcomes without a request, and
// these are reported before it goes on.
func (l *loop) startRequests() (again bool) {
	for {
		l.side.refill()
		o := l.rota.next()
		if o == nil {
			return false
		}
		if o.empty() {
			l.rota.rest(o)
			continue
		}
		if wait := o.fills(); wait > 0 {
			l.rota.rest(o)
			l.rota.pause(o)
			l.wake(time.Now().Add(wait))
			continue
		}
		deadline, err := l.side.deadline()
		if err != nil {
			l.rota.again(o)
			return false
		}
		if !l.rota.take(o) {
			continue
		}
		if invalid := o.prepare(); len(invalid) > 0 {
			l.rota.putBack(o)
			l.rota.offer(o)
			l.record(o, invalid, time.Time{}, func(i int) (string, *relay.PublishError) { return "", invalid[i].invalid })
			l.side.changed(o)
			return true
		}
		if wait := o.wait(); wait > 0 {
			l.rota.putBack(o)
			l.rota.pause(o)
			// No longer than to the deadline: by then the lease may have been renewed, or not.
			l.wake(time.Now().Add(min(wait, time.Until(deadline))))
			continue
		}
		l.start(o, deadline)
		l.rota.offer(o)
		l.side.changed(o)
	}
}

var errDeadline = errors.New("the lease is about to end")

// start sends the next request of an outlet.
func (l *loop) start(o *outlet, deadline time.Time) {
	var r *request
	if n := len(l.idle); n > 0 {
		r, l.idle = l.idle[n-1], l.idle[:n-1]
		l.unused = min(l.unused, n-1)
	} else {
		r = &request{start: make(chan time.Time, 1)}
		l.requests[r] = true
		l.running.Go(func() { r.serve(l.sending, l.answered) })
	}
	o.start(r)
	l.inFlight++
	r.start <- deadline
}

// wake makes the timer fire at some time, or before.
func (l *loop) wake(at time.Time) {
	if !l.wakes.IsZero() && !at.Before(l.wakes) {
		return
	}
	l.wakes = at
	if l.timer == nil {
		l.timer = time.NewTimer(time.Until(at))
	} else {
		l.timer.Reset(time.Until(at))
	}
}

// tick is the timer's channel.
func (l *loop) tick() <-chan time.Time {
	if l.timer == nil {
		return nil
	}
	return l.timer.C
}

// ticked takes note that the timer has fired.
func (l *loop) ticked() {
	l.wakes = time.Time{}
	l.rota.resume()
}

// join gives the loop a place at the limiter of a destination.
func (l *loop) join(to *limit.Limiter, least, most int) *gate {
	g := newGate(nil, least, most)
	g.limiter = to.Join(most, func() { l.grants.add(g) })
	return g
}

// granted lets requests start that limiters had refused.
func (l *loop) granted() {
	for _, g := range l.grants.take() {
		l.rota.granted(g)
	}
}

// take takes the answer to a request.
func (l *loop) take(r *request) {
	o := r.outlet
	// First, so that close finds the request after a panic below.
	l.idle = append(l.idle, r)
	l.inFlight--
	o.gate.silent = 0
	if r.hung() {
		o.gate.unanswered()
	} else {
		o.gate.answered()
	}
	answer := r.ended()
	answer.Limit = o.gate.limiter.Done(r.sample())
	l.rota.done(o)
	l.side.answeredBy(o, answer)
	if failure := r.answer.Failure; failure == nil {
		o.accepted(r.entries)
		l.record(o, r.entries, r.began, r.answer.Of)
	} else if err := o.failed(r.entries, failure); err != nil {
		l.record(o, r.entries, r.began, func(int) (string, *relay.PublishError) { return "", err })
	}
	o.end(r)
	if !o.empty() {
		l.offer(o)
	}
	l.side.changed(o)
}

// offer puts an outlet in line. One that waits for a fuller request does so no longer if the request is full now.
func (l *loop) offer(o *outlet) {
	if o.fill > 0 && o.fills() <= 0 {
		l.rota.unpause(o)
	}
	l.rota.offer(o)
}

// record notes the outcomes of an outlet's entries, which are reported soon. Sent is when their request
// was started, if there was one.
func (l *loop) record(o *outlet, entries []*entry, sent time.Time, of func(int) (messageID string, err *relay.PublishError)) {
	outcomes := make([]relay.Outcome, len(entries))
	for i, e := range entries {
		messageID, err := of(i)
		outcomes[i] = relay.Outcome{Ref: e.ev.Ref, Err: err, Sent: sent}
		if err == nil {
			outcomes[i].MessageID, outcomes[i].Destination = messageID, o.props.Address
		}
		o.done(e, err == nil)
	}
	l.notices = append(l.notices, notice{topic: o.topic, outcomes: outcomes})
}

// flying are the events of an outlet whose requests are in flight.
func (l *loop) flying(o *outlet) (refs []relay.Ref) {
	for r := range l.requests {
		if r.outlet != o {
			continue
		}
		for _, e := range r.entries {
			refs = append(refs, e.ev.Ref)
		}
	}
	return refs
}

// report reports the notices since the last call.
func (l *loop) report() {
	for _, n := range l.notices {
		l.side.report(n)
	}
	clear(l.notices)
	l.notices = l.notices[:0]
}

// retire ends the goroutines of requests that were not used since it was called last.
func (l *loop) retire() {
	for _, r := range l.idle[:l.unused] {
		delete(l.requests, r)
		close(r.start)
	}
	l.idle = slices.Delete(l.idle, 0, l.unused)
	l.unused = len(l.idle)
}

// close ends the goroutines of all requests. Requests in flight, which there are only if report has
// panicked, come to their end before.
func (l *loop) close() {
	for ; l.inFlight > 0; l.inFlight-- {
		r := <-l.answered
		r.outlet.gate.limiter.PutBack()
		l.idle = append(l.idle, r)
	}
	for _, r := range l.idle {
		close(r.start)
	}
	l.running.Wait()
}

// grants are the gates whose limiters let a request start. Limiters add to them in other goroutines.
type grants struct {
	mu    sync.Mutex
	gates []*gate
	some  chan struct{} // there is something to take
}

func newGrants() grants { return grants{some: make(chan struct{}, 1)} }

func (g *grants) add(to *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gates = append(g.gates, to)
	select {
	case g.some <- struct{}{}:
	default:
	}
}

func (g *grants) take() (all []*gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all, g.gates = g.gates, nil
	return all
}
