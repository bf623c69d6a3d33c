// Command starter prepares the outbox and steers it: it migrates the schema, schedules
// the relay, makes worker versions current, shows what is pending, dead and paused, and
// redrives, discards and replays events.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "starter:", err)
		stop()
		os.Exit(exitStatus(err)) //nolint:gocritic // nothing is left to be deferred
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "starter",
		Short: "Prepare the outbox, see what is in it, and steer it",
		Long: `Prepares the outbox, shows what is in it, and steers it.

PostgreSQL is named by DATABASE_URL. Temporal's connection comes from
temporal.toml and TEMPORAL_ADDRESS, _NAMESPACE, _API_KEY, _TLS_... With
TEMPORAL_UI_URL set, workflows are shown as links.

Exit status: 0 done; 1 failed, because the database or Temporal did, or it was not
confirmed; 2 what was asked for makes no sense, and nothing was done; 3 nothing
matches, and nothing was done.`,
		Version:       telemetry.ReadBuild().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misuse("unknown command %q: see starter --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return misuse("%w: see %s --help", err, cmd.CommandPath())
	})
	cmd.AddCommand(migrateCommand(), scheduleCommand(), promoteCommand(),
		statusCommand(), whereCommand(), deadCommand(), replayCommand(), pauseCommand(), resumeCommand(), recoverCommand())
	return cmd
}

// databaseURL is the database that DATABASE_URL names.
func databaseURL() (string, error) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, nil
	}
	return "", misuse("DATABASE_URL is not set: give it the PostgreSQL database that has the outbox, as postgres://user:password@host/name")
}

// openStore opens the outbox and makes sure that it is there.
func openStore(ctx context.Context) (*postgres.Store, error) {
	url, err := databaseURL()
	if err != nil {
		return nil, err
	}
	store, err := postgres.Open(ctx, postgres.Config{URL: url, MaxConns: 2})
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("DATABASE_URL: %w", err)}
	}
	if err := store.Check(ctx); err != nil {
		store.Close()
		return nil, err
	}
	return store, nil
}

// badTopic makes an unknown topic the user's mistake.
func badTopic(err error) error {
	if errors.Is(err, postgres.ErrUnknownTopic) {
		return &exitError{exitUsage, err}
	}
	return err
}

// topicArgument completes topics in the shell.
func topicArgument(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	store, err := openStore(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer store.Close()
	topics, err := store.Status(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Topic
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
