// Command starter prepares the outbox and shows it: it migrates the schema,
// schedules the relay, makes worker versions current and prints what is pending.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "starter:", err)
		stop()
		os.Exit(1) //nolint:gocritic // nothing is left to be deferred
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "starter",
		Short: "Prepare the outbox and see what is in it",
		Long: `Prepares the outbox and shows what is in it.

PostgreSQL is named by DATABASE_URL. Temporal's connection comes from
temporal.toml and TEMPORAL_ADDRESS, _NAMESPACE, _API_KEY, _TLS_...`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(migrateCommand(), scheduleCommand(), statusCommand(), promoteCommand(), pauseCommand(), resumeCommand())
	return cmd
}

// databaseURL is the database that DATABASE_URL names.
func databaseURL() (string, error) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, nil
	}
	return "", errors.New("DATABASE_URL is not set: give it the PostgreSQL database that has the outbox, as postgres://user:password@host/name")
}
