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
		if len(s.packer.ready) < maxEntries && s.wantsMore() {
			// A page that waits already makes this request a full one.
			select {
			case page, ok := <-s.Events:
				s.read(page, ok)
			default:
			}
		}
		if len(s.parts) == 0 && len(s.packer.ready) == 0 {
			return false
		}
		deadline, err := s.mayStart()
		if err != nil {
			s.stop = err
			return false
		}
		if s.start(deadline) {
			return true
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

// start sends the next request and settles entries that need none; it reports
// whether there were such.
func (s *stream) start(deadline time.Time) (refused bool) {
	sl := s.takeSlot()
	refusals := s.form(sl)
	if len(sl.entries) > 0 {
		s.inFlight++
		s.result.Requests++
		sl.deadlines <- deadline
	} else {
		s.idle = append(s.idle, sl)
	}
	if len(refusals) > 0 {
		s.note(refusals, func(i int) *relay.PublishError { return refusals[i].refusal })
	}
	return len(refusals) > 0
}

// form puts the entries of the next request into sl and returns those that need
// none.
func (s *stream) form(sl *slot) (refusals []*entry) {
	if n := len(s.parts); n > 0 {
		sl.entries = append(sl.entries[:0], s.parts[n-1]...)
		s.parts = s.parts[:n-1]
		return nil
	}
	sl.entries, refusals = s.packer.next(sl.entries[:0], nil)
	return refusals
}
