package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestText_ShowsNumbersInsteadOfWhatATerminalObeys(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"größe 語 💥 a\u00a0b \\x": "größe 語 💥 a\u00a0b \\x",
		"\x1b[31mred\x1b[0m":     `\u001b[31mred\u001b[0m`,
		"bell\a, delete\x7f":     `bell\u0007, delete\u007f`,
		"C1 \u009b31m":           `C1 \u009b31m`,
		"byte \x9b31m":           `byte \x9b31m`,
		"abc\u202ecba":           `abc\u202ecba`,
		"zero\u200bwidth\ufeff":  `zero\u200bwidth\ufeff`,
		"tag \U000e0041":         `tag \udb40\udc41`,
		"line\u2028separator":    `line\u2028separator`,
		"back\r\nand\tforth":     "back\\r\nand\tforth",
		"\ufffd is a character":  "\ufffd is a character",
	} {
		require.Equal(t, want, Text(in), "%q", in)
	}
	require.Equal(t, `a\nb\tc\rd`, Line("a\nb\tc\rd"))
}

func TestCut_EndsATextBetweenTwoCharactersWithinItsLimit(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""},
		{"abc", 3, "abc"},
		{"abü", 4, "abü"},
		{"abcdef", 5, "ab…"},
		{"abcdef", 3, "…"},
		{"abcdef", 2, ""},
		{"abcdef", 0, ""},
		{"abcdef", -1, ""},
		{"abüdefg", 6, "ab…"},
		{"abüdefg", 7, "abü…"},
		{"ab語defg", 7, "ab…"},
		{"ab語defg", 8, "ab語…"},
		{"a💥bcdef", 7, "a…"},
		{"a💥bcdef", 8, "a💥…"},
		{"a\xffb", 3, "a\xffb"},
		{"a\xffbcdef", 6, "ab…"},
		{strings.Repeat("語", 400), 1000, strings.Repeat("語", 332) + "…"},
	} {
		require.Equal(t, c.want, Cut(c.text, c.most), "%q, %d", c.text, c.most)
	}
}

func FuzzCut(f *testing.F) {
	for _, s := range []string{"orders", "größe", "語語語語", "💥💥", "a\x9bb", "\xe2\x80"} {
		for most := range 8 {
			f.Add(s, most)
		}
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		out := Cut(s, most)
		switch {
		case len(s) <= most && out != s:
			t.Fatalf("%q has no more than %d bytes, and became %q", s, most, out)
		case len(s) <= most:
		case len(out) > max(most, 0):
			t.Fatalf("%q has more than %d bytes", out, most)
		case !utf8.ValidString(out):
			t.Fatalf("%q is not UTF-8", out)
		case utf8.ValidString(s) && !strings.HasPrefix(s, strings.TrimSuffix(out, "…")):
			t.Fatalf("%q does not begin with %q", s, out)
		}
	})
}

func TestWriter_KeepsJSONWhatItIs(t *testing.T) {
	said := map[string]string{"topic": "\x1b[31m \x7f \u009b \u202e \U000e0041 größe\n\"\\"}
	var out bytes.Buffer
	require.NoError(t, json.NewEncoder(Writer{&out}).Encode(said))
	require.False(t, strings.ContainsFunc(strings.TrimSuffix(out.String(), "\n"), isHidden), "%q", out.String())
	heard := map[string]string{}
	require.NoError(t, json.Unmarshal(out.Bytes(), &heard))
	require.Equal(t, said, heard)

	n, err := Writer{&out}.Write([]byte("\x1b"))
	require.NoError(t, err)
	require.Equal(t, 1, n, "of what it was given")
	_, err = Writer{full{}}.Write([]byte("x"))
	require.EqualError(t, err, "full")
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func isHidden(c rune) bool {
	return c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || unicode.Is(unicode.Cf, c) || unicode.Is(unicode.Bidi_Control, c) || c == '\u2028' || c == '\u2029'
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"orders", "größe", "\x1b[31m", "\u009b", "\x9b", "\xe2\x80", "\u202e", "a\nb\tc\r", "\U000e0041", "\ufffd", `\u001b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line, text := Line(s), Text(s)
		for _, out := range []string{line, text} {
			if !utf8.ValidString(out) {
				t.Fatalf("%q is not UTF-8", out)
			}
		}
		if strings.ContainsFunc(line, isHidden) {
			t.Fatalf("%q has what a terminal obeys", line)
		}
		if strings.ContainsFunc(text, func(c rune) bool { return isHidden(c) && c != '\n' && c != '\t' }) {
			t.Fatalf("%q has what a terminal obeys", text)
		}
		if utf8.ValidString(s) && !strings.ContainsFunc(s, isHidden) && (line != s || text != s) {
			t.Fatalf("plain %q is %q and %q", s, line, text)
		}
		if Line(line) != line || Text(text) != text {
			t.Fatalf("%q is escaped twice", s)
		}
		if strings.ReplaceAll(strings.ReplaceAll(text, "\n", `\n`), "\t", `\t`) != line {
			t.Fatalf("%q and %q differ in more than line feeds and tabs", text, line)
		}
	})
}
