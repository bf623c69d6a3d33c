package publish

import (
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/relay"
)

// outlet is the way of a topic's events to its destination. It holds the events that have no
// outcome yet, and decides which of them the next request carries. It sends nothing.
type outlet struct {
	topic       string
	gate        *gate
	turn        turn // belongs to rota
	destination destination.Destination
	props       destination.Properties
	isolate     bool                    // see Request
	pace        func(int) time.Duration // see Request; nil: no limit
	fill        time.Duration           // see Route; 0: requests need not be full

	queue  *queue
	halves [][]*entry // of divided requests, sent before anything new
	size   requestSize

	next      []*entry  // of the next request, once that is decided
	notBefore time.Time // when to ask again whether it may start, for the topic's rate

	senders  []destination.Sender // those that no request uses
	opened   int                  // how often destination has changed
	inFlight int                  // requests
	counts   Result
	// frees is true if events may be cleared once they have an outcome. Their payloads are garbage
	// then, though others of their page still wait.
	frees bool
}

func newOutlet(r Request, to destination.Destination, route *cachedRoute, g *gate) *outlet {
	props := to.Properties()
	o := &outlet{
		topic:       r.Topic,
		gate:        g,
		destination: to,
		props:       props,
		isolate:     r.Isolate,
		pace:        r.Pace,
		queue:       newQueue(props.Ordered, props.MaxEvents),
		size:        newRequestSize(props.MaxBytes, route),
	}
	if route != nil && route.batched {
		o.queue.keyEvents = props.MaxEvents
	}
	return o
}

// redirect changes the destination: it was looked up again. What was in the queue before stays as
// it was checked.
func (o *outlet) redirect(to destination.Destination, route *cachedRoute) {
	o.destination, o.props = to, to.Properties()
	o.size = newRequestSize(o.props.MaxBytes, route)
	o.opened++
	o.senders = nil
}

// add takes a page of events. It keeps copies, because the contents of an event are forgotten once it
// has its outcome, and the page is the caller's.
func (o *outlet) add(page []relay.Event) {
	page = slices.Clone(page)
	o.counts.Events += len(page)
	var now time.Time
	if o.fill > 0 {
		now = time.Now()
	}
	entries := make([]entry, len(page))
	for i := range page {
		ev := &page[i]
		bytes, invalid := o.destination.Check(ev)
		entries[i] = entry{ev: ev, bytes: bytes, invalid: invalid, added: now}
	}
	o.queue.add(entries)
}

// wantsFuller reports whether more events could make the next request a fuller one.
func (o *outlet) wantsFuller() bool { return len(o.queue.ready) < o.props.MaxEvents }

// fills returns for how long the next request waits for more events. It does not wait if it is full, or part of one
// that was divided. The events of an ordered destination that wait for others of their key are in no next request.
func (o *outlet) fills() time.Duration {
	if o.fill == 0 || len(o.next) > 0 || len(o.halves) > 0 || !o.wantsFuller() || len(o.queue.ready) == 0 {
		return 0
	}
	bytes := 0
	for _, e := range o.queue.ready {
		bytes += e.bytes
	}
	if bytes >= o.size.limit {
		return 0
	}
	return o.fill - time.Since(o.queue.ready[0].added)
}

// empty reports whether there is nothing to send, and no invalid event to report.
func (o *outlet) empty() bool {
	return len(o.next) == 0 && len(o.halves) == 0 && len(o.queue.ready) == 0
}

// unsent is the number of events that were read, have no outcome and are not
// held, apart from those in flight.
func (o *outlet) unsent() int {
	n := o.queue.unsent() + len(o.next)
	for _, half := range o.halves {
		n += len(half)
	}
	return n
}

// forget gives up all events that are not in flight.
func (o *outlet) forget() {
	o.next, o.halves = nil, nil
	o.queue.forget()
}

// isIdle reports whether the outlet has no events, and remembers no key.
func (o *outlet) isIdle() bool {
	return o.turn == isResting && o.inFlight == 0 && o.unsent() == 0 && len(o.queue.keys) == 0
}

// prepare decides on the next request, unless that has been done. It returns the invalid events
// that it met on the way, which are no longer in the queue.
func (o *outlet) prepare() (invalid []*entry) {
	if len(o.next) > 0 {
		return nil
	}
	if n := len(o.halves); n > 0 {
		o.next, o.halves = o.halves[n-1], o.halves[:n-1]
	} else {
		o.next, invalid = o.queue.next(o.size.limit)
	}
	o.notBefore = time.Time{}
	return invalid
}

// done says what became of an event.
func (o *outlet) done(e *entry, accepted bool) {
	if accepted {
		o.counts.Acknowledged++
	} else {
		o.counts.Failed++
	}
	o.queue.done(e, accepted)
	if o.frees {
		*e.ev = relay.Event{}
	}
}

// result counts what became of all events.
func (o *outlet) result() Result {
	r := o.counts
	r.Held, r.Unsent = o.queue.held, o.unsent()
	return r
}

// accepted takes a request whose events the destination has answered one by one.
func (o *outlet) accepted(entries []*entry) { o.size.accepted(weight(entries), len(entries)) }

// wait returns for how long the next request has to wait for the topic's rate.
func (o *outlet) wait() time.Duration {
	if o.pace == nil {
		return 0
	}
	wait := time.Until(o.notBefore)
	if wait <= 0 {
		// Not asked for longer than that, or a loop that is stopped meanwhile would
		// have used up a share that it never sent.
		if wait = o.pace(len(o.next)); wait > 0 {
			o.notBefore = time.Now().Add(wait)
		}
	}
	return wait
}

// start gives the entries of the next request to r, and a sender.
func (o *outlet) start(r *request) {
	r.outlet, r.entries = o, append(r.entries[:0], o.next...)
	o.next = nil
	o.inFlight++
	o.counts.Requests++
	if n := len(o.senders); n > 0 {
		r.sender, o.senders = o.senders[n-1], o.senders[:n-1]
	} else {
		r.sender = o.destination.NewSender()
	}
	r.opened = o.opened
}

// end takes the sender of r back.
func (o *outlet) end(r *request) {
	o.inFlight--
	if r.opened == o.opened {
		o.senders = append(o.senders, r.sender)
	}
	clear(r.entries)
	clear(r.events)
	r.outlet, r.sender = nil, nil
}
