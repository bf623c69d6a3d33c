package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
)

func statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is pending, dead and paused, by topic",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			topics, err := readStatus(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Topics []postgres.TopicStatus `json:"topics"`
				}{topics})
			}
			t := table.NewWriter()
			t.SetOutputMirror(cmd.OutOrStdout())
			t.SetStyle(table.StyleLight)
			t.AppendHeader(table.Row{"Topic", "Pending", "Oldest", "Leased", "Dead", "Paused"})
			for _, s := range topics {
				t.AppendRow(table.Row{s.Topic, s.Pending, age(s), s.Leased, s.Dead, paused(s)})
			}
			if len(topics) == 0 {
				cmd.Println("no topic has had an event yet")
				return nil
			}
			t.Render()
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func readStatus(ctx context.Context) ([]postgres.TopicStatus, error) {
	store, err := openStore(ctx)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return store.Status(ctx)
}

// openStore opens the outbox and makes sure that it is there.
func openStore(ctx context.Context) (*postgres.Store, error) {
	url, err := databaseURL()
	if err != nil {
		return nil, err
	}
	store, err := postgres.Open(ctx, postgres.Config{URL: url, MaxConns: 1})
	if err != nil {
		return nil, err
	}
	if err := store.Check(ctx); err != nil {
		store.Close()
		return nil, err
	}
	return store, nil
}

func age(s postgres.TopicStatus) string {
	if s.Pending == 0 {
		return ""
	}
	return time.Duration(s.OldestAge * float64(time.Second)).Round(100 * time.Millisecond).String()
}

func paused(s postgres.TopicStatus) string {
	var why []string
	if s.PausedBy != "" {
		why = append(why, "by "+s.PausedBy+": "+s.PauseReason)
	}
	if s.Recovery != "" {
		why = append(why, "by workflow "+s.Recovery)
	}
	return strings.Join(why, "\n")
}
