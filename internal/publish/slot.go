package publish

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/relay"
)

// slot is one of the requests that may be in flight at once, and its goroutine.
// One goroutine for many requests keeps its stack: the SDK's is deep, and growing
// a new one for every request costs a tenth of the whole.
type slot struct {
	sender  destination.Sender
	entries []*entry
	events  []*relay.Event // those of entries
	answer  destination.Answer
	// deadlines starts a request with entries, and gives its deadline.
	deadlines chan time.Time
}

// serve sends the requests of a slot until its channel is closed.
func (s *stream) serve(sl *slot) {
	// A request that is cancelled half-way may have been accepted. Only its
	// deadline ends it.
	base := context.WithoutCancel(s.ctx)
	if s.Deadline != nil {
		base = detach.WithDeadline(base, s.Deadline)
	}
	for deadline := range sl.deadlines {
		sl.events = sl.events[:0]
		for _, e := range sl.entries {
			sl.events = append(sl.events, e.ev)
		}
		ctx, cancel := context.WithDeadline(base, deadline)
		sl.answer = sl.sender.Send(ctx, sl.events)
		cancel()
		s.answers <- sl
	}
}

// takeSlot returns a slot with nothing in flight.
func (s *stream) takeSlot() *slot {
	if n := len(s.idle); n > 0 {
		sl := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return sl
	}
	sl := &slot{entries: make([]*entry, 0, s.is.MaxEvents), deadlines: make(chan time.Time, 1)}
	if _, none := s.destination.(*noDestination); !none {
		sl.sender = s.destination.NewSender()
		s.running.Go(func() { s.serve(sl) })
	}
	s.slots = append(s.slots, sl)
	return sl
}

// close ends the slots. They are idle by now, unless Report panicked.
func (s *stream) close() {
	for _, sl := range s.slots {
		close(sl.deadlines)
	}
	s.running.Wait()
}

// ended says how the request in a slot went.
func (s *slot) ended() relay.Answer {
	a := relay.Answer{Events: len(s.entries), Err: s.answer.Failure}
	for i := range s.entries {
		if _, err := s.answer.Of(i); s.answer.DeliveryUncertain || err != nil && err.Code == relay.CodeUnanswered {
			a.Suspected++
		}
	}
	return a
}
