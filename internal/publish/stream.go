package publish

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/relay"
)

// stream is one call of Publish. All its fields belong to the goroutine that
// runs it; a slot belongs to the goroutine that sends it until it comes back.
type stream struct {
	Request
	ctx         context.Context
	timeout     time.Duration
	destination destination.Destination
	is          destination.Properties

	packer   *packer
	parts    [][]*entry     // of divided requests, to be sent before anything new
	slots    []*slot        // all of them
	idle     []*slot        // those with nothing in flight
	running  sync.WaitGroup // the slots' goroutines
	answers  chan *slot
	inFlight int

	waiting   *slot     // the next request, decided on but not sent
	notBefore time.Time // when to ask again whether it may be sent, for the topic's rate
	timer     *time.Timer

	largest int           // the largest request that was accepted, in bytes
	learned *atomic.Int64 // the route's, see learn
	closed  bool          // Events is
	stop    error         // why nothing new may be sent
	reports [][]relay.Outcome
	result  Result
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
		finished := s.closed && s.unsent() == 0
		if s.inFlight == 0 && (finished || s.stop != nil) {
			if finished {
				return nil
			}
			if none, ok := s.destination.(*noDestination); ok {
				// Nothing could have been sent anyhow, and the caller should know.
				return fmt.Errorf("%w: %w", stopped(s.Topic, s.stop), none.err)
			}
			return stopped(s.Topic, s.stop)
		}
		var events <-chan []relay.Event
		if s.wantsMore() {
			events = s.Events
		}
		var tick <-chan time.Time
		if s.timer != nil {
			tick = s.timer.C
		}
		select {
		case <-tick: // perhaps the waiting request may start
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

// settle takes a request's answer.
func (s *stream) settle(sl *slot) {
	s.inFlight--
	if s.Answered != nil {
		s.Answered(sl.ended())
	}
	if whole := sl.answer.Failure; whole != nil {
		s.refused(sl.entries, whole)
	} else {
		s.accepted(sl.entries)
		s.note(sl.entries, sl.answer.Of)
	}
	s.idle = append(s.idle, sl)
}

// unsent is the number of events that were read, have no outcome and are not
// held, apart from those in flight.
func (s *stream) unsent() int {
	n := s.packer.unsent()
	if s.waiting != nil {
		n += len(s.waiting.entries)
	}
	for _, part := range s.parts {
		n += len(part)
	}
	return n
}

// note tells the packer about the outcomes of entries and queues their report.
func (s *stream) note(entries []*entry, verdict func(int) (string, *relay.PublishError)) {
	outcomes := make([]relay.Outcome, len(entries))
	for i, e := range entries {
		messageID, err := verdict(i)
		outcomes[i] = relay.Outcome{Ref: e.ev.Ref, Err: err}
		s.packer.done(e, err == nil)
		if err == nil {
			outcomes[i].MessageID, outcomes[i].Destination = messageID, s.is.Address
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
		bytes, invalid := s.destination.Check(ev)
		entries[i] = entry{ev: ev, bytes: bytes, refusal: invalid}
	}
	s.result.Events += len(page)
	s.packer.add(entries)
}
