package workflows

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/internal/printable"
)

// How long texts may be in a table, in characters.
const (
	maxName   = 60
	maxReason = 100
	maxID     = 300
	maxCause  = 600
	// maxNamed is how many topics a summary names of one kind.
	maxNamed = 3
	// maxAddress is how long details may be as a part of an address, in bytes. Common
	// proxies take 8 KiB for the whole of it.
	maxAddress = 6000
)

// framed ends details with an empty line, because the UI's box is a line too short
// for what it shows. (A non-breaking space: it shows entities as they are written.)
func framed(details string) string { return details + "\n\n\u00a0" }

// brief makes a summary of a text, in which names are somebody's choice.
func brief(s string) string { return printable.Cut(printable.Line(s), maxSummary) }

// escape makes Markdown show a text as it is, on one line, and cuts it after so many
// characters. Names and reasons are somebody's choice.
func escape(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, c := range printable.Text(breaks.Replace(s)) {
		if n++; n > most {
			b.WriteRune('…')
			break
		}
		switch {
		case strings.ContainsRune("\\`*_[]<>|~&", c):
			b.WriteRune('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// breaks are the characters that would end a line of a table.
var breaks = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ", "\u2028", " ", "\u2029", " ")

// unbroken keeps a text on one line.
func unbroken(s string) string { return strings.ReplaceAll(s, " ", "\u00a0") }

// apart keeps a cell from touching the one before it: UI 2.54 leaves no space between columns,
// and 404 events beside 1 min would read 4041 min.
func apart(cell string) string {
	if cell == "" {
		return ""
	}
	return "\u00a0" + cell
}

// count writes a number the way people read it: 1,234,567.
func count(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// some is count, and nothing for none: what stands out in a table should matter.
func some(n int) string {
	if n == 0 {
		return ""
	}
	return count(n)
}

// age writes a duration in its two largest units: "3 min 5 s", and nothing for none.
func age(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Second:
		return "< 1 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}
