package outbox_test

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/outbox"
)

// The model: AWS's documented rules once more, as regular expressions copied
// from the documentation's own notation, so that a slip in the package's loops
// and comparisons does not repeat here. The sources are named in rules.go.
var (
	modelText   = regexp.MustCompile(`\A[\x{9}\x{A}\x{D}\x{20}-\x{D7FF}\x{E000}-\x{FFFD}\x{10000}-\x{10FFFF}]+\z`)
	modelName   = regexp.MustCompile(`\A[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\z`)
	modelPrefix = regexp.MustCompile(`\A(?i:aws|amazon)\.`)
	modelTopic  = regexp.MustCompile(`\A[\pL\pM\pN\pP\pS ]+\z`)
	modelParent = regexp.MustCompile(`\A00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]\z`)
	modelZeros  = regexp.MustCompile(`\A00-(0{32}-.*|.*-0{16}-..)\z`)
)

// model returns the fields that break a rule.
func model(e outbox.Event) map[string]bool {
	fields := map[string]bool{}
	must := func(field string, ok bool) {
		if !ok {
			fields[field] = true
		}
	}
	text := func(s string) bool { return utf8.ValidString(s) && modelText.MatchString(s) }
	line := func(s string) bool { return text(s) && !strings.ContainsAny(s, "\t\n\r") }
	contentType := e.ContentType
	if contentType == "" {
		contentType = "application/json"
	}
	must("Topic", len(e.Topic) <= 256 && utf8.ValidString(e.Topic) && modelTopic.MatchString(e.Topic))
	must("Key", len(e.Key) <= 1024 && utf8.ValidString(e.Key) && !strings.Contains(e.Key, "\x00"))
	must("Type", len(e.Type) <= 256 && line(e.Type))
	must("ContentType", len(contentType) <= 256 && line(contentType))
	must("Payload", text(e.Payload))

	own := 0
	message := e.Payload + "event_idString" + strings.Repeat("u", 36) + "event_typeString" + e.Type +
		"content_typeString" + contentType + "traceparentString" + strings.Repeat("t", 55)
	for name, value := range e.Attributes {
		switch name {
		case "traceparent":
			must("Attributes", modelParent.MatchString(value) && !modelZeros.MatchString(value))
		case "event_id", "event_type", "content_type":
			must("Attributes", false)
		default:
			own++
			must("Attributes", len(name) <= 256 && modelName.MatchString(name) && !modelPrefix.MatchString(name))
			must("Attributes", line(value))
		}
		if name != "traceparent" {
			message += name + "String" + value
		}
	}
	must("Attributes", own <= 6)
	must("Payload", len(message) <= 1048576)
	return fields
}

func FuzzValidate_AgreesWithTheDocumentedRules(f *testing.F) {
	f.Add("orders", "o-1", "order.placed", "{}", "", "tenant", "a", "traceparent", parent, uint8(4))
	f.Add("", "\x00", "", "", "\x7f", "", "", "AWS.x", "\x01", uint8(6))
	f.Add("a\u200db", "\xff", "\ufffd", "\ufffe", "text/plain", "a..b", "\xed\xa0\x80", ".", "\r", uint8(5))
	f.Add(" ", "k", "t", "\U0010ffff", "\t", "amazoN.", "x", "event_id", "x", uint8(7))
	f.Add("t", strings.Repeat("k", 1025), "t", "p", strings.Repeat("c", 257), strings.Repeat("n", 257), "x",
		"traceparent", "00-"+strings.Repeat("0", 32)+parent[35:], uint8(0))
	f.Fuzz(func(t *testing.T, topic, key, kind, payload, content, name1, value1, name2, value2 string, more uint8) {
		e := outbox.Event{Topic: topic, Key: key, Type: kind, Payload: payload, ContentType: content}
		numbered(int(more % 9))(&e)
		attribute(name1, value1)(&e)
		attribute(name2, value2)(&e)
		if got, want := brokenFields(t, e.Validate()), model(e); !maps.Equal(got, want) {
			t.Errorf("%+q\nValidate names %v, the model %v", e, got, want)
		}
	})
}

// validEvents draws from everything that the rules allow, edges included.
func validEvents() *rapid.Generator[outbox.Event] {
	line := rapid.OneOf(
		rapid.Just("\ufffd"), rapid.StringMatching(`[\x{20}-\x{7F}]{1,60}`),
		rapid.StringMatching(`[\x{20}-\x{D7FF}\x{E000}-\x{FFFD}\x{10000}-\x{10FFFF}]{1,60}`),
		// What array, JSON and SQL literals have to quote.
		rapid.SampledFrom([]string{`{"a":[1,null]}`, `NULL`, `{}`, `,`, `"`, `\`, `'; --`, `$1`, `a\\"b`, " ", "<&>\u2028"}),
	)
	text := rapid.OneOf(line, rapid.StringMatching(`[\x{9}\x{A}\x{D}\x{20}-\x{7F}]{1,60}`))
	return rapid.Custom(func(t *rapid.T) outbox.Event {
		e := outbox.Event{
			Topic:       rapid.StringMatching(`[\pL\pN\pP\pS ]{1,60}`).Draw(t, "topic"),
			Key:         rapid.StringMatching(`[\x{1}-\x{D7FF}]{0,60}`).Draw(t, "key"),
			Type:        line.Draw(t, "type"),
			Payload:     text.Draw(t, "payload"),
			ContentType: rapid.OneOf(rapid.Just(""), line).Draw(t, "content type"),
		}
		for i := range rapid.IntRange(0, 6).Draw(t, "attributes") {
			name := rapid.StringMatching(`[A-Za-z0-9_-]{1,60}(\.[A-Za-z0-9_-]{1,60}){0,2}`).Draw(t, "name")
			attribute(fmt.Sprintf("n%d%s", i, name), line.Draw(t, "value"))(&e)
		}
		return e
	})
}

func TestValidate_AcceptsEveryEventMadeByTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := validEvents().Draw(t, "event")
		if err := e.Validate(); err != nil {
			t.Fatalf("%+q: %v", e, err)
		}
	})
}
