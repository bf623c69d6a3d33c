package cli

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the reference instead of comparing it")

const reference = "../../docs/starter.md"

// The reference is made from the commands' own help: go test ./starter/cli -update.
func TestReference_OfTheStarterIsThatOfTheCode(t *testing.T) {
	t.Setenv("OUTBOX_TASK_QUEUE", "")
	t.Setenv("TEMPORAL_DEPLOYMENT_NAME", "")
	t.Setenv("TEMPORAL_WORKER_BUILD_ID", "")
	cmd := root("starter")
	var b strings.Builder
	b.WriteString("# The starter\n\nMade from the code by `go test ./starter/cli -update`, and checked by the same test.\n\n" +
		"```\n" + cmd.Long + "\n```\n\n`starter completion bash|zsh|fish|powershell` prints a completion script; topics complete from the database.\n")
	describe(t, &b, cmd)
	if *update {
		require.NoError(t, os.WriteFile(reference, []byte(b.String()), 0o600))
	}
	have, err := os.ReadFile(reference)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(have), "run go test ./starter/cli -update")
}

func describe(t *testing.T, b *strings.Builder, parent *cobra.Command) {
	t.Helper()
	for _, cmd := range parent.Commands() {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		fmt.Fprintf(b, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
		if cmd.HasSubCommands() {
			describe(t, b, cmd)
			continue
		}
		if cmd.Long != "" {
			fmt.Fprintf(b, "\n%s\n", cmd.Long)
		}
		fmt.Fprintf(b, "\n```sh\n%s\n", cmd.UseLine())
		if cmd.Example != "" {
			fmt.Fprintf(b, "\n%s\n", cmd.Example)
		}
		b.WriteString("```\n")
		if !cmd.HasLocalFlags() {
			continue
		}
		b.WriteString("\n| flag | default | |\n|---|---|---|\n")
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			standard := f.DefValue
			if f.Name == "by" {
				standard = "the system's user"
			}
			fmt.Fprintf(b, "| `--%s` | %s | %s |\n", f.Name, standard, f.Usage)
		})
	}
}
