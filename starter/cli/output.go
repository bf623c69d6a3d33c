package cli

import (
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/temporal-outbox/relay/internal/printable"
)

// printTo has a command, and those below it, write to out and errs, with no character that a
// terminal obeys but line feeds and tabs.
func printTo(cmd *cobra.Command, out, errs io.Writer) {
	cmd.SetOut(printable.Writer{Out: out})
	cmd.SetErr(printable.Writer{Out: errs})
}

// terminal is the terminal that a command's output goes to, nil if it goes elsewhere. It
// escapes nothing.
func terminal(out io.Writer) *os.File {
	if w, ok := out.(printable.Writer); ok {
		out = w.Out
	}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return file
	}
	return nil
}

// shownTable is a table that knows how wide its cells are: it shows what printable.Text
// returns of them.
type shownTable struct{ table.Writer }

func newTable(cmd *cobra.Command, columns ...any) shownTable {
	t := table.NewWriter()
	t.SetOutputMirror(cmd.OutOrStdout())
	t.SetStyle(table.StyleLight)
	t.AppendHeader(columns)
	return shownTable{t}
}

// AppendRow appends a row. A row never has a style of its own.
func (t shownTable) AppendRow(row table.Row, config ...table.RowConfig) {
	for i, cell := range row {
		if text, ok := cell.(string); ok {
			row[i] = printable.Text(text)
		}
	}
	t.Writer.AppendRow(row, config...)
}
