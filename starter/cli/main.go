// Package cli is the starter's commands: they migrate the schema, schedule the relay, make
// worker versions current, show the state of topics and events, and redrive, discard and
// replay events. The folders above and beside it only call Main, each for the name of one
// binary.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/rdsauth"
	"github.com/temporal-outbox/relay/internal/telemetry"
)

// Main runs the command that os.Args ask for, under the name of its binary, until it ends
// or SIGTERM or SIGINT comes. It returns the exit status, as in the help.
func Main(name string) int {
	program.StarterIs(name)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := root(name)
	printTo(cmd, os.Stdout, os.Stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), name+":", err)
		return exitStatus(err)
	}
	return 0
}

func root(name string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: "Set up, inspect and operate the outbox",
		Long: `Sets up the outbox, shows its events, and operates it.

DATABASE_URL names the PostgreSQL database. With OUTBOX_DATABASE_AUTH=iam, commands log
in by IAM database authentication (RDS and Aurora). temporal.toml and TEMPORAL_ADDRESS,
_NAMESPACE, _API_KEY, _TLS_... configure the connection to Temporal. If TEMPORAL_UI_URL
is set, workflows are printed as links.

Exit status:
  0  done
  1  failed: the database or Temporal failed, you did not confirm, or events of a redrive
     or replay became dead letters or were not confirmed in time
  2  invalid usage; nothing was changed
  3  nothing matches; nothing was changed`,
		Version:       telemetry.ReadBuild().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misuse("unknown command %q: see %s --help", args[0], name)
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
	for _, sub := range cmd.Commands() {
		rename(sub, name)
	}
	return cmd
}

// rename writes help for the binary that prints it.
func rename(cmd *cobra.Command, name string) {
	cmd.Long = strings.ReplaceAll(cmd.Long, "starter ", name+" ")
	cmd.Example = strings.ReplaceAll(cmd.Example, "starter ", name+" ")
	for _, sub := range cmd.Commands() {
		rename(sub, name)
	}
}

// databaseURL is the database that DATABASE_URL names.
func databaseURL() (string, error) {
	if url := os.Getenv("DATABASE_URL"); url != "" {
		return url, nil
	}
	return "", misuse("DATABASE_URL is not set: give it the PostgreSQL database that has the outbox, as postgres://user:password@host/name")
}

// databasePassword is how connections log in, nil: by the URL's password.
func databasePassword(ctx context.Context, url string) (func(context.Context) (string, error), error) {
	password, err := rdsauth.Password(ctx, os.Getenv(rdsauth.Variable), url)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return password, nil
}

// openStore opens the outbox and makes sure that it is there.
func openStore(ctx context.Context) (*postgres.Store, error) {
	url, err := databaseURL()
	if err != nil {
		return nil, err
	}
	password, err := databasePassword(ctx, url)
	if err != nil {
		return nil, err
	}
	store, err := postgres.Open(ctx, postgres.Config{URL: url, Password: password, MaxConns: 2})
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
