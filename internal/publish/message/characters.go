package message

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// SQS allows #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF in
// a body, the characters of XML 1.0, and the same in String attributes, whose values are
// to be printable (SQS API Reference, SendMessage and MessageAttributeValue). What happens
// to another character is not certain, so an event with one is not sent:
//
//   - SNS accepts it and does not deliver the message to queues. Seen with a tab in an
//     attribute: https://github.com/aws/aws-sdk-java-v2/issues/5828
//   - SQS rejects it with InvalidMessageContents. AWS's pages also said that it stores
//     U+FFFD instead: https://github.com/async-aws/aws/pull/1950
//   - The AWS SDK replaces bytes that are no UTF-8 with U+FFFD in JSON.
//
// The outbox's Writer and table have the same rules for producers.

// badText says which character of ev no destination delivers unaltered, or returns nil.
func badText(ev *relay.Event) *relay.PublishError {
	for _, part := range [...]struct {
		name, text string
		lines      bool
	}{{"payload", ev.Payload, true}, {"type", ev.Type, false}, {"content_type", ev.ContentType, false}} {
		if at, what := badCharacter(part.text, part.lines); at >= 0 {
			return badTextAt(part.name, at, what)
		}
	}
	// It becomes a group id, hashed if need be.
	for at, r := range ev.Key {
		if r == utf8.RuneError {
			if _, width := utf8.DecodeRuneInString(ev.Key[at:]); width == 1 {
				return badTextAt("key", at, notUTF8)
			}
		}
	}
	var first string // of the bad attributes, by name
	var invalid *relay.PublishError
	for name, value := range ev.Attributes {
		part := "attribute"
		at, what := badCharacter(value, false)
		if at < 0 {
			part = "the name of attribute"
			at, what = badCharacter(name, false)
		}
		if at >= 0 && (invalid == nil || name < first) {
			first, invalid = name, badTextAt(fmt.Sprintf("%s %.64q", part, name), at, what)
		}
	}
	return invalid
}

func badTextAt(part string, at int, what string) *relay.PublishError {
	return errorcode.New(relay.CodeInvalidCharacter, fmt.Sprintf("%s %s at byte %d", part, what, at))
}

const notUTF8 = "is not valid UTF-8"

// badCharacter finds the first character of s that is not allowed, -1 if there is none.
// Tabs, line feeds and carriage returns are allowed in lines of text only.
func badCharacter(s string, lines bool) (at int, what string) {
	for i := 0; i < len(s); {
		// Eight bytes at once, and then more, as long as all are from ' ' to 0x7F.
		if len(s)-i >= 8 && isPlain(wordOf(s[i:])) {
			i += 8
			i += plainBlocks(s[i:])
			continue
		}
		for end := min(i+8, len(s)); i < end; {
			r, width := rune(s[i]), 1
			if r >= utf8.RuneSelf {
				r, width = utf8.DecodeRuneInString(s[i:])
			}
			switch {
			case r == utf8.RuneError && width == 1:
				return i, notUTF8
			case lines && (r == '\t' || r == '\n' || r == '\r'):
			case r < ' ', r == 0xFFFE, r == 0xFFFF: // a surrogate is no valid UTF-8
				return i, fmt.Sprintf("has U+%04X", r)
			}
			i += width
		}
	}
	return -1, ""
}

// plainBlocks is how many bytes the first blocks of a text have, up to a block with a byte that is not from ' '
// to 0x7F.
func plainBlocks(s string) (n int) {
	const block = 32
	for ; len(s) >= block; s = s[block:] {
		a, b, c, d := wordOf(s), wordOf(s[8:]), wordOf(s[16:]), wordOf(s[24:])
		// As in isPlain. The highest bits of differences are those of bytes that are less than ' ', as long
		// as no word has a byte above 0x7F.
		if (a|(a-spaces)|b|(b-spaces)|c|(c-spaces)|d|(d-spaces))&highs != 0 {
			break
		}
		n += block
	}
	return n
}

const spaces, highs = 0x2020202020202020, 0x8080808080808080

// isPlain reports whether eight bytes are from ' ' to 0x7F. Subtracting ' ' from each sets the highest bit of
// one that is less.
func isPlain(word uint64) bool { return (word|(word-spaces))&highs == 0 }

// wordOf returns the first eight bytes of a text.
func wordOf(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s[:8])) }
