package cli

import (
	"encoding/json"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/program"
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
			chosen, err := s.selection(cmd)
			if err != nil {
				return err
			}
			if limit < 1 {
				return misuse("--limit is %d: it must be at least 1", limit)
			}
			if len(args) == 0 && !s.empty() {
				return misuse("a filter needs a topic: %s", program.Starter("dead list TOPIC"))
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
	cmd.Flags().IntVar(&limit, "limit", 50, "show the newest, at most this many")
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
		t.AppendRow(table.Row{printable.Line(c.Topic), c.Code, c.Events, c.Keys, instantText(c.First), instantText(c.Last)})
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
		t.AppendRow(table.Row{eventName(d.EventID, d.ID, d.Replay), printable.Line(d.Key), printable.Line(d.Type), instantText(d.DeadAt), d.Attempts, d.Code, d.Message})
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
