package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

func deadShowCommand() *cobra.Command {
	var payload, asJSON bool
	cmd := &cobra.Command{
		Use:   "show EVENT_ID",
		Short: "Show one dead letter: its event, and why it was refused",
		Long: `Shows one dead letter: its attributes, the reason, and the workflow that recorded it.
The payload is only shown with --payload, because it may contain personal data.`,
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
	events, err := store.ByEventID(cmd.Context(), id, looking(cmd.ErrOrStderr()))
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
		return nothing("event %s is not a dead letter: see %s", id, program.Starter("where", id.String()))
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"deadLetters": shown})
	}
	for _, s := range shown {
		fields := [][2]string{
			{"event", eventName(s.EventID, s.ID, s.Replay)},
			{"topic", printable.Line(s.Topic)},
			{"key", printable.Line(s.Key)},
			{"type", printable.Line(s.Type)},
			{"written", instantText(s.WrittenAt)},
			{"dead since", fmt.Sprintf("%s, after %d attempts", instantText(s.DeadAt), s.Attempts)},
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
