package publish

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/limit"
	"github.com/temporal-outbox/relay/internal/relay"
)

// request is one request at a time, and has a goroutine that sends it.
// One goroutine for many requests keeps its stack: the SDK's is deep, and growing
// a new one for every request costs a tenth of the whole.
type request struct {
	outlet  *outlet
	sender  destination.Sender // of outlet
	opened  int                // outlet.opened when sender was made
	entries []*entry
	events  []*relay.Event // those of entries
	answer  destination.Answer
	began   time.Time
	latency time.Duration // of the answer
	// start starts the request with its deadline. Closing it ends the goroutine.
	start chan time.Time
}

// serve sends the request whenever it is started, and returns it through answered. ctx must not
// be one that is cancelled: such a request may have been accepted. Only its deadline ends it.
func (r *request) serve(ctx context.Context, answered chan<- *request) {
	for deadline := range r.start {
		r.events = r.events[:0]
		for _, e := range r.entries {
			r.events = append(r.events, e.ev)
		}
		ctx, cancel := context.WithDeadline(ctx, deadline)
		r.began = time.Now()
		r.answer = r.sender.Send(ctx, r.events)
		r.latency = time.Since(r.began)
		cancel()
		answered <- r
	}
}

// hung reports whether the destination did not answer.
func (r *request) hung() bool {
	failure := r.answer.Failure
	return failure != nil && (failure.Code == relay.CodeTimeout || failure.Code == relay.CodeConnection)
}

// ended says how the request ended, for statistics.
func (r *request) ended() relay.Answer {
	a := relay.Answer{Events: len(r.entries), Err: r.answer.Failure}
	for i := range r.entries {
		_, err := r.answer.Of(i)
		if r.answer.DeliveryUncertain || err != nil && err.Code == relay.CodeUnanswered {
			a.Suspected++
		}
	}
	return a
}

// sample is what the destination's limiter learns from the answer.
func (r *request) sample() limit.Answer {
	a := limit.Answer{Latency: r.latency, Throttled: r.answer.Throttled}
	for i := range r.entries {
		if _, err := r.answer.Of(i); err == nil {
			a.Accepted++
		} else if err.Throttled {
			a.Throttled = true
		}
	}
	return a
}
