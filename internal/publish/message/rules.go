package message

import (
	"fmt"
	"strings"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// brokenRule says which rule of the outbox ev breaks, or returns nil. The trigger of the table
// has the same rules. It does not see a row that is written past it, or changed later.
func brokenRule(ev *relay.Event) *relay.PublishError {
	reason := ev.Invalid
	switch {
	case reason != "":
	case ev.Payload == "":
		reason = "payload is empty"
	case ev.Type == "":
		reason = "type is empty"
	case ev.ContentType == "":
		reason = "content_type is empty"
	default:
		var first string // of the broken attributes, by name
		for name, value := range ev.Attributes {
			if problem := brokenAttribute(name, value); problem != "" && (reason == "" || name < first) {
				first, reason = name, fmt.Sprintf("attribute %.64q: %s", name, problem)
			}
		}
	}
	if reason == "" {
		return nil
	}
	return errorcode.New(relay.CodeInvalidEvent, reason)
}

func brokenAttribute(name, value string) string {
	switch name {
	case attributeEventID, attributeEventType, attributeContentType:
		return "the name is used by the relay"
	}
	switch {
	case value == "":
		return "the value is empty"
	case !legalName(name):
		return "AWS does not allow this name"
	}
	return ""
}

// legalName reports whether AWS allows a message attribute of that name: up to 256 of A-Z,
// a-z, 0-9, underscore, hyphen and period; no period at an end or after another; no prefix
// AWS. or Amazon. in any casing (SQS Developer Guide, "Message metadata", and SNS Developer
// Guide, "Message attributes").
func legalName(name string) bool {
	before := byte('.')
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && before != '.':
			before = c
		default:
			return false
		}
	}
	return len(name) <= 256 && before != '.' && !hasPrefixFold(name, "aws.") && !hasPrefixFold(name, "amazon.")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
