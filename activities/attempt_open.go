package activities

import (
	"fmt"

	"github.com/temporal-outbox/relay/internal/relay"
)

// opened returns what can be sent of a page. The rest is refused.
func (t *attempt) opened(events []relay.Event, blocked map[relay.Chain]int64) []relay.Event {
	ready := events[:0]
	var refused []relay.Outcome
	for _, e := range events {
		err := unsendable(e, blocked)
		if err == nil {
			ready = append(ready, e)
			continue
		}
		refused = append(refused, relay.Outcome{Ref: e.Ref, Err: err})
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
	}
	if len(refused) > 0 {
		t.flight.refused(t.lease.Topic, refused)
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
