package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/schema"
)

func migrateCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the outbox's tables",
		Long: `Creates or upgrades the outbox's tables, and makes the event table's partitions
for the days ahead. Run it as the owner of the database, over a direct
connection. It is safe to run again: it then changes nothing.

Producers and the relay continue meanwhile: the command waits for a lock for at most
50 ms, then releases its own locks and tries again. Building an index on a table that
has rows waits for every open transaction in the database, also those of other programs.
The command prints these sessions on standard error. Run it while no batch job has a
transaction open.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			url, err := databaseURL()
			if err != nil {
				return err
			}
			if err := postgres.CheckURL(url); err != nil {
				return &exitError{exitUsage, fmt.Errorf("DATABASE_URL: %w", err)}
			}
			password, err := databasePassword(ctx, url)
			if err != nil {
				return err
			}
			conn, err := postgres.Connect(ctx, url, password, func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) })
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			r, err := schema.Migrate(ctx, conn)
			if err != nil {
				return err
			}
			for _, warning := range postgres.Examine(ctx, conn) {
				prefix := program.Starter() + ": warning: "
				fmt.Fprintln(cmd.ErrOrStderr(), prefix+strings.ReplaceAll(warning.Error(), "\n", "\n"+prefix))
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON:
				return json.NewEncoder(out).Encode(r)
			case !r.Changed():
				_, err = fmt.Fprintf(out, "schema version %d: nothing to do\n", r.To)
			default:
				_, err = fmt.Fprintf(out, "schema version %d (was %d), %d partitions made\n", r.To, r.From, r.Partitions)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
