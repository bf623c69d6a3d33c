// Package destination is the port between the relay and the services that it publishes to.
//
// A destination describes itself and sends requests. Everything else is the relay's, and the
// same for all destinations: which events share a request, the order of a key, the division
// of a rejected request, throttling, retries, dead letters, receipts, metrics and traces. A
// new kind of destination is a folder beside sns and sqs that has a Driver. The package
// destinationtest tests whether a Driver keeps this contract.
package destination

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// Driver is a kind of destination, such as SNS. All destinations of the kind share it, so it
// is safe for concurrent use.
type Driver interface {
	// LookUp asks the service for the Address, if r has none, and for the Limit. It returns
	// a copy of r that has both. A limit that may not be read stays as it is, with Guessed
	// set. The error wraps a *relay.PublishError and ends with what to do about it.
	LookUp(ctx context.Context, r Route) (Route, error)

	// Open returns the destination of a route that LookUp has returned. It does not touch
	// the network.
	Open(r Route) Destination

	// MayPublish asks whether the destination of a looked-up route may be published to, and
	// publishes nothing. Nil means yes. An error that wraps ErrUntold means that the service
	// does not tell. Any other error wraps a *relay.PublishError, and is certain.
	MayPublish(ctx context.Context, r Route) error
}

// ErrUntold says that a destination has not told whether it may be published to.
var ErrUntold = errors.New("not known")

// LookUpTimeout bounds a LookUp. It is shorter than a batch lasts, so that a batch whose
// destination hangs fails for that reason.
const LookUpTimeout = 4 * time.Second

// Destination is one destination, looked up. It is safe for concurrent use.
type Destination interface {
	// Properties says what the destination is. The answer never changes.
	Properties() Properties

	// Span says how the spans of requests name the destination. The answer never changes.
	Span() Span

	// Check returns how many bytes ev counts towards MaxBytes. It also returns why the
	// destination can never accept ev, nil if it may: such an event is not sent, and the
	// error is its outcome. The class of the error is relay.ClassPoison.
	Check(ev *relay.Event) (bytes int, invalid *relay.PublishError)

	// NewSender returns a sender. One with many requests in flight has a sender for each.
	NewSender() Sender
}

// Properties are what the relay needs to know of a destination to form requests.
type Properties struct {
	// Address names the destination in receipts. It holds no secret.
	Address string
	// Ordered is true if the destination keeps the events of a key in order. The relay
	// then never has two events of a key in flight, and so none overtakes another.
	Ordered bool
	// MaxEvents is how many events a request may carry.
	MaxEvents int
	// MaxBytes is how large a request may be, as Check counts. A larger event that Check
	// lets through is sent alone.
	MaxBytes int
}

// Span is the part of a request's span that depends on the kind of destination, in the words of
// OpenTelemetry's conventions for messaging. Nothing in it is a secret.
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
type Span struct {
	// Operation is how the service calls the sending of messages, such as "publish".
	Operation string
	// Name is the destination's own name, without the account or the host.
	Name string
	// Attributes name the messaging system and the address of the destination.
	Attributes []attribute.KeyValue
}

// Sender sends one request at a time. It may keep buffers from one request to the next.
type Sender interface {
	// Send sends events, MaxEvents at most, in their order in one request, and returns the
	// answer, which is valid until the next call. It retains nothing of the events.
	//
	// Only the deadline of ctx ends a request: it bounds all attempts together, and a
	// request that is cancelled half-way may have been accepted. An attempt must not begin
	// after the deadline that detach.WithDeadline has put into ctx either, which detach.Client
	// checks.
	Send(ctx context.Context, events []*relay.Event) Answer
}

// Answer is how a request ended.
type Answer struct {
	// Failure is why the request failed as a whole: it was rejected or not answered. Its
	// field Whole is true. Nil if the destination has answered event by event.
	Failure *relay.PublishError
	// Outcomes are those of the events, in their order. Not used with a Failure.
	Outcomes []Outcome
	// DeliveryUncertain is true if an attempt of the request may have been accepted although
	// its answer was lost. The answer itself may be that to a later attempt.
	DeliveryUncertain bool
	// Throttled is true if the destination has asked for less in an attempt of the request. The
	// answer itself may be that to a later attempt.
	Throttled bool
}

// Outcome is what the destination said of one event. The zero value means that it said
// nothing, and then the event counts neither as accepted nor as rejected: it is sent again.
type Outcome struct {
	Accepted bool
	// MessageID is the destination's id of an accepted message, "" if it gives none.
	MessageID string
	// Err is why the event was not accepted.
	Err *relay.PublishError
}

// Failed is the answer to a request that failed as a whole.
func Failed(err *relay.PublishError) Answer {
	err.Whole = true
	return Answer{Failure: err}
}

// Of returns what became of event i of the request: its message id, or why it was not
// accepted. Every event has an answer, also one that the destination has left out.
func (a *Answer) Of(i int) (messageID string, err *relay.PublishError) {
	if a.Failure != nil {
		return "", a.Failure
	}
	var o Outcome
	if i < len(a.Outcomes) {
		o = a.Outcomes[i]
	}
	switch {
	case o.Err != nil:
		return "", o.Err
	case !o.Accepted:
		return "", errorcode.New(relay.CodeUnanswered, "the response names the event neither as accepted nor as failed")
	}
	return o.MessageID, nil
}
