// Package service is the worker's command: the daemon that runs the relay's workflows and
// activities, its checks and its health endpoint. The folders above and beside it only call
// Main, each for the name of one binary.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/telemetry"
)

// Main runs the command that os.Args ask for, under the name of its binary, until it ends
// or SIGTERM or SIGINT comes. It returns the exit status: 0, or 1 after an error.
func Main(name string) int {
	// A worker keeps some tens of MiB and turns over much more, so that it would
	// collect garbage many times a second: a sixth of its processor time, measured
	// in a drain, with Go's default of 100.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := root(name)
	cmd.SetOut(printable.Writer{Out: os.Stdout})
	cmd.SetErr(printable.Writer{Out: os.Stderr})
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), name+": "+strings.ReplaceAll(err.Error(), "\n", "\n"+name+": "))
		return 1
	}
	return 0
}

func root(name string) *cobra.Command {
	var checking, asJSON bool
	cmd := &cobra.Command{
		Use:   name,
		Short: "Publish the outbox's events",
		Long: `Runs the relay's workflows and activities until SIGTERM or SIGINT.

  DATABASE_URL                 PostgreSQL database that has the outbox (required)
  OUTBOX_DATABASE_AUTH         password or iam: a token of RDS for each connection (default password)
  OUTBOX_CONFIG                path of the file that routes topics (required)
  OUTBOX_TASK_QUEUE            Temporal task queue (default outbox-relay)
  OUTBOX_DATABASE_CONNECTIONS  size of the connection pool (default 16)
  OUTBOX_PAYLOAD_BUDGET        memory for the payloads of events in the worker (default 24MiB)
  OUTBOX_BATCHES               shared or topics: lanes of all topics, or batches of one topic (default shared)
  OUTBOX_HTTP_ADDRESS          where to serve /healthz, /readyz and /metrics, such as :8080 (default: nowhere)
  OUTBOX_LOG_FORMAT            text or json (default text)
  OUTBOX_LOG_LEVEL             debug, info, warn or error (default info)
  TEMPORAL_DEPLOYMENT_NAME     with TEMPORAL_WORKER_BUILD_ID: run as this version of a
  TEMPORAL_WORKER_BUILD_ID     Worker Deployment; "starter promote" makes it current
  OTEL_EXPORTER_OTLP_ENDPOINT  where to send traces, such as http://localhost:4318 (default:
                               nowhere); the other standard OTEL_... variables hold too

Temporal's connection comes from temporal.toml and TEMPORAL_ADDRESS, _NAMESPACE,
_API_KEY, _TLS_..., AWS's from the SDK's default chain.

With --check it publishes nothing, prints its findings and ends. The exit status is 0
if no check failed; "unknown" and "warning" are not failures. AWS often does not tell
whether publishing is allowed, and before the first deployment nothing runs yet.
These checks always print a line:

  configuration, database, session
  rights        of the database role
  security      whether rows are hidden from the role
  state         the outbox's counters
  trigger       which makes events pending
  temporal, schedule
  relay         the run that is under way
  workers       whether any worker polls
  version       the current version, if workers have versions
  destination and publish of each topic

These checks only print a line if they find a problem:

  encryption    of the connection to the database
  sequence      of ids
  route         of topics that have pending events
  maintenance   its schedule
  subscription  without raw message delivery

This check only prints a line for a FIFO queue:

  mode          with high throughput or 300 requests a second`,
		Example: strings.ReplaceAll(`  worker
  worker --check          # before a deployment
  worker --check --json`, "worker", name),
		Version:       telemetry.ReadBuild().String(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if checking {
				return check(cmd.Context(), cmd.OutOrStdout(), asJSON)
			}
			if asJSON {
				return errors.New("--json needs --check")
			}
			s, err := readSettings()
			if err != nil {
				return err
			}
			return run(cmd.Context(), s, newLogger(s))
		},
	}
	cmd.Flags().BoolVar(&checking, "check", false, "check configuration, connections and rights; start nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "with --check: print one JSON object")
	cmd.AddCommand(readyCommand())
	return cmd
}
