// Command localstack runs the relay's surroundings on one machine without
// Docker, for a look around, for tests and for measurements. Everything that it
// starts ends with it.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/telemetry"
)

func main() {
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
		Long: `Starts what the environment does not name: PostgreSQL (DATABASE_URL), Temporal's
dev server with its UI (TEMPORAL_ADDRESS) and an SNS/SQS emulator
(AWS_ENDPOINT_URL). Ports are free ones, so several can run side by side.

  OUTBOX_PG_BIN        directory of PostgreSQL's server programs, if not the newest
  OUTBOX_TEMPORAL_CLI  release of Temporal's CLI: 1.9.1 (downloaded) or 1.5.1 (built),
                       if not the temporal on PATH, or else 1.9.1
  OUTBOX_TEMPORAL_CONFIG  dynamic configuration of Temporal's server: key=value, with
                       spaces between them
  OUTBOX_TOOLS         where tools are kept, if not in .tools
  TMPDIR               where the data is while it runs; on a disk, if you measure`,
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
