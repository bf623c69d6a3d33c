package activities

import (
	"fmt"
	"math"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// unsettled is what is kept of an event that is loaded and not settled.
type unsettled struct {
	bytes int       // of its payload
	born  time.Time // when it was written, by this worker's clock; zero: no such time
}

// born is when an event was written, by this worker's clock. An event from before 1970 or
// of an infinite time was not written then: one such latency would spoil the sum of all.
func born(e relay.Event, asked, read time.Time) time.Time {
	if e.At < 0 || e.At == math.MaxInt64 {
		return time.Time{}
	}
	return asked.Add(e.CreatedAt.Sub(read))
}

// opened notes what was loaded, by a request made at the given time, and returns
// what can be sent of it.
func (t *attempt) opened(page relay.Page, asked time.Time, blocked map[relay.Chain]int64) []relay.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded += len(page.Events)
	ready := page.Events[:0]
	var refused []relay.Outcome
	for _, e := range page.Events {
		// The database's clock is compared with itself only, and what passes since is
		// measured here. An age comes out too high by the way of one request, never too
		// low, whatever the difference between the two clocks.
		t.open[e.Ref] = unsettled{bytes: len(e.Payload), born: born(e, asked, page.At)}
		t.openBytes += len(e.Payload)
		t.read.Loaded(e.Ref)
		if err := unsendable(e, blocked); err != nil {
			refused = append(refused, relay.Outcome{Ref: e.Ref, Err: err})
			t.refused.add(refused[len(refused)-1])
			signal(t.settled)
			if t.policy.OnPoison == BlockKey && e.Key != "" {
				// Its dead letter is not in the store yet, and the rest of the page is here.
				chain := relay.Chain{Key: e.Key, Replay: e.Replay}
				if blocked == nil {
					blocked = make(map[relay.Chain]int64)
				}
				if _, known := blocked[chain]; !known {
					blocked[chain] = e.ID
				}
			}
			continue
		}
		ready = append(ready, e)
	}
	if len(refused) > 0 {
		t.cfg.Metrics.Reported(t.lease.Topic, refused, nil)
	}
	return ready
}

// unsendable says why an event is a dead letter without being sent, or returns
// nil.
func unsendable(e relay.Event, blocked map[relay.Chain]int64) *relay.PublishError {
	first, isBlocked := blocked[relay.Chain{Key: e.Key, Replay: e.Replay}]
	switch {
	case e.Bytes > relay.PageBytes:
		return &relay.PublishError{
			Code: relay.CodeTooLarge, Class: relay.ClassPoison,
			Message: fmt.Sprintf("the event has %d bytes, no destination accepts more than %d", e.Bytes, maxMessage),
		}
	case e.Unreadable != "":
		return &relay.PublishError{Code: relay.CodeInvalidCharacter, Class: relay.ClassPoison, Message: e.Unreadable}
	case e.EventID == "":
		return &relay.PublishError{
			Code: relay.CodeEventMissing, Class: relay.ClassPoison,
			Message: fmt.Sprintf("event %d is pending, and two looks did not find it in outbox.event", e.ID),
		}
	case isBlocked && e.ID > first:
		return &relay.PublishError{
			Code: relay.CodeBlocked, Class: relay.ClassPoison,
			Message: "blocked behind an earlier event of its key that is a dead letter",
		}
	}
	return nil
}
