package relay

import (
	"errors"
	"fmt"
)

// ErrClaimLost says that a claim's lanes are held by another claim, or by a
// later attempt of the same one. Whoever meets it stops at once: the events are
// in other hands.
var ErrClaimLost = errors.New("claim lost")

// ErrStopped says that publishing was asked to stop between two requests: by a
// worker shutting down, a run at its deadline, or a lease about to end. Events
// without an outcome are still pending.
var ErrStopped = errors.New("stopped")

// PublishError is a destination's refusal, for one event or for a request.
type PublishError struct {
	// Code is the destination's own short error code ("Throttled",
	// "AuthorizationError"), or one of the codes of this package where no
	// destination answered.
	Code string
	// Message is the destination's text.
	Message string
	// Class says what is to be done about it. Empty means ClassRetry.
	Class Class
	// Throttled is true if the destination asked for less. Its class is ClassRetry.
	Throttled bool
	// Ambiguous marks a poison verdict that is only to be believed beside events that get
	// through: the same code on every event means that the destination is not what
	// the configuration takes it for.
	Ambiguous bool
	// SenderFault is true where the destination blames the request. A hint for
	// people: it is also set for some throttling and KMS errors, so it does not
	// decide about a retry.
	SenderFault bool
	// Whole is true if it was not about this event: its whole request was refused
	// or unanswered, or the topic has no destination. Others would fare no better.
	Whole bool
	// Err is the cause, where there is one.
	Err error
}

// Codes for what happened without an answer from the destination.
const (
	CodeTimeout      = "Timeout"        // no answer within the request's deadline
	CodeConnection   = "Connection"     // the connection failed
	CodeUnanswered   = "Unanswered"     // the response names the entry neither as accepted nor as failed
	CodeNoRoute      = "NoRoute"        // no destination is configured for the topic
	CodeTooLarge     = "EventTooLarge"  // the event alone exceeds the destination's limit
	CodeEventMissing = "EventMissing"   // pending, and two looks did not find its event
	CodeResponse     = "BrokenResponse" // the response could not be understood

	CodeBlocked           = "BlockedBehind"     // behind an earlier event of its key that is a dead letter
	CodeTooManyAttributes = "TooManyAttributes" // the event has more attributes than AWS delivers
	CodeInvalidCharacter  = "InvalidCharacter"  // the event has a character that AWS does not deliver unaltered
	CodeInvalidEvent      = "InvalidEvent"      // the event breaks a rule of the outbox
	CodeNoTopic           = "TopicNotFound"     // no SNS topic has the configured name
	CodeListing           = "ListingTopics"     // the account's SNS topics are not all listed yet
	CodeNotSent           = "NotSent"           // the request could not be made: no credentials, say
)

func (e *PublishError) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

func (e *PublishError) Unwrap() error { return e.Err }
