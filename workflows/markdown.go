package workflows

import (
	"fmt"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/internal/printable"
)

// Maximum lengths of texts in a table, in characters.
const (
	maxName   = 60
	maxReason = 100
	maxID     = 300
	maxCause  = 600
	// maxNamed is the maximum number of topics of one kind that a summary names.
	maxNamed = 3
	// maxAddress is the maximum length of details as a part of an address, in bytes. Common
	// proxies accept addresses of 8 KiB.
	maxAddress = 6000
)

// withBlankLine adds an empty line to details, because the box in the UI is one line too short for its
// text. (The line is a no-break space, because the UI does not decode entities.)
func withBlankLine(details string) string { return details + "\n\n\u00a0" }

// fitSummary makes a summary of a text, on one line and not too long for Temporal. The names in the
// text may have any character and any length.
func fitSummary(s string) string { return printable.Cut(printable.Line(s), maxSummary) }

// escape makes Markdown show a text literally and on one line, and cuts it to the given number
// of characters. Names and reasons may have any character and any length.
func escape(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, c := range printable.Text(lineBreaks.Replace(s)) {
		if n++; n > limit {
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

// lineBreaks are the characters that would end a line of a table.
var lineBreaks = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ", "\u2028", " ", "\u2029", " ")

// nonBreaking replaces spaces, so that the text stays on one line.
func nonBreaking(s string) string { return strings.ReplaceAll(s, " ", "\u00a0") }

// spaced separates a cell from the cell before it: UI 2.54 leaves no space between columns, and
// shows 404 events beside 1 min as 4041 min.
func spaced(cell string) string {
	if cell == "" {
		return ""
	}
	return "\u00a0" + cell
}

func count(n int) string { return printable.Count(n) }

// countOrBlank is like count, but returns "" for 0, so that a table shows only numbers that matter.
func countOrBlank(n int) string {
	if n == 0 {
		return ""
	}
	return count(n)
}

// age writes a duration in its two largest units: "3 min 5 s". It returns "" for 0.
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
