package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/workflows"
)

func statusCommand() *cobra.Command {
	var asJSON, watch bool
	var every time.Duration
	var taskQueue string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show pending and dead events and pauses by topic, and whether the relay runs",
		Long: fmt.Sprintf(`Shows the pending and dead events and the pauses of each topic. It also asks Temporal
whether the relay runs: its schedule, its run, workers that poll, and the current version
if workers have versions. Each problem is a warning above the table, with its remedy. If
Temporal does not answer within seconds, the command says so and still shows the table.

A worker that was killed counts as polling until %d seconds after its last poll.`,
			int(timing.PolledWithin.Seconds())),
		Example: `  starter status
  starter status --watch`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return misuse("--every is %s: it must be at least 100ms", every)
			}
			store, err := openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			watched, stop := watchRelay(cmd.Context(), taskQueue, watch)
			defer stop()
			for {
				err := showStatus(cmd, store, watched, asJSON, watch)
				switch {
				case watch && cmd.Context().Err() != nil: // interrupted
					return nil
				case !watch:
					return err
				case err != nil: // --watch shows when the database is back
					fmt.Fprintf(cmd.ErrOrStderr(), "%s %s: %v\n", instantText(time.Now()), program.Starter(), err)
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object; with --watch, one on each line")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it repeatedly until you interrupt the command")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "with --watch: how often; Temporal is asked every "+timing.LookEvery.String())
	cmd.Flags().StringVar(&taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
	return cmd
}

func showStatus(cmd *cobra.Command, store *postgres.Store, watched *relayWatch, asJSON, watch bool) error {
	topics, err := store.Status(cmd.Context())
	if err != nil {
		return err
	}
	enqueue, err := store.Enqueue(cmd.Context())
	if err != nil {
		return err
	}
	missed := ""
	if err := errors.Join(enqueue.Failure(), enqueue.Warning()); err != nil {
		missed = err.Error()
	}
	report := watched.report()
	switch {
	case asJSON:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			Topics []postgres.TopicStatus `json:"topics"`
			// NotEnqueued says what keeps events from becoming pending.
			NotEnqueued string `json:"notEnqueued,omitempty"`
			// Relay is what Temporal says.
			Relay relayReport `json:"relay"`
		}{topics, missed, report})
	case watch:
		clearScreen(cmd.OutOrStdout())
		fmt.Fprintln(cmd.OutOrStdout(), instantText(time.Now()))
	}
	if missed != "" {
		fmt.Fprintln(cmd.OutOrStdout(), "warning: "+missed)
	}
	report.warnOf(cmd.OutOrStdout())
	defer report.tellOf(cmd.OutOrStdout())
	if len(topics) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "no topic has had an event yet")
		return nil
	}
	t := newTable(cmd, "Topic", "Pending", "Oldest", "Leased", "Dead", "Paused")
	for _, s := range topics {
		t.AppendRow(table.Row{printable.Line(s.Topic), s.Pending, age(s), s.Leased, s.Dead, paused(s)})
	}
	t.Render()
	return nil
}

// clearScreen clears a terminal, and nothing else.
func clearScreen(out io.Writer) {
	if file := terminal(out); file != nil {
		fmt.Fprint(file, "\x1b[H\x1b[2J")
	}
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
		why = append(why, "by workflow "+s.Recovery, failureText(s.Failure, failureWidth))
	}
	return strings.Join(why, "\n")
}

// failureWidth is how wide a destination's text may be in a table, in characters.
const failureWidth = 80

// failureText says why a recovery keeps its topic paused. Text of the destination is broken
// into lines of so many characters; 0: it is not.
func failureText(f *relay.Failure, width int) string {
	if f == nil {
		return "the reason is in its pending activity: no attempt has stored it yet"
	}
	lines := []string{f.Code}
	if f.Message != "" {
		lines[0] += ": " + f.Message
	}
	if width > 0 {
		lines[0] = text.WrapSoft(lines[0], width)
	}
	if f.Destination != "" {
		lines = append(lines, "refused by "+f.Destination)
	}
	return strings.Join(append(lines, "since "+instantText(f.Since)+", next attempt at "+instantText(f.Next)), "\n")
}
