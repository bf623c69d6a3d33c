package simulation

import (
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Print writes the report as a table with a mark for every check. Marks have
// colours where colour is true.
func (r Report) Print(out io.Writer, colour bool) {
	good, bad := "✓", "✗"
	if colour {
		good, bad = text.FgGreen.EscapeSeq()+good+text.Reset.EscapeSeq(), text.FgRed.EscapeSeq()+bad+text.Reset.EscapeSeq()
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleRounded)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(table.Row{"", "Reconciliation", ""})
	for _, c := range r {
		mark := bad
		if c.OK {
			mark = good
		}
		t.AppendRow(table.Row{mark, c.Name, c.Detail})
	}
	t.Render()
}
