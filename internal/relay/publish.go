package relay

import "time"

// PublishRequest is a stream of events of one topic. Topic, Events and Report
// are required.
type PublishRequest struct {
	Topic string

	// Concurrency is how many requests are in flight at once, at most. The destination's limiter,
	// which all calls of Publish share, may allow fewer. Default: the limiter alone decides.
	Concurrency int

	// Events is read until it is closed, or until Publish returns. The caller
	// must not change a page before that, and must be ready for nobody reading
	// any more once it has returned. Publish forgets the contents of an event before it
	// reports the event's outcome, so that they need no memory if the caller has dropped
	// the page.
	Events <-chan []Event

	// Deadline returns the instant after which nothing may be in flight, as far
	// as it is known now: the end of a lease less a margin. It is asked before
	// every request and before each attempt of one, also concurrently, and must not
	// block. The instant should carry a monotonic clock reading. Default: none.
	Deadline func() time.Time

	// Pace is asked before a request of n messages how long they have to wait so
	// that the topic stays within its rate, and asked again when that time is over.
	// Answering 0 it counts them as sent. It must not block. Default: no limit.
	Pace func(n int) time.Duration

	// Isolate makes every request that is refused as a whole be divided until the
	// events are known that cannot get through, whatever the code. Without it that
	// is done for codes that may be one event's fault.
	Isolate bool

	// Report gets the outcomes of every answered request, never concurrently,
	// and while further requests are in flight: what takes long belongs
	// elsewhere. The slice is the callee's to keep. To stop publishing because
	// of what it sees, it cancels the context of Publish.
	Report func([]Outcome)

	// Answered is told of every request that is over, before its outcomes are
	// reported, for statistics. Never concurrently; it must not block. Default: nobody
	// is told.
	Answered func(Answer)
}

// Answer is how a request ended.
type Answer struct {
	// Events is how many it carried.
	Events int
	// Err is why it failed as a whole, nil if the destination answered event by event.
	Err *PublishError
	// Suspected is how many of its events may be published twice: an attempt of it,
	// or the answer about them, was lost after it may have been accepted.
	Suspected int
	// Limit is how many requests the destination may have in flight now, of all calls of Publish.
	Limit int
}

// PublishResult counts what Publish read. Acknowledged, Failed, Held and Unsent
// add up to Events.
type PublishResult struct {
	Events       int // read
	Requests     int // sent
	Acknowledged int // outcomes without an error
	Failed       int // outcomes with one
	// Held counts events that were not sent, and have no outcome, because an
	// earlier event of their key failed on an ordered destination.
	Held int
	// Unsent counts events that were not sent, or only in a request that was to be
	// divided, and have no outcome, because publishing was stopped.
	Unsent int
}
