package publish

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

// slot is one of the requests that may be in flight at once, and its goroutine.
// One goroutine for many requests keeps its stack: the SDK's is deep, and growing
// a new one for every request costs a tenth of the whole.
type slot struct {
	request request
	entries []*entry
	answer  answer
	fate    fate
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
		sl.fate = fate{}
		ctx, cancel := context.WithDeadline(context.WithValue(base, fateKey{}, &sl.fate), deadline)
		sl.answer = sl.request.send(ctx, sl.entries)
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
	sl := &slot{entries: make([]*entry, 0, maxEntries), deadlines: make(chan time.Time, 1)}
	if s.sender != nil {
		sl.request = s.sender.newRequest()
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
