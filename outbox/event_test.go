package outbox_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/temporal-outbox/relay/outbox"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// attribute sets one attribute beside those that the event has.
func attribute(name, value string) func(*outbox.Event) {
	return func(e *outbox.Event) {
		e.Attributes = maps.Clone(e.Attributes)
		if e.Attributes == nil {
			e.Attributes = map[string]string{}
		}
		e.Attributes[name] = value
	}
}

// numbered sets n attributes with legal names and values.
func numbered(n int) func(*outbox.Event) {
	return func(e *outbox.Event) {
		for i := range n {
			attribute(fmt.Sprintf("a%d", i), "x")(e)
		}
	}
}

func topic(s string) func(*outbox.Event)   { return func(e *outbox.Event) { e.Topic = s } }
func key(s string) func(*outbox.Event)     { return func(e *outbox.Event) { e.Key = s } }
func kind(s string) func(*outbox.Event)    { return func(e *outbox.Event) { e.Type = s } }
func payload(s string) func(*outbox.Event) { return func(e *outbox.Event) { e.Payload = s } }
func content(s string) func(*outbox.Event) { return func(e *outbox.Event) { e.ContentType = s } }

func TestValidate_AcceptsWhatAWSAccepts(t *testing.T) {
	for name, change := range map[string]func(*outbox.Event){
		"the plain event":               func(*outbox.Event) {},
		"the longest topic":             topic(strings.Repeat("t", 256)),
		"a topic in another script":     topic("注文 заказы"),
		"no key":                        key(""),
		"the longest key":               key(strings.Repeat("k", 1024)),
		"a key with control characters": key("a\x01\x1f b"),
		"the longest type":              kind(strings.Repeat("t", 256)),
		"the shortest payload":          payload("x"),
		"tab, newline, return":          payload("\t\n\r"),
		"the edges of the legal ranges": payload("\u0020\ud7ff\ue000\ufffd\U00010000\U0010ffff"),
		"delete and C1 controls":        payload("\x7f\u0080\u009f"),
		"a content type":                content("application/cloudevents+json; charset=utf-8"),
		"six attributes":                numbered(6),
		"the longest name":              attribute(strings.Repeat("n", 256), "x"),
		"every kind of character":       attribute("aZ09_-.x", "x"),
		"a prefix that only looks like": attribute("awsome.x", "x"),
		"the prefix without its period": attribute("AWS", "x"),
		"a reserved name, other case":   attribute("Event_ID", "x"),
		"traceparent beside six": func(e *outbox.Event) {
			numbered(6)(e)
			attribute("traceparent", parent)(e)
		},
	} {
		if err := event(change).Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidate_ReportsEveryBrokenRuleForItsField(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*outbox.Event)
		field  string
		reason string
	}{
		"no topic":             {topic(""), "Topic", "is empty"},
		"a long topic":         {topic(strings.Repeat("t", 257)), "Topic", "257 bytes"},
		"a topic of bad UTF-8": {topic("a\xff"), "Topic", "UTF-8"},
		"a topic with newline": {topic("or\nders"), "Topic", "byte 2"},
		"a topic with a tab":   {topic("\t"), "Topic", "printed"},
		"a long key":           {key(strings.Repeat("k", 1025)), "Key", "1025 bytes"},
		"a key of bad UTF-8":   {key("\xc0\x80"), "Key", "UTF-8"},
		"a key with NUL":       {key("a\x00"), "Key", "NUL at byte 1"},
		"no type":              {kind(""), "Type", "is empty"},
		"a long type":          {kind(strings.Repeat("t", 257)), "Type", "257 bytes"},
		"a type with escape":   {kind("a\x1b"), "Type", "U+001B at byte 1"},
		"no payload":           {payload(""), "Payload", "is empty"},
		"NUL":                  {payload("{}\x00"), "Payload", "U+0000 at byte 2"},
		"vertical tab":         {payload("\v"), "Payload", "U+000B"},
		"unit separator":       {payload("\x1f"), "Payload", "U+001F"},
		"U+FFFE":               {payload("ü\ufffe"), "Payload", "U+FFFE at byte 2"},
		"U+FFFF":               {payload("\uffff"), "Payload", "U+FFFF"},
		"an encoded surrogate": {payload("\xed\xa0\x80"), "Payload", "UTF-8 at byte 0"},
		"bad UTF-8":            {payload("é\xff"), "Payload", "UTF-8 at byte 2"},
		"a bad content type":   {content("a\x00"), "ContentType", "U+0000"},
		"a long content type":  {content(strings.Repeat("c", 257)), "ContentType", "257 bytes"},
		"seven attributes":     {numbered(7), "Attributes", "are 7, the limit is 6"},
		"no name":              {attribute("", "x"), "Attributes", "name is empty"},
		"a long name":          {attribute(strings.Repeat("n", 257), "x"), "Attributes", "257 bytes"},
		"a space in a name":    {attribute("a b", "x"), "Attributes", "may have only"},
		"an umlaut in a name":  {attribute("größe", "x"), "Attributes", "may have only"},
		"AWS. in a name":       {attribute("aWs.x", "x"), "Attributes", "reserves"},
		"Amazon. in a name":    {attribute("AMAZON.x", "x"), "Attributes", "reserves"},
		"a leading period":     {attribute(".x", "x"), "Attributes", "period"},
		"a trailing period":    {attribute("x.", "x"), "Attributes", "period"},
		"two periods":          {attribute("x..y", "x"), "Attributes", "period"},
		"no value":             {attribute("x", ""), "Attributes", `"x": value is empty`},
		"a tab in a value":     {attribute("x", "a\tb"), "Attributes", `"x": value has U+0009 at byte 1`},
		"a newline in a type":  {kind("a\n"), "Type", "U+000A at byte 1"},
		"a return in its type": {content("a\r"), "ContentType", "U+000D at byte 1"},
		"a bad value":          {attribute("x", "\x02"), "Attributes", `"x": value has U+0002`},
		"event_id":             {attribute("event_id", "x"), "Attributes", `"event_id": is set by the relay`},
		"event_type":           {attribute("event_type", "x"), "Attributes", "is set by the relay"},
		"content_type":         {attribute("content_type", "x"), "Attributes", "is set by the relay"},
		"a bad traceparent":    {attribute("traceparent", "x"), "Attributes", "W3C traceparent"},
		"a later traceparent":  {attribute("traceparent", "01"+parent[2:]), "Attributes", "version 00"},
		"a trace id of zeros": {
			attribute("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
			"Attributes", "W3C traceparent",
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := event(test.change).Validate()
			if fields := slices.Collect(maps.Keys(brokenFields(t, err))); !slices.Equal(fields, []string{test.field}) {
				t.Fatalf("fields %v, want only %s: %v", fields, test.field, err)
			}
			var problem *outbox.ValidationError
			if !errors.As(err, &problem) || !strings.Contains(problem.Reason, test.reason) {
				t.Errorf("%q does not say %q", err, test.reason)
			}
		})
	}
}

func TestSize_HasAnExactLimitAndIncludesAttributes(t *testing.T) {
	// Counted by hand: each attribute is its name, "String" and its value.
	const builtIn = 8 + 6 + 36 + // event_id
		10 + 6 + 1 + // event_type "T"
		12 + 6 + 16 + // content_type "application/json"
		11 + 6 + 55 + // traceparent, always counted
		3 + 6 + 4 // "own": "four"
	full := event(kind("T"), attribute("own", "four"), payload(strings.Repeat("x", 1<<20-builtIn)))
	if got := full.Size(); got != 1<<20 {
		t.Errorf("size %d, want %d", got, 1<<20)
	}
	if err := full.Validate(); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	traced := full
	attribute("traceparent", parent)(&traced)
	if err := traced.Validate(); err != nil {
		t.Errorf("at the limit, with a trace: %v", err)
	}
	full.Payload += "x"
	if fields := brokenFields(t, full.Validate()); !fields["Payload"] {
		t.Errorf("one byte more is accepted")
	}
}

func BenchmarkValidate(b *testing.B) {
	e := event(payload(strings.Repeat("x", 512)), numbered(3))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}
