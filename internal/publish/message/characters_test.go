package message

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

func fit() relay.Event {
	return relay.Event{
		EventID: "0b9bd2a4-0000-4000-8000-000000000000", Key: "k", Type: "order.placed", ContentType: "text/plain", Payload: "{}",
		Attributes: map[string]string{"tenant": "ä"},
	}
}

// requirePoison wants an error with this message, or none if the message is empty.
func requirePoison(t *testing.T, err *relay.PublishError, code, message string) {
	t.Helper()
	if message == "" {
		require.Nil(t, err)
		return
	}
	require.NotNil(t, err)
	assert.Equal(t, code, err.Code)
	assert.Equal(t, relay.ClassPoison, err.Class)
	assert.False(t, err.Ambiguous)
	assert.Equal(t, message, err.Message)
}

func TestBadText_NamesTheCharacterItsPlaceAndThePart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*relay.Event)
		want   string // empty: it is sent
	}{
		"plain":                   {func(*relay.Event) {}, ""},
		"lines in the payload":    {func(e *relay.Event) { e.Payload = "a\tb\r\nc" }, ""},
		"DEL and C1 controls":     {func(e *relay.Event) { e.Payload = "\x7f\u0080\u009f" }, ""},
		"the edges":               {func(e *relay.Event) { e.Payload = " \ud7ff\ue000\ufffd\U00010000\U0010ffff" }, ""},
		"any key":                 {func(e *relay.Event) { e.Key = "a\x01 \n\uffff" }, ""},
		"vertical tab":            {func(e *relay.Event) { e.Payload = "0123456789abcdefö\v" }, "payload has U+000B at byte 18"},
		"NUL":                     {func(e *relay.Event) { e.Payload = "a\x00" }, "payload has U+0000 at byte 1"},
		"U+FFFE":                  {func(e *relay.Event) { e.Payload = "ü\ufffe" }, "payload has U+FFFE at byte 2"},
		"Windows-1252":            {func(e *relay.Event) { e.Payload = `{"name": "M` + "\xfc" + `ller"}` }, "payload is not valid UTF-8 at byte 11"},
		"an encoded surrogate":    {func(e *relay.Event) { e.Payload = "\xed\xa0\x80" }, "payload is not valid UTF-8 at byte 0"},
		"cut in a character":      {func(e *relay.Event) { e.Payload = "12345678\xe2\x82" }, "payload is not valid UTF-8 at byte 8"},
		"a tab in the type":       {func(e *relay.Event) { e.Type = "a\tb" }, "type has U+0009 at byte 1"},
		"a line in its type":      {func(e *relay.Event) { e.ContentType = "text/plain\n" }, "content_type has U+000A at byte 10"},
		"a key that is no UTF-8":  {func(e *relay.Event) { e.Key = "é\xff" }, "key is not valid UTF-8 at byte 2"},
		"a return in a value":     {func(e *relay.Event) { e.Attributes["tenant"] = "a\r" }, `attribute "tenant" has U+000D at byte 1`},
		"a bad name":              {func(e *relay.Event) { e.Attributes["a\xff"] = "x" }, `the name of attribute "a\xff" is not valid UTF-8 at byte 1`},
		"a traceparent of before": {func(e *relay.Event) { e.Attributes["traceparent"] = "00\n" }, `attribute "traceparent" has U+000A at byte 2`},
	} {
		t.Run(name, func(t *testing.T) {
			ev := fit()
			c.change(&ev)
			requirePoison(t, badText(&ev), relay.CodeInvalidCharacter, c.want)
		})
	}
}

func TestBadText_IsFoundAtAnyPlace(t *testing.T) {
	for _, bad := range []string{"\v", "\x00", "\x1f", "\ufffe", "\xff"} {
		for length := range 120 {
			for at := range length + 1 {
				got, _ := badCharacter(strings.Repeat("a", at)+bad+strings.Repeat("\v", length-at), true)
				require.Equal(t, at, got)
			}
		}
	}
	for _, good := range []string{" ", "\x7f", "\n", "ä", "😀"} {
		for at := range 120 {
			got, _ := badCharacter(strings.Repeat("a", at)+good+strings.Repeat("b", 70), true)
			require.Equal(t, -1, got)
		}
	}
}

// The writer of producers in Go and the relay have one set of rules, each in its own
// words.
func FuzzBadText(f *testing.F) {
	for _, s := range []string{"", "x", "a\tb", "\v", "ü\ufffe", "\uffff", "\xff", "01234567\x1f", "01234567\x80", "\x7f0123456789", "\ufffd", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			t.Skip("empty is another rule")
		}
		for _, lines := range []bool{true, false} {
			at, what := badCharacter(s, lines)
			ev := outbox.Event{Topic: "t", Type: "T", Payload: "x", Attributes: map[string]string{"a": s}}
			if lines {
				ev.Payload, ev.Attributes = s, nil
			}
			err := ev.Validate()
			if (at >= 0) != (err != nil) {
				t.Fatalf("%q, lines %t: the relay says %d %q, the writer %v", s, lines, at, what, err)
			}
			if at > 0 {
				if earlier, _ := badCharacter(s[:at], lines); earlier >= 0 {
					t.Fatalf("%q: %d is not the first, %d is", s, at, earlier)
				}
			}
		}
	})
}

func BenchmarkBadText(b *testing.B) {
	for name, payload := range map[string]string{
		"512 B": strings.Repeat("x", 512), "200 KiB": strings.Repeat("x", 200<<10),
		"512 B of Cyrillic": strings.Repeat("ж", 256), "512 B in lines": strings.Repeat("{\n  x: 1\n}\n", 46),
	} {
		b.Run(name, func(b *testing.B) {
			ev := fit()
			ev.Payload = payload
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				if badText(&ev) != nil {
					b.Fatal("it has no bad text")
				}
			}
		})
	}
}
