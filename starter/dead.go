package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

func deadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "Look at dead letters, redrive or discard them",
		Args:  arguments(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deadListCommand(), deadShowCommand(), redriveCommand(), discardCommand())
	return cmd
}

func deadListCommand() *cobra.Command {
	var s selector
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [TOPIC]",
		Short: "List dead letters: counts by topic and code, or a topic's newest",
		Example: `  starter dead list
  starter dead list orders --code EventTooLarge --since 2h`,
		Args:              arguments(cobra.MaximumNArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen, err := s.selection()
			if err != nil {
				return err
			}
			if limit < 1 {
				return misuse("--limit is %d: it must be at least 1", limit)
			}
			if len(args) == 0 && !s.empty() {
				return misuse("name the topic to select in: starter dead list TOPIC")
			}
			store, err := openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			if len(args) == 0 {
				return printDeadCounts(cmd, store, asJSON)
			}
			letters, err := store.DeadLetters(cmd.Context(), args[0], chosen, limit)
			if err != nil {
				return badTopic(err)
			}
			return printDeadLetters(cmd, letters, limit, asJSON)
		},
	}
	s.flags(cmd, true)
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many, the newest")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func printDeadCounts(cmd *cobra.Command, store *postgres.Store, asJSON bool) error {
	counts, err := store.DeadCounts(cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"counts": append([]postgres.DeadCount{}, counts...)})
	}
	if len(counts) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "no dead letters")
		return nil
	}
	t := newTable(cmd, "Topic", "Code", "Dead", "Keys", "First", "Last")
	for _, c := range counts {
		t.AppendRow(table.Row{c.Topic, c.Code, c.Events, c.Keys, instantText(c.First), instantText(c.Last)})
	}
	t.Render()
	return nil
}

func printDeadLetters(cmd *cobra.Command, letters []postgres.DeadLetter, limit int, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"deadLetters": append([]postgres.DeadLetter{}, letters...)})
	}
	if len(letters) == 0 {
		return nothing("no dead letters match")
	}
	t := newTable(cmd, "Event", "Key", "Type", "Died", "Attempts", "Code", "Message")
	t.SetColumnConfigs([]table.ColumnConfig{{Name: "Message", WidthMax: 60, WidthMaxEnforcer: text.WrapSoft}})
	for _, d := range letters {
		t.AppendRow(table.Row{eventName(d.EventID, d.ID, d.Replay), d.Key, d.Type, instantText(d.DeadAt), d.Attempts, d.Code, d.Message})
	}
	t.Render()
	if len(letters) == limit {
		cmd.PrintErrf("the newest %d; --limit shows more\n", limit)
	}
	return nil
}

// eventName names one delivery of an event.
func eventName(eventID string, id, replay int64) string {
	if eventID == "" {
		eventID = fmt.Sprintf("gone (id %d)", id)
	}
	if replay != 0 {
		return fmt.Sprintf("%s, replay %d", eventID, replay)
	}
	return eventID
}

func newTable(cmd *cobra.Command, columns ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(cmd.OutOrStdout())
	t.SetStyle(table.StyleLight)
	t.AppendHeader(columns)
	return t
}

func deadShowCommand() *cobra.Command {
	var payload, asJSON bool
	cmd := &cobra.Command{
		Use:   "show EVENT_ID",
		Short: "Show a dead letter whole: what it says, and why it died",
		Long: `Shows a dead letter whole: its attributes, why it died, and the workflow that saw it.
Its payload is shown with --payload only: it may hold what your terminal should not.`,
		Example: `  starter dead show 0198f2a1-7c3b-7def-8123-456789abcdef --payload`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := outbox.ParseID(args[0])
			if err != nil {
				return misuse("%w", err)
			}
			store, err := openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			return showDead(cmd, store, id, payload, asJSON)
		},
	}
	cmd.Flags().BoolVar(&payload, "payload", false, "show the payload, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// shownLetter is what "dead show" prints as JSON.
type shownLetter struct {
	postgres.DeadLetter
	postgres.EventContent
}

func showDead(cmd *cobra.Command, store *postgres.Store, id outbox.ID, payload, asJSON bool) error {
	events, err := store.ByEventID(cmd.Context(), id)
	if err != nil {
		return err
	}
	var shown []shownLetter
	for _, e := range events {
		letters, err := store.DeadLetters(cmd.Context(), e.Topic, relay.Selection{EventIDs: []string{e.EventID}}, 20)
		if err != nil {
			return err
		}
		content, err := store.Content(cmd.Context(), id, e.ID, payload)
		if err != nil {
			return err
		}
		for _, d := range letters {
			if d.ID == e.ID {
				shown = append(shown, shownLetter{d, content})
			}
		}
	}
	if len(shown) == 0 {
		return nothing("event %s is no dead letter: see starter where %s", id, id)
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"deadLetters": shown})
	}
	for _, s := range shown {
		fields := [][2]string{
			{"event", eventName(s.EventID, s.ID, s.Replay)},
			{"topic", s.Topic},
			{"key", s.Key},
			{"type", s.Type},
			{"written", instantText(s.WrittenAt)},
			{"died", fmt.Sprintf("%s, after %d attempts", instantText(s.DeadAt), s.Attempts)},
			{"why", s.Code + ": " + s.Message},
			{"seen by", link(s.WorkflowID)},
			{"size", fmt.Sprintf("%d bytes, %s", s.Bytes, s.ContentType)},
		}
		for _, name := range sortedKeys(s.Attributes) {
			fields = append(fields, [2]string{"attribute", name + "=" + s.Attributes[name]})
		}
		printFields(cmd, fields)
		if payload {
			fmt.Fprintln(cmd.OutOrStdout(), s.Payload)
		}
	}
	return nil
}

// printFields prints names and values, aligned.
func printFields(cmd *cobra.Command, fields [][2]string) {
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "%-10s %s\n", f[0], strings.ReplaceAll(f[1], "\n", "\n           "))
		}
	}
}

func redriveCommand() *cobra.Command {
	o := &operation{kind: relay.Redrive, nouns: "dead letters"}
	var outOfOrder bool
	cmd := &cobra.Command{
		Use:   "redrive TOPIC",
		Short: "Publish dead letters again",
		Long: `Makes dead letters pending again, and the relay publishes them. An event comes before
later events of its key that still wait, and what was blocked behind it follows in
order. What dies again stays dead.

Runs as a workflow that goes on if this command ends; the same command given again
follows it.`,
		Example: `  starter dead redrive orders --dry-run
  starter dead redrive orders --code AccessDenied --reason "policy repaired" --yes
  starter dead redrive orders --key customer-4711 --reason "fixed by hand"`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, args[0], func(ctx context.Context, s *postgres.Store, chosen relay.Selection) (int64, string, error) {
				c, err := s.CountDead(ctx, args[0], chosen)
				if err != nil {
					return 0, "", err
				}
				if c.Overtaking > 0 && !outOfOrder {
					return 0, "", misuse("%d of these %d dead letters have an earlier one of their key that is not selected: they would arrive before it. "+
						"Select it, too, as by --key, or say that order does not matter with --out-of-order", c.Overtaking, c.Events)
				}
				remarks := ""
				if c.Keys > 0 {
					remarks = fmt.Sprintf(", of %d keys", c.Keys)
				}
				if c.Behind > 0 {
					remarks += fmt.Sprintf("; %d that are blocked behind them come along", c.Behind)
				}
				return c.Events, remarks, nil
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&outOfOrder, "out-of-order", false, "redrive events though earlier ones of their key stay dead")
	return cmd
}

func discardCommand() *cobra.Command {
	o := &operation{kind: relay.Discard, nouns: "dead letters"}
	cmd := &cobra.Command{
		Use:   "discard TOPIC",
		Short: "Drop dead letters for good",
		Long: `Drops dead letters: they will never be published. Their events stay in the outbox until
retention takes them, and outbox.discarded says who dropped which, and why. What was
blocked behind a discarded one stays a dead letter until it is redriven.

It cannot be undone. To publish such an event after all, write it again.`,
		Example: `  starter dead discard orders --event-id 0198f2a1-7c3b-7def-8123-456789abcdef --reason "test data"`,
		Args:    arguments(cobra.ExactArgs(1)), ValidArgsFunction: topicArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, args[0], func(ctx context.Context, s *postgres.Store, chosen relay.Selection) (int64, string, error) {
				c, err := s.CountDead(ctx, args[0], chosen)
				return c.Events, "", err
			})
		},
	}
	o.flags(cmd)
	return cmd
}
