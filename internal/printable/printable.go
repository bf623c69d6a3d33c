// Package printable shows texts that others have chosen, and shortens them. Topics, keys, reasons and the error
// texts of destinations may have characters that a terminal obeys, or that let a text look
// like another one. In texts for people, the character's number takes its place.
package printable

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// hidden are the characters that are escaped: controls (C0, DEL and C1), format characters,
// as those for bidirectional text and the zero-width ones, and the separators of lines and
// paragraphs that a terminal may or may not follow.
var hidden = []*unicode.RangeTable{unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp}

// Text escapes control and format characters, but for tabs and line feeds. All other text is
// returned byte for byte.
//
// A character becomes \u001b, of four digits, as in JSON: a JSON text that passes Text is
// still JSON, and says the same. A byte that is not UTF-8 becomes \x9b, because a terminal may
// take it for a control of its own encoding.
func Text(s string) string { return escaped(s, func(c rune) bool { return c == '\n' || c == '\t' }) }

// Line is Text on one line: tabs and line feeds are escaped as well, to \t and \n.
func Line(s string) string { return escaped(s, func(rune) bool { return false }) }

func escaped(s string, stays func(rune) bool) string {
	var b strings.Builder
	from := 0 // what is not written yet
	var width int
	for i := 0; i < len(s); i += width {
		var c rune
		if c, width = rune(s[i]), 1; c >= utf8.RuneSelf {
			c, width = utf8.DecodeRuneInString(s[i:])
		} else if c >= ' ' && c < 0x7f {
			continue
		}
		var instead string
		switch {
		case c == utf8.RuneError && width == 1:
			instead = fmt.Sprintf(`\x%02x`, s[i])
		case !unicode.In(c, hidden...) || stays(c):
			continue
		default:
			instead = escape(c)
		}
		b.WriteString(s[from:i])
		b.WriteString(instead)
		from = i + width
	}
	if from == 0 {
		return s
	}
	return b.String() + s[from:]
}

func escape(c rune) string {
	switch {
	case c == '\n' || c == '\t' || c == '\r':
		return strings.Trim(strconv.QuoteRune(c), "'")
	case c > 0xffff:
		high, low := utf16.EncodeRune(c)
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04x`, c)
}

// mark stands for what Cut has left out.
const mark = "…"

// Cut returns a text of at most so many bytes as it is, and of a longer one the beginning and
// a "…", at most so many bytes together. It cuts between two characters, because Temporal and
// PostgreSQL refuse half of one, and leaves out bytes of the beginning that are not UTF-8.
// Where there is no room for the "…" it returns nothing.
func Cut(s string, most int) string {
	switch {
	case len(s) <= most:
		return s
	case most < len(mark):
		return ""
	}
	return strings.ToValidUTF8(s[:most-len(mark)], "") + mark
}

// Writer writes Text to Out. Each Write must end between two characters, as those of fmt and
// encoding/json do.
type Writer struct{ Out io.Writer }

// Write writes all of it, or returns Out's error.
func (w Writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.Out, Text(string(b))); err != nil {
		return 0, err //nolint:wrapcheck // it is Out's
	}
	return len(b), nil
}

// Count writes a number with separators: 1,234,567.
func Count(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Counted writes a number with its noun: 1 event, 1,043 events.
func Counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}
