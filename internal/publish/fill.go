package publish

import (
	"context"
	"errors"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// fill starts requests until all slots are busy, nothing can be sent, or
// publishing has to stop. It also pauses, and returns true, when events were
// refused without a request, so that a stream of those is reported as it flows.
func (s *stream) fill() (refused bool) {
	for s.inFlight < s.Concurrency && s.stop == nil {
		if len(s.packer.ready) < s.is.MaxEvents && s.wantsMore() {
			// A page that waits already makes this request a full one.
			select {
			case page, ok := <-s.Events:
				s.read(page, ok)
			default:
			}
		}
		if s.waiting == nil && len(s.parts) == 0 && len(s.packer.ready) == 0 {
			return false
		}
		deadline, err := s.mayStart()
		if err != nil {
			s.stop = err
			return false
		}
		if s.waiting == nil && s.form() {
			return true
		}
		if s.waiting != nil {
			if s.tooEarly(deadline) {
				return false
			}
			s.start(deadline)
		}
	}
	return false
}

var errDeadline = errors.New("the lease is about to end")

// mayStart returns the deadline of a request that starts now, or why none may.
func (s *stream) mayStart() (time.Time, error) {
	if s.ctx.Err() != nil {
		return time.Time{}, context.Cause(s.ctx)
	}
	now := time.Now()
	deadline := now.Add(s.timeout)
	if s.Deadline != nil {
		if d := s.Deadline(); d.Before(deadline) {
			deadline = d
		}
	}
	if !deadline.After(now) {
		return deadline, errDeadline
	}
	return deadline, nil
}

// form decides on the next request, which then waits for its start. It settles
// entries that need no request, and reports whether there were such.
func (s *stream) form() (refused bool) {
	sl := s.takeSlot()
	var refusals []*entry
	if n := len(s.parts); n > 0 {
		sl.entries = append(sl.entries[:0], s.parts[n-1]...)
		s.parts = s.parts[:n-1]
	} else {
		sl.entries, refusals = s.packer.next(sl.entries[:0], nil)
	}
	if len(sl.entries) == 0 {
		s.idle = append(s.idle, sl)
	} else {
		s.waiting, s.notBefore = sl, time.Time{}
	}
	if len(refusals) > 0 {
		s.note(refusals, func(i int) (string, *relay.PublishError) { return "", refusals[i].refusal })
	}
	return len(refusals) > 0
}

// tooEarly reports whether the waiting request has to wait longer for the topic's
// rate. It then sets the timer, to no later than the deadline, because by then
// the lease may have been renewed, or not.
func (s *stream) tooEarly(deadline time.Time) bool {
	if s.Pace == nil {
		return false
	}
	wait := time.Until(s.notBefore)
	if wait <= 0 {
		// Not asked for longer than that, or a stream that is stopped meanwhile would
		// have used up what it never sent.
		if wait = s.Pace(len(s.waiting.entries)); wait <= 0 {
			return false
		}
		s.notBefore = time.Now().Add(wait)
	}
	wait = min(wait, time.Until(deadline))
	if s.timer == nil {
		s.timer = time.NewTimer(wait)
	} else {
		s.timer.Reset(wait)
	}
	return true
}

// start sends the waiting request.
func (s *stream) start(deadline time.Time) {
	sl := s.waiting
	s.waiting = nil
	s.inFlight++
	s.result.Requests++
	sl.deadlines <- deadline
}
