package awsapi

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
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
	})
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
