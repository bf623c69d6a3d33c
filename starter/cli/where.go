package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/outbox"
)

func whereCommand() *cobra.Command {
	var topic, key string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "where EVENT_ID | --topic T --key K",
		Short: "Show whether an event is pending, dead or published, with its time, message id and lane",
		Example: `  starter where 0198f2a1-7c3b-7def-8123-456789abcdef
  starter where --topic orders --key customer-4711`,
		Args: arguments(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			byKey := topic != "" || key != ""
			if byKey == (len(args) == 1) || byKey && (topic == "" || key == "") {
				return misuse("give an event id, or both --topic and --key")
			}
			if limit < 1 {
				return misuse("--limit is %d: it must be at least 1", limit)
			}
			find := func(ctx context.Context, s *postgres.Store) ([]postgres.EventLife, error) {
				return s.ByKey(ctx, topic, key, limit, looking(cmd.ErrOrStderr()))
			}
			if !byKey {
				id, err := outbox.ParseID(args[0])
				if err != nil {
					return misuse("%w", err)
				}
				find = func(ctx context.Context, s *postgres.Store) ([]postgres.EventLife, error) {
					return s.ByEventID(ctx, id, looking(cmd.ErrOrStderr()))
				}
			}
			store, err := openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			events, err := find(cmd.Context(), store)
			switch {
			case err != nil:
				return badTopic(err)
			case len(events) == 0:
				return nothing("there is no such event: it was never committed, or retention has deleted it")
			case asJSON:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"events": events})
			case byKey:
				printLives(cmd, events)
			default:
				for _, e := range events {
					printLife(cmd, e)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&topic, "topic", "", "topic of the key")
	f.StringVar(&key, "key", "", "show the last events of this key")
	f.IntVar(&limit, "limit", 20, "with --key: at most so many events")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// printLife prints all that is known of one event.
func printLife(cmd *cobra.Command, e postgres.EventLife) {
	fields := [][2]string{
		{"event", e.EventID},
		{"topic", printable.Line(e.Topic)},
		{"key", printable.Line(e.Key)},
		{"type", printable.Line(e.Type)},
		{"written", fmt.Sprintf("%s, as id %d in lane %d", instantText(e.WrittenAt), e.ID, e.Lane)},
	}
	if e.Published {
		fields = append(fields, [2]string{"state", notPendingText(e)})
	}
	pending := false
	for _, d := range e.Deliveries {
		fields = append(fields, [2]string{"state", deliveryText(d)})
		pending = pending || d.State == "pending"
	}
	fields = append(fields, receiptFields(e)...)
	if pending {
		fields = append(fields, laneFields(e.LaneLife)...)
	}
	printFields(cmd, fields)
}

// deliveryText says how one delivery stands, and why.
func deliveryText(d postgres.Delivery) string {
	text := d.State
	if d.Replay != 0 {
		text = fmt.Sprintf("replay %d: %s", d.Replay, d.State)
	}
	switch d.State {
	case "pending":
		text += ", next in its lane"
		if d.Ahead > 0 {
			text = fmt.Sprintf("%s, with %d events of its lane before it", text[:len(text)-len(", next in its lane")], d.Ahead)
		}
		if d.Code != "" {
			text += fmt.Sprintf("\nrefused %d times since %s: %s: %s", d.Attempts, instantText(*d.Since), d.Code, d.Message)
		}
	case "dead":
		text += fmt.Sprintf(" since %s, after %d attempts: %s: %s\nseen by %s", instantText(*d.Since), d.Attempts, d.Code, d.Message, link(d.WorkflowID))
	case "discarded":
		text += fmt.Sprintf(" by %s: %s\nit was a dead letter with the code %s: %s", d.By, d.Reason, d.Code, d.Message)
	}
	return text
}

// laneFields say who has the lane of a pending event, or what keeps it.
func laneFields(l postgres.LaneLife) (fields [][2]string) {
	if l.PausedBy != "" {
		fields = append(fields, [2]string{"paused", "by " + l.PausedBy + ": " + l.PauseReason})
	}
	if l.Recovery != "" {
		fields = append(fields, [2]string{"recovery", link(l.Recovery) + "\n" + failureText(l.Failure, 0)})
	}
	if l.ReservedUntil != nil {
		text := "by an operation: no claim takes the lane before " + instantText(*l.ReservedUntil)
		for _, id := range l.Operations {
			text += "\n" + link(id)
		}
		fields = append(fields, [2]string{"reserved", text})
	}
	switch {
	case l.RunID != "" && l.Retrying:
		fields = append(fields, [2]string{"lane", "waits for the next attempt of a batch of run " + runLink(l.RunID)})
	case l.RunID != "":
		fields = append(fields, [2]string{"lane", "leased by run " + runLink(l.RunID)})
	case l.Worker != "":
		fields = append(fields, [2]string{"lane", "held by worker " + l.Worker + ", with lanes of other topics"})
	case len(fields) == 0:
		fields = append(fields, [2]string{"lane", "free: the next claim takes it; if it stays free, no relay runs, or no worker has a route for the topic"})
	}
	return fields
}

func printLives(cmd *cobra.Command, events []postgres.EventLife) {
	t := newTable(cmd, "Event", "Type", "Written", "State")
	for _, e := range events {
		state := ""
		if e.Published {
			state = e.State
		}
		for _, d := range e.Deliveries {
			if state != "" {
				state += "\n"
			}
			state += deliveryText(d)
		}
		for _, r := range e.Receipts {
			state += "\n" + receiptText(r)
		}
		t.AppendRow(table.Row{e.EventID, printable.Line(e.Type), instantText(e.WrittenAt), state})
	}
	t.Render()
	if l := laneFields(events[0].LaneLife); !events[0].Published && len(l) > 0 {
		printFields(cmd, l)
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
