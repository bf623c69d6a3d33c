package awsapi

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var texts = []string{"", "plain", `{"a":"b\\c"}`, "tab\tline\nreturn\r", "\x00\x01\x1f\x7f", "äöü €  😀", strings.Repeat(`0123456"`, 100), "1234567\"", "12345678\\9"}

func FuzzAppendJSON(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip("message.Check refuses it")
		}
		var got string
		encoded := AppendJSON([]byte("before"), text)
		if err := json.Unmarshal(encoded[len("before"):], &got); err != nil || got != text {
			t.Fatalf("%q becomes %s, which reads %q (%v)", text, encoded, got, err)
		}
		if want := "before" + jsonOf(text); string(encoded) != want {
			t.Fatalf("%q becomes %s, not %s", text, encoded, want)
		}
	})
}

// jsonOf is AppendJSON, byte by byte.
func jsonOf(text string) string {
	b := []byte{'"'}
	for _, c := range []byte(text) {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < ' ':
			b = fmt.Appendf(b, `\u%04X`, c)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

func TestAppendJSON_EscapesNoMoreThanItMustAtAnyPlace(t *testing.T) {
	for _, special := range []string{`"`, `\`, "\n", "\r", "\t", "\x00", "\x1f", " ", "!", "#", "[", "]", "\x7f", "ä", "€", "😀"} {
		for length := range 120 {
			for at := 0; at <= length; at += 1 + length/40 {
				text := strings.Repeat("a", at) + special + strings.Repeat("b", length-at)
				require.Equal(t, jsonOf(text), string(AppendJSON(nil, text)))
				text += strings.Repeat(special, 9) + text
				require.Equal(t, "before"+jsonOf(text), string(AppendJSON([]byte("before"), text)))
			}
		}
	}
}

func TestJSONSize_IsAboutThatOfTheText(t *testing.T) {
	for name, text := range map[string]string{
		"short": `{"a":"b"}`, "text": strings.Repeat("0123456789 abcdef", 12000),
		"json":   strings.Repeat(`,"1a2b3c":"123456789012345"`, 7600),
		"quotes": strings.Repeat(`"`, 1<<20), "lines": strings.Repeat("{\n  \"x\": 1\n}\n", 10000),
	} {
		got, want := JSONSize(text), len(AppendJSON(nil, text))
		require.GreaterOrEqual(t, got, want, name)
		require.LessOrEqual(t, got, want+want/8+16, name)
	}
}

func FuzzAppendForm(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := string(AppendForm([]byte("a="), text)); got != "a="+url.QueryEscape(text) {
			t.Fatalf("%q becomes %s", text, got)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for name, text := range map[string]string{
		"json": strings.Repeat(`,"1a2b3c":"123456789012345"`, 7600), "text": strings.Repeat("0123456789 abcdef", 12000),
	} {
		b.Run(name, func(b *testing.B) {
			buffer := make([]byte, 0, 4*len(text))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				buffer = AppendJSON(buffer[:0], text)
			}
		})
		b.Run("form "+name, func(b *testing.B) {
			buffer := make([]byte, 0, 4*len(text))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				buffer = AppendForm(buffer[:0], text)
			}
		})
	}
}
