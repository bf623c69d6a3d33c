package publish

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// The message attributes that every event carries. The producer's own, traceparent among
// them, come on top.
const (
	attributeEventID     = "event_id"
	attributeEventType   = "event_type"
	attributeContentType = "content_type"
)

// stringType is the type of every attribute; AWS counts it towards the size.
var stringType = "String"

// maxAttributes is what SQS accepts. SNS accepts more, and then silently
// discards the message for subscribed queues with raw delivery, so more are
// refused here.
// https://docs.aws.amazon.com/sns/latest/dg/SNSMessageAttributes.html
const maxAttributes = 10

// maxGroupID is AWS's limit for group and deduplication ids, in characters.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
const maxGroupID = 128

// eachAttribute calls yield with every attribute that ev is published with. The
// value's address stays valid as long as the event. No name comes twice: an attribute with
// the name of one of the relay's is left out, see broken.
func eachAttribute(ev *relay.Event, yield func(name string, value *string)) {
	if ev.EventID != "" {
		yield(attributeEventID, &ev.EventID)
	}
	if ev.Type != "" {
		yield(attributeEventType, &ev.Type)
	}
	if ev.ContentType != "" {
		yield(attributeContentType, &ev.ContentType)
	}
	for name, value := range ev.Attributes {
		switch name {
		case attributeEventID, attributeEventType, attributeContentType:
		default:
			yield(name, &value)
		}
	}
}

// measure returns how many bytes AWS counts for ev (body, and the attributes'
// names, types and values) and how many attributes it has.
func measure(ev *relay.Event) (bytes, attributes int) {
	bytes = len(ev.Payload)
	eachAttribute(ev, func(name string, value *string) {
		bytes += len(name) + len(stringType) + len(*value)
		attributes++
	})
	return bytes, attributes
}

// refuse says why an event that measures so much cannot be sent to a destination
// with that limit, or returns nil.
func refuse(bytes, attributes, limit int) *relay.PublishError {
	switch {
	case bytes > limit:
		return errorcode.New(relay.CodeTooLarge,
			fmt.Sprintf("the event has %d bytes with its attributes, the destination accepts %d", bytes, limit))
	case attributes > maxAttributes:
		return errorcode.New(relay.CodeTooManyAttributes,
			fmt.Sprintf("the event has %d attributes with the built-in ones, AWS accepts %d", attributes, maxAttributes))
	}
	return nil
}

// groupID returns the MessageGroupId for a key: the key itself where AWS accepts
// it, else a hash of it, which keeps equal keys together and others apart.
func groupID(key string) string {
	if len(key) <= maxGroupID && legal(key) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// legal reports whether s has only ASCII letters, digits and punctuation, which
// are the characters '!' to '~'. A space is not among them.
func legal(s string) bool {
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}

// groupOnFIFO returns the group of an event on a FIFO destination, which insists
// on one: an event without a key is a group of its own.
func groupOnFIFO(ev *relay.Event) string {
	if ev.Key == "" {
		return ev.EventID
	}
	return groupID(ev.Key)
}

// deduplicationID returns the id that makes AWS drop a repetition within five
// minutes. It is the same for every attempt, because a retry must be recognised,
// and different for a replay, which is meant to arrive.
func deduplicationID(ev *relay.Event) string {
	if ev.Replay == 0 {
		return ev.EventID
	}
	return ev.EventID + "/" + strconv.FormatInt(ev.Replay, 10)
}

// groupAndDeduplication returns the two ids of ev for a route, nil where the
// destination gets none.
func groupAndDeduplication(r Route, ev *relay.Event) (group, deduplication *string) {
	switch {
	case r.Ordered:
		g, d := groupOnFIFO(ev), deduplicationID(ev)
		return &g, &d
	case r.Fair && ev.Key != "":
		g := groupID(ev.Key)
		return &g, nil
	}
	return nil, nil
}
