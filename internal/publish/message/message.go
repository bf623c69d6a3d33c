// Package message knows how an event becomes a message of SNS or SQS: its attributes, its size as
// AWS counts it, its group and deduplication ids, and the rules that it has to keep. It calls
// nothing.
package message

import (
	"cmp"
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

// StringType is the type of every attribute; AWS counts it towards the size.
const StringType = "String"

// MaxAttributes is how many attributes SQS accepts. SNS accepts more, and then silently
// discards the message for subscribed queues with raw delivery, so an event with more is
// invalid for both.
// https://docs.aws.amazon.com/sns/latest/dg/SNSMessageAttributes.html
const MaxAttributes = 10

// maxGroupID is AWS's limit for group and deduplication ids, in characters.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
const maxGroupID = 128

// EachAttribute calls yield with every attribute that ev is published with. The
// value's address stays valid as long as the event. No name comes twice: an attribute with
// the name of one of the relay's is left out, see brokenRule.
func EachAttribute(ev *relay.Event, yield func(name string, value *string)) {
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

// Measure returns how many bytes AWS counts for ev (body, and the attributes'
// names, types and values) and how many attributes it has.
func Measure(ev *relay.Event) (bytes, attributes int) {
	bytes = len(ev.Payload)
	EachAttribute(ev, func(name string, value *string) {
		bytes += len(name) + len(StringType) + len(*value)
		attributes++
	})
	return bytes, attributes
}

// Check measures ev, and returns why neither SNS nor SQS can accept it as a message of at
// most limit bytes, or nil.
func Check(ev *relay.Event, limit int) (bytes int, invalid *relay.PublishError) {
	bytes, attributes := Measure(ev)
	return bytes, cmp.Or(exceeded(bytes, attributes, limit), brokenRule(ev), badText(ev))
}

// exceeded says which limit an event exceeds that measures so much, or returns nil.
func exceeded(bytes, attributes, limit int) *relay.PublishError {
	switch {
	case bytes > limit:
		return errorcode.New(relay.CodeTooLarge,
			fmt.Sprintf("the event has %d bytes with its attributes, the destination accepts %d", bytes, limit))
	case attributes > MaxAttributes:
		return errorcode.New(relay.CodeTooManyAttributes,
			fmt.Sprintf("the event has %d attributes with the built-in ones, AWS accepts %d", attributes, MaxAttributes))
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

// Groups says which ids the messages of a destination get.
type Groups struct {
	FIFO bool // a group and a deduplication id, always
	Fair bool // the key as group, and no deduplication id
}

// IDs returns the group and the deduplication id of ev, nil where it gets none.
func (g Groups) IDs(ev *relay.Event) (group, deduplication *string) {
	switch {
	case g.FIFO:
		g, d := groupOnFIFO(ev), deduplicationID(ev)
		return &g, &d
	case g.Fair && ev.Key != "":
		g := groupID(ev.Key)
		return &g, nil
	}
	return nil, nil
}
