package outbox

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultContentType is the content type of events that name none.
const DefaultContentType = "application/json"

// Message attributes that the relay adds to every message, for consumers to
// read. Producers cannot set them through [Event.Attributes], except for
// traceparent.
const (
	AttributeEventID     = "event_id"
	AttributeEventType   = "event_type"
	AttributeContentType = "content_type"
	AttributeTraceparent = "traceparent"
)

// Event is a fact to be published once its transaction has committed. Topic,
// Type and Payload are required. [Event.Validate] states every limit.
type Event struct {
	// ID identifies the event to consumers. Zero: Write generates one. Set it
	// (see [NewID]) to know it, or to keep it when a transaction is tried again.
	ID ID

	// Topic is the logical name that the relay's configuration resolves to an
	// SNS topic or SQS queue. Printable characters, at most 256 bytes.
	Topic string

	// Key orders events: ordered destinations get the events of one topic and key in
	// sequence. Usually it is the aggregate's id; at most 1024 bytes. Empty: the event
	// has no order, and never waits for another event.
	Key string

	// Type names the kind of event, such as "order.placed". Consumers route and
	// filter events by it. At most 256 bytes, in one line.
	Type string

	// Payload is published byte for byte. It is text, because SQS and SNS carry
	// text: [JSON] encodes a value; encode binary data, in base64 for example.
	Payload string

	// ContentType is the payload's media type. Empty: [DefaultContentType]. At
	// most 256 bytes, in one line.
	ContentType string

	// Attributes are further message attributes, all of type String, which SNS
	// filter policies can match. Each value is one line. At most six: AWS allows
	// ten, and the relay uses four. A valid "traceparent" among them does not
	// count, and replaces the one of Write's ctx.
	Attributes map[string]string
}

// Size returns the bytes that count against the size limit of SQS and SNS:
// payload, own attributes and the attributes of the relay, each with name, type and
// value. It always includes a traceparent, so that tracing does not decide
// whether an event is valid.
func (e Event) Size() int {
	size := len(e.Payload) +
		attributeSize(AttributeEventID, len("00000000-0000-0000-0000-000000000000")) +
		attributeSize(AttributeEventType, len(e.Type)) +
		attributeSize(AttributeContentType, len(e.contentType())) +
		attributeSize(AttributeTraceparent, traceparentLength)
	for name, value := range e.Attributes {
		if name != AttributeTraceparent {
			size += attributeSize(name, len(value))
		}
	}
	return size
}

// Validate checks the event against the rules of SQS, SNS and the outbox, and
// returns nil or [ValidationErrors] with all broken rules. Write validates events
// by itself.
//
// An event of more than 256 KiB is valid, but SNS topics accept it only with a
// raised topic attribute MaximumMessageSize. Validate does not know that limit; the
// relay learns each destination's limit and makes dead letters of larger events.
func (e Event) Validate() error {
	var problems ValidationErrors
	e.check(problems.collect(0))
	return problems.orNil()
}

// check passes every broken rule to report.
func (e Event) check(report func(field, reason string, args ...any)) {
	e.checkTopic(report)
	e.checkKey(report)

	// Type and content type travel as message attributes, so the rules for
	// attribute values apply. The lengths are the outbox's own.
	for _, f := range []struct{ field, value string }{{"Type", e.Type}, {"ContentType", e.contentType()}} {
		if reason := badText(f.value, false); reason != "" {
			report(f.field, "%s", reason)
		}
		if len(f.value) > maxName {
			report(f.field, "is %d bytes long, the limit is %d", len(f.value), maxName)
		}
	}

	if reason := badText(e.Payload, true); reason != "" {
		report("Payload", "%s", reason)
	}
	if size := e.Size(); size > MaxSize {
		report("Payload", "makes a message of %d bytes with its attributes, the limit of SQS and SNS is %d", size, MaxSize)
	}
	e.checkAttributes(report)
}

// checkTopic accepts only topics that can be shown in one line, because topics are
// part of workflow ids, configuration files and error messages.
func (e Event) checkTopic(report func(field, reason string, args ...any)) {
	switch {
	case e.Topic == "":
		report("Topic", "is empty")
	case len(e.Topic) > maxName:
		report("Topic", "is %d bytes long, the limit is %d", len(e.Topic), maxName)
	case !utf8.ValidString(e.Topic):
		report("Topic", "is not valid UTF-8")
	default:
		if i := strings.IndexFunc(e.Topic, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			report("Topic", "has a character at byte %d that cannot be printed", i)
		}
	}
}

// checkKey accepts all keys that PostgreSQL can store as text. AWS's narrower rules
// for MessageGroupId do not apply to producers: the relay hashes such keys.
func (e Event) checkKey(report func(field, reason string, args ...any)) {
	if len(e.Key) > maxKey {
		report("Key", "is %d bytes long, the limit is %d", len(e.Key), maxKey)
	}
	if !utf8.ValidString(e.Key) {
		report("Key", "is not valid UTF-8")
	}
	if i := strings.IndexByte(e.Key, 0); i >= 0 {
		report("Key", "has a NUL at byte %d, which PostgreSQL cannot store", i)
	}
}

func (e Event) checkAttributes(report func(field, reason string, args ...any)) {
	own := 0
	for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
		value := e.Attributes[name]
		// A bad name can have any length and content; people read the report.
		label := fmt.Sprintf("%.64q", name)
		switch name {
		case AttributeTraceparent:
			if !validTraceparent(value) {
				report("Attributes", "%s: is not a W3C traceparent of version 00", label)
			}
			continue
		case AttributeEventID, AttributeEventType, AttributeContentType:
			report("Attributes", "%s: is set by the relay", label)
			continue
		}
		own++
		if reason := badAttributeName(name); reason != "" {
			report("Attributes", "%s: %s", label, reason)
		}
		if reason := badText(value, false); reason != "" {
			report("Attributes", "%s: value %s", label, reason)
		}
	}
	if own > MaxAttributes {
		report("Attributes", "are %d, the limit is %d", own, MaxAttributes)
	}
}

// contentType returns the content type that is stored and published.
func (e Event) contentType() string {
	if e.ContentType == "" {
		return DefaultContentType
	}
	return e.ContentType
}
