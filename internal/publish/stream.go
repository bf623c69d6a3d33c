package publish

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// stream is one call of Publish. All its fields belong to the goroutine that
// runs it; a slot belongs to the goroutine that sends it until it comes back.
type stream struct {
	Request
	ctx        context.Context
	timeout    time.Duration
	route      Route
	sender     sender
	unroutable *relay.PublishError // why no event can be sent

	packer   *packer
	slots    []*slot        // all of them
	idle     []*slot        // those with nothing in flight
	running  sync.WaitGroup // the slots' goroutines
	answers  chan *slot
	inFlight int
	closed   bool  // Events is
	stop     error // why nothing new may be sent
	reports  [][]relay.Outcome
	result   Result
}

func (s *stream) run() error {
	defer s.close()
	done := s.ctx.Done()
	for {
		// The next requests first: while Report runs, they are under way.
		refused := s.fill()
		for _, outcomes := range s.reports {
			s.Report(outcomes)
		}
		s.reports = s.reports[:0]
		if refused {
			continue
		}
		finished := s.closed && s.packer.unsent() == 0
		if s.inFlight == 0 && (finished || s.stop != nil) {
			if finished {
				return nil
			}
			return stopped(s.Topic, s.stop)
		}
		var events <-chan []relay.Event
		if s.wantsMore() {
			events = s.Events
		}
		select {
		case page, ok := <-events:
			s.read(page, ok)
		case sl := <-s.answers:
			s.settle(sl)
		case <-done:
			s.stop, done = context.Cause(s.ctx), nil
		}
	}
}

func (s *stream) wantsMore() bool {
	return !s.closed && s.stop == nil && s.packer.unsent() < readAhead
}

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
		if len(s.packer.ready) == 0 {
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
	batch, refusals := s.packer.next(sl.entries[:0], nil)
	sl.entries = batch
	if len(batch) > 0 {
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

// settle takes a request's answer.
func (s *stream) settle(sl *slot) {
	s.inFlight--
	s.note(sl.entries, func(i int) *relay.PublishError { return sl.answer[i] })
	s.idle = append(s.idle, sl)
}

// note tells the packer about the outcomes of entries and queues their report.
func (s *stream) note(entries []*entry, verdict func(int) *relay.PublishError) {
	outcomes := make([]relay.Outcome, len(entries))
	for i, e := range entries {
		err := verdict(i)
		outcomes[i] = relay.Outcome{Ref: e.ev.Ref, Err: err}
		s.packer.done(e, err == nil)
		if err == nil {
			s.result.Acknowledged++
		} else {
			s.result.Failed++
		}
	}
	s.reports = append(s.reports, outcomes)
}

// read takes a page from Events.
func (s *stream) read(page []relay.Event, ok bool) {
	if !ok {
		s.closed = true
		return
	}
	entries := make([]entry, len(page))
	for i := range page {
		ev := &page[i]
		bytes, attributes := measure(ev)
		entries[i] = entry{ev: ev, bytes: bytes, refusal: s.unroutable}
		if s.unroutable == nil {
			entries[i].refusal = refuse(bytes, attributes, s.route.refusesAbove())
		}
	}
	s.result.Events += len(page)
	s.packer.add(entries)
}
