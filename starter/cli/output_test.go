package cli

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/stretchr/testify/require"
)

func TestTables_AlignWhatTheyEscape(t *testing.T) {
	cmd := root("starter")
	var out bytes.Buffer
	printTo(cmd, &out, &out)
	rows := newTable(cmd, "Topic", "Why")
	rows.AppendRow(table.Row{"\x1b[31mred", "one\ntwo"})
	rows.AppendRow(table.Row{"größe", 3})
	rows.Render()
	require.Equal(t, strings.TrimPrefix(`
┌───────────────┬─────┐
│ TOPIC         │ WHY │
├───────────────┼─────┤
│ \u001b[31mred │ one │
│               │ two │
│ größe         │ 3   │
└───────────────┴─────┘
`, "\n"), out.String())
}

func TestOutput_OfACommandObeysNobodysTexts(t *testing.T) {
	cmd := root("starter")
	var out, errs bytes.Buffer
	printTo(cmd, &out, &errs)
	sub, _, err := cmd.Find([]string{"dead", "list"})
	require.NoError(t, err)
	fmt.Fprintln(sub.OutOrStdout(), "\x1b[2J out")
	fmt.Fprintln(sub.ErrOrStderr(), "\u202e errors")
	sub.PrintErrln("\a more")
	require.Equal(t, `\u001b[2J out`+"\n", out.String())
	require.Equal(t, `\u202e errors`+"\n"+`\u0007 more`+"\n", errs.String())
	require.Nil(t, terminal(sub.OutOrStdout()))
}

func TestOutput_KnowsItsTerminal(t *testing.T) {
	master, slave, err := pty.Open()
	require.NoError(t, err)
	defer master.Close()
	defer slave.Close()
	cmd := root("starter")
	printTo(cmd, slave, os.Stderr)
	require.Same(t, slave, terminal(cmd.OutOrStdout()), "screens are cleared, and progress moves")
}
