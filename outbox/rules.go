package outbox

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// MaxSize is the maximum of [Event.Size]. It is SQS's limit for a message, and
	// the highest limit that an SNS topic can have.
	//
	// Amazon SQS API Reference, SendMessage: "The maximum size is 1 MiB or
	// 1,048,576 bytes." Amazon SNS Developer Guide, "Large message payloads".
	MaxSize = 1 << 20

	// MaxAttributes is how many attributes of its own an event may have.
	//
	// Amazon SQS Developer Guide, "Message metadata": up to 10 attributes a
	// message. Amazon SNS Developer Guide, "Message attributes": with raw
	// delivery, SNS discards a message with more. The relay adds four.
	MaxAttributes = 10 - 4

	// The outbox's own limits.
	maxName = 256  // topic, type, content type, in bytes
	maxKey  = 1024 // in bytes; long keys are hashed into a MessageGroupId

	// Amazon SQS Developer Guide, "Message metadata", and Amazon SNS Developer
	// Guide, "Message attributes": a name has up to 256 characters.
	maxAttributeName = 256
)

// attributeSize is one String attribute's share of a message's size.
//
// Amazon SQS API Reference, MessageAttributeValue: name, type and value are all
// part of the message size restriction. SNS has the same sentence.
func attributeSize(name string, value int) int {
	return len(name) + len("String") + value
}

// badText returns the rule that forbids s as a message body, or, if lines is false,
// as a String attribute value, and "" if s is allowed.
//
// Amazon SQS API Reference, SendMessage, MessageBody: at least one character;
// allowed are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to
// #x10FFFF. MessageAttributeValue, in SQS and SNS alike: String values have the
// restrictions of the body, are UTF-8, and must not be empty; the reference names
// printable characters only. SNS accepts others and does not deliver the message
// to queues: seen with a tab, github.com/aws/aws-sdk-java-v2/issues/5828. SNS
// requires only UTF-8 of a body, but a message that it delivers to SQS must obey
// SQS's rules too. The table and the relay have the same rules.
func badText(s string, lines bool) string {
	if s == "" {
		return "is empty"
	}
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			// U+FFFD itself is legal; a decoding error looks the same, but is one byte wide.
			if _, width := utf8.DecodeRuneInString(s[i:]); width == 1 {
				return fmt.Sprintf("is not valid UTF-8 at byte %d", i)
			}
		case r >= 0x20 && r < 0xFFFE, r >= 0x10000:
			// Surrogates, U+D800 to U+DFFF, never get here: they are no valid UTF-8.
		case lines && (r == '\n' || r == '\t' || r == '\r'):
		default:
			return fmt.Sprintf("has U+%04X at byte %d, which SNS or SQS does not deliver", r, i)
		}
	}
	return ""
}

// badAttributeName returns the rule that forbids the name of a message attribute,
// or "" if the name is allowed.
//
// Amazon SQS Developer Guide, "Message metadata", and Amazon SNS Developer
// Guide, "Message attributes", in the same words: A-Z, a-z, 0-9, underscore,
// hyphen and period; up to 256 characters; not beginning with AWS. or Amazon.
// in any casing; no period at the start, at the end, or after another.
func badAttributeName(name string) string {
	if name == "" {
		return "name is empty"
	}
	if len(name) > maxAttributeName {
		return fmt.Sprintf("name is %d bytes long, AWS's limit is %d", len(name), maxAttributeName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.':
		default:
			return "name may have only A-Z, a-z, 0-9, underscore, hyphen and period"
		}
	}
	if lower := strings.ToLower(name); strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") {
		return "name begins with a prefix that AWS reserves"
	}
	if name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, "..") {
		return "name has a period at an end or two in a row"
	}
	return ""
}
