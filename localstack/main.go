// Command localstack runs PostgreSQL, Temporal and an emulator of AWS on one machine
// without Docker, and the demo, the benchmark and the chaos harness on them. When it
// ends, it stops everything that it has started.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/lab/bench/sink"
	"github.com/temporal-outbox/relay/internal/telemetry"
)

func main() {
	sink.RunIfChild() // the benchmark starts this program once more as its destination
	err := root().Execute()
	var status exitStatus
	switch {
	case err == nil:
	case errors.As(err, &status):
		os.Exit(int(status))
	default:
		fmt.Fprintf(os.Stderr, "localstack: %v\n", err)
		os.Exit(1)
	}
}

// root lists every subcommand.
func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "localstack",
		Short: "PostgreSQL, Temporal and an SNS/SQS endpoint on this machine, without Docker",
		Long: `Starts PostgreSQL, Temporal's dev server with its UI, and an SNS/SQS emulator. If
DATABASE_URL, TEMPORAL_ADDRESS or AWS_ENDPOINT_URL is set, the command uses that
server and starts none. It takes free ports, so you can run several stacks at once.

  OUTBOX_PG_BIN        directory of PostgreSQL's server programs (default: the newest
                       that it finds)
  OUTBOX_TEMPORAL_CLI  release of Temporal's CLI: 1.9.1 (downloaded) or 1.5.1 (built)
                       (default: the temporal on PATH, or else 1.9.1)
  OUTBOX_TEMPORAL_CONFIG  dynamic configuration of Temporal's server: key=value,
                       separated by spaces
  OUTBOX_TOOLS         directory of the tools that it downloads or builds
                       (default: .tools)
  TMPDIR               directory of the data while the stack runs; choose one on a
                       disk if you measure`,
		Version:       telemetry.ReadBuild().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(upCommand(), execCommand(), demoCommand(), benchCommand(), soakCommand(), costCommand(), chaosCommand())
	return cmd
}

// exitStatus is an error that has been reported already, or needs no words.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }
