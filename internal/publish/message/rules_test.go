package message

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

func TestBrokenRule_NamesTheRule(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*relay.Event)
		want   string // empty: it is sent
	}{
		"nothing":                 {func(*relay.Event) {}, ""},
		"no key":                  {func(e *relay.Event) { e.Key = "" }, ""},
		"no attributes":           {func(e *relay.Event) { e.Attributes = nil }, ""},
		"a trace":                 {func(e *relay.Event) { e.Attributes["traceparent"] = "00" }, ""},
		"unlike a message":        {func(e *relay.Event) { e.Invalid = "attributes is not an object of strings" }, "attributes is not an object of strings"},
		"an empty payload":        {func(e *relay.Event) { e.Payload = "" }, "payload is empty"},
		"an empty type":           {func(e *relay.Event) { e.Type = "" }, "type is empty"},
		"an empty content type":   {func(e *relay.Event) { e.ContentType = "" }, "content_type is empty"},
		"an empty value":          {func(e *relay.Event) { e.Attributes["a"] = "" }, `attribute "a": the value is empty`},
		"an empty name":           {func(e *relay.Event) { e.Attributes[""] = "x" }, `attribute "": AWS does not allow this name`},
		"one of the relay's":      {func(e *relay.Event) { e.Attributes["event_id"] = "x" }, `attribute "event_id": the name is used by the relay`},
		"AWS's prefix":            {func(e *relay.Event) { e.Attributes["AWS.x"] = "x" }, `attribute "AWS.x": AWS does not allow this name`},
		"a space":                 {func(e *relay.Event) { e.Attributes["a b"] = "x" }, `attribute "a b": AWS does not allow this name`},
		"the first of two, by it": {func(e *relay.Event) { e.Attributes["b b"], e.Attributes["a"] = "x", "" }, `attribute "a": the value is empty`},
	} {
		t.Run(name, func(t *testing.T) {
			ev := fit()
			c.change(&ev)
			requirePoison(t, brokenRule(&ev), relay.CodeInvalidEvent, c.want)
		})
	}
}

func TestLegalName_AgreesWithTheWriter(t *testing.T) {
	for _, name := range []string{
		"", "a", "a.b", "a-b_C9", ".", ".a", "a.", "a..b", "a b", "ä", "a\x00", "aws", "aws.", "aws.a", "AWS.a", "Amazon.b", "AMAZON.b", "amazonb", "awsa", "amazon",
		strings.Repeat("x", 256), strings.Repeat("x", 257),
	} {
		err := outbox.Event{Topic: "t", Type: "T", Payload: "x", Attributes: map[string]string{name: "v"}}.Validate()
		assert.Equal(t, err == nil, legalName(name), "%q: the writer says %v", name, err)
	}
}
