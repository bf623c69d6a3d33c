package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	var show statusOutput
	var every time.Duration
	var taskQueue string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show pending and dead events and pauses by topic, which worker publishes which lanes, and whether the relay runs",
		Long: fmt.Sprintf(`Shows the pending and dead events and the pauses of each topic. The column LEASED is how
many of the 16 lanes of a topic its own batches hold. A topic that workers publish in shared
lanes has none. The column APART says why batches have to publish lanes of a topic, and how
many batches of the topic are in retry. Lines below the tables have the last failure of each
batch in retry, and the time of its next attempt. For a topic in recovery, the column PAUSED
has both.

A second table shows which worker holds which lanes of all topics, if workers share them.
A worker that was killed stays in this table for a minute, without lanes.

The command also asks Temporal whether the relay runs: its schedule, its run, workers that
poll, and the current version if workers have versions. Each problem is a warning above the
table, with its remedy. If Temporal does not answer within seconds, the command says so and
still shows the tables.

A worker that has stopped or was killed counts as polling until %d seconds after its last
poll.`,
			int(timing.PolledWithin.Seconds())),
		Example: `  starter status
  starter status --problems
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
			watched, stop := watchRelay(cmd.Context(), taskQueue, show.watch)
			defer stop()
			for {
				err := show.print(cmd, store, watched)
				switch {
				case show.watch && cmd.Context().Err() != nil: // interrupted
					return nil
				case !show.watch:
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
	cmd.Flags().BoolVar(&show.problems, "problems", false, fmt.Sprintf("show only topics that are paused, in recovery or in retry, or that have dead letters or events older than %d seconds", int(relay.Late.Seconds())))
	cmd.Flags().BoolVar(&show.json, "json", false, "print one JSON object; with --watch, one on each line")
	cmd.Flags().BoolVarP(&show.watch, "watch", "w", false, "show it repeatedly until you interrupt the command")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "with --watch: how often; Temporal is asked every "+timing.LookEvery.String())
	cmd.Flags().StringVar(&taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
	return cmd
}

// statusOutput is what "status" is to print, and how.
type statusOutput struct{ json, watch, problems bool }

func (o statusOutput) print(cmd *cobra.Command, store *postgres.Store, watched *relayWatch) error {
	topics, err := store.Status(cmd.Context())
	if err != nil {
		return err
	}
	workers, err := store.Workers(cmd.Context())
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
	all := len(topics)
	if o.problems {
		topics = slices.DeleteFunc(topics, func(t postgres.TopicStatus) bool { return !t.HasProblem() })
	}
	report := watched.report()
	switch {
	case o.json:
		return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
			Topics []postgres.TopicStatus `json:"topics"`
			// Workers are those that hold lanes of all topics, or may.
			Workers []postgres.WorkerStatus `json:"workers"`
			// NotEnqueued says what keeps events from becoming pending.
			NotEnqueued string `json:"notEnqueued,omitempty"`
			// Relay is what Temporal says.
			Relay relayReport `json:"relay"`
		}{topics, workers, missed, report})
	case o.watch:
		clearScreen(cmd.OutOrStdout())
		fmt.Fprintln(cmd.OutOrStdout(), instantText(time.Now()))
	}
	if missed != "" {
		fmt.Fprintln(cmd.OutOrStdout(), "warning: "+missed)
	}
	report.warnOf(cmd.OutOrStdout())
	defer report.tellOf(cmd.OutOrStdout())
	showTopics(cmd, topics, all)
	showWorkers(cmd, workers)
	return nil
}

// showTopics prints the table of topics, which may be some of all.
func showTopics(cmd *cobra.Command, topics []postgres.TopicStatus, all int) {
	if all == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "no topic has had an event yet")
		return
	}
	if len(topics) > 0 {
		t := newTable(cmd, "Topic", "Pending", "Oldest", "Leased", "Dead", "Apart", "Paused")
		for _, s := range topics {
			t.AppendRow(table.Row{printable.Line(s.Topic), s.Pending, age(s), s.Leased, s.Dead, apart(s), paused(s)})
		}
		t.Render()
	}
	if others := all - len(topics); others > 0 {
		fmt.Fprintln(cmd.OutOrStdout(), printable.Counted(others, "topic")+" without a problem")
	}
}

// showWorkers prints which worker holds which lanes of all topics. Without a worker that can hold some, it
// prints nothing.
func showWorkers(cmd *cobra.Command, workers []postgres.WorkerStatus) {
	if len(workers) == 0 {
		return
	}
	var free []int16
	for lane := range int16(relay.Lanes) {
		if !slices.ContainsFunc(workers, func(w postgres.WorkerStatus) bool { return slices.Contains(w.Lanes, lane) }) {
			free = append(free, lane)
		}
	}
	t := newTable(cmd, "Worker", "Lanes of all topics", "Seat", "Seen")
	for _, w := range workers {
		seat := "none"
		if w.Seated {
			seat = "yes"
		}
		seen := time.Duration(w.SeenAge * float64(time.Second)).Round(100 * time.Millisecond)
		t.AppendRow(table.Row{printable.Line(w.Name), cmp.Or(relay.FormatLanes(w.Lanes), "none"), seat, seen.String() + " ago"})
	}
	t.Render()
	if len(free) > 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "no worker holds lanes %s of all topics; batches of each topic publish their events\n", relay.FormatLanes(free))
	}
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

// apart says why batches of the topic have lanes that workers would otherwise share.
func apart(s postgres.TopicStatus) string {
	var why []string
	if s.Apart > 0 {
		lanes := printable.Counted(s.Apart, "lane")
		if s.ApartCause != "" {
			lanes += ": " + s.ApartCause
		}
		why = append(why, text.WrapSoft(lanes, apartWidth))
	}
	switch {
	case s.Retrying == 1:
		why = append(why, "1 batch in retry")
	case s.Retrying > 1:
		why = append(why, printable.Count(s.Retrying)+" batches in retry")
	}
	return strings.Join(why, "\n")
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

// apartWidth is how wide the reason in the column APART may be, in characters.
const apartWidth = 50

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
