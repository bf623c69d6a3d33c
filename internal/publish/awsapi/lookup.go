package awsapi

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// MaxLimit is the largest size, in bytes, that a topic or a queue can be set to accept.
const MaxLimit = 1 << 20

// MaximumMessageSize is the attribute that holds a destination's size limit, of
// topics and queues alike.
const MaximumMessageSize = "MaximumMessageSize"

// IsFIFO reports whether a topic or queue keeps the order of a key. AWS wants the suffix in its
// name, and so in its ARN and its URL.
func IsFIFO(name string) bool { return strings.HasSuffix(name, ".fifo") }

// WithLimit returns r with the limit that is in the attributes of its destination. Without one
// there, r keeps its guess.
func WithLimit(r destination.Route, attributes map[string]string) destination.Route {
	if limit, err := strconv.Atoi(attributes[MaximumMessageSize]); err == nil && limit > 0 {
		r.Limit, r.Guessed = limit, false
	}
	return r
}

// Properties are those of the topic or queue of a looked-up route.
func Properties(r destination.Route) destination.Properties {
	return destination.Properties{
		Address: destination.WithoutSecrets(r.Address), Ordered: r.Ordered, MaxEvents: MaxEvents, MaxBytes: r.Limit,
	}
}

// Name returns the last part of an ARN or a URL, which is the destination's own name.
func Name(address string) string { return address[strings.LastIndexAny(address, ":/")+1:] }

// CheckLimit returns the size, in bytes, from which an event is known to be too large. A
// guess is good enough to form requests by, but not to give an event up for: that is left
// to the destination.
func CheckLimit(r destination.Route) int {
	if r.Guessed {
		return max(r.Limit, MaxLimit)
	}
	return r.Limit
}

// IsForbidden reports whether a call failed for want of a permission.
func IsForbidden(err error) bool { return hasCause(err, errorcode.CauseForbidden) }

// IsMissing reports whether a call failed because its object does not exist.
func IsMissing(err error) bool { return hasCause(err, errorcode.CauseMissing) }

func hasCause(err error, cause errorcode.Cause) bool {
	return err != nil && errorcode.Lookup(Error(err).Code).Cause == cause
}

// LookUpError adds to the error of a failed look-up the topic, the destination and what to do.
// The remedy for a missing permission differs between the services, so it is given.
func LookUpError(r destination.Route, err error, ifForbidden string) error {
	pe := *Error(err)
	if pe.Class == relay.ClassPoison {
		// No event was part of this, so it is the address that is not allowed.
		pe.Class, pe.Ambiguous = relay.ClassDestination, false
	}
	pe.Message = errorcode.Shorten(fmt.Sprintf("%s; %s", strings.TrimRight(pe.Message, "."), remedy(r, pe.Code, ifForbidden)))
	return fmt.Errorf("resolve topic %s, %s: %w", r.Topic, r, &pe)
}

// remedy says what to do about a code met while looking r up.
func remedy(r destination.Route, code, ifForbidden string) string {
	switch errorcode.Lookup(code).Cause {
	case errorcode.CauseMissing:
		return fmt.Sprintf("create it in %s, or correct its name, AWS_REGION or the account", r.Region)
	case errorcode.CauseForbidden:
		return ifForbidden
	case errorcode.CauseNetwork:
		return "check the network, AWS_REGION and AWS_ENDPOINT_URL"
	case errorcode.CauseListing:
		return "the next attempt reads on; give the topic's ARN instead of its name, and nothing has to be listed"
	case errorcode.CauseCredentials:
		return "check that the worker has AWS credentials, that they are valid, and its clock"
	case errorcode.CauseKey:
		return "check the key that encrypts it, and the worker's rights on that"
	}
	return "see AWS's documentation of this code"
}

// MayPublishError says what the answer to an empty batch tells about the right to publish, as
// destination.Driver wants it. A rejection that concerns the destination is certain. Any other
// rejection is not: AWS does not document whether it checks the permission before the batch.
// Neither tells of the key of an encrypted destination, which is only used for a message.
func MayPublishError(r destination.Route, err error) error {
	if err == nil {
		return nil // as from some emulators
	}
	pe := Error(err)
	switch pe.Class {
	case relay.ClassDestination:
		return fmt.Errorf("publish to %s: %w", r, pe)
	case relay.ClassOurs, relay.ClassPoison:
		return fmt.Errorf("%w: AWS refused an empty batch with %s, and AWS does not say whether it checks the permission before the batch", destination.ErrUntold, pe.Code)
	default:
		return fmt.Errorf("%w: %s was asked and did not answer: %w", destination.ErrUntold, r, pe)
	}
}
