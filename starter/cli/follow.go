package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// follow shows the progress of an operation until its workflow ends, and the reason if there
// is no progress.
func follow(ctx context.Context, out io.Writer, store *postgres.Store, c client.Client, run client.WorkflowRun, r *report) (err error) {
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	end, answers := make(chan error, 1), make(chan error)
	var result workflows.OperationResult
	go func() {
		var err error
		result, err = ended(asking, run)
		end <- err
	}()
	go ask(asking, c, r.WorkflowID, answers)
	t := tracker(out, r)
	defer func() { t.stop(err == nil) }()
	database, server := outage{what: "the database", say: t.say}, outage{what: "Temporal", say: t.say}
	moved, alone := time.Now(), false
	for {
		select {
		case err := <-end:
			if ctx.Err() != nil {
				return interrupted(r)
			}
			return r.end(ctx, store, result, err, t)
		case <-ctx.Done():
			return interrupted(r)
		case err := <-answers:
			server.seen(err)
			if err == nil && !alone && time.Since(moved) > idleFor {
				if queue := unattended(ctx, c, r.WorkflowID); queue != "" {
					alone = true
					t.say(fmt.Sprintf("no worker polls task queue %s: the operation waits for one", queue))
				}
			}
		case <-time.After(250 * time.Millisecond):
			u, err := store.Operation(ctx, r.Operation)
			if ctx.Err() != nil {
				return interrupted(r)
			}
			if database.seen(err); err != nil {
				continue
			}
			if u.Done != r.Done {
				moved = time.Now()
			}
			r.Done = u.Done
			t.show(u.Done)
		}
	}
}

// end notes how the operation ended. The record in outbox.operation decides: if another
// command completed the operation first, the workflow of this command finds nothing to do.
func (r *report) end(ctx context.Context, store *postgres.Store, result workflows.OperationResult, err error, t tracked) error {
	u, readErr := store.Operation(ctx, r.Operation)
	switch {
	case readErr == nil:
		r.Done, r.Outcome = u.Done, u.Outcome
	case err == nil:
		r.Done, r.Outcome = result.Done, "done"
	}
	r.moved = max(r.Done, result.Done)
	t.show(r.Done)
	switch {
	case err == nil || r.Outcome == "done":
		return nil
	case strings.HasPrefix(r.Outcome, relay.Abandoned):
		return fmt.Errorf("%s: the same command, run elsewhere, found no workflow and started a new operation: outbox.operation has its operator: %w", r.WorkflowID, err)
	}
	return fmt.Errorf("%s: %d moved: %w", r.WorkflowID, r.Done, err)
}

func interrupted(r *report) error {
	return fmt.Errorf("stopped waiting after %d events; the workflow continues: the same command follows it again, and %q stops it",
		r.Done, "temporal workflow cancel -w "+r.WorkflowID)
}

// tracked shows progress and messages.
type tracked struct {
	show func(done int64)
	say  func(text string)
	stop func(done bool)
}

// tracker shows progress: moving on a terminal, as a line every two seconds anywhere
// else.
func tracker(out io.Writer, r *report) tracked {
	file := terminal(out)
	if file == nil {
		var last int64
		said := time.Now()
		return tracked{func(done int64) {
			if done != last && time.Since(said) > 2*time.Second {
				last, said = done, time.Now()
				fmt.Fprintf(out, "%d of %d\n", done, r.Matched)
			}
		}, func(text string) { fmt.Fprintln(out, text) }, func(bool) {}}
	}
	w := progress.NewWriter()
	w.SetOutputWriter(file)
	w.SetUpdateFrequency(100 * time.Millisecond)
	w.Style().Visibility = progress.StyleVisibility{Tracker: true, Value: true, Percentage: true, Speed: true, ETA: true}
	w.Style().Options.ErrorString = "no longer followed"
	t := &progress.Tracker{Message: r.Kind + " " + printable.Line(r.Topic), Total: r.Matched}
	w.AppendTracker(t)
	rendered := make(chan struct{})
	go func() {
		w.Render()
		close(rendered)
	}()
	return tracked{t.SetValue, func(text string) { w.Log("%s", printable.Text(text)) }, func(done bool) {
		for !w.IsRenderInProgress() { // before it has begun, Stop does nothing
			time.Sleep(time.Millisecond)
		}
		if done {
			t.MarkAsDone()
		} else {
			t.MarkAsErrored()
		}
		w.Stop()
		<-rendered
	}}
}

// looking says how far a look at many events is, every two seconds.
func looking(out io.Writer) postgres.Progress {
	said := time.Now()
	return func(part float64) {
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			fmt.Fprintf(out, "looked through %.0f %% of the events\n", 100*part)
		}
	}
}

// namespace is Temporal's, as the client's configuration has it.
func namespace() string {
	if o, err := envconfig.LoadDefaultClientOptions(); err == nil && o.Namespace != "" {
		return o.Namespace
	}
	return client.DefaultNamespace
}

// runLink is a run's address in the UI, where that is known.
func runLink(runID string) string {
	ui := os.Getenv("TEMPORAL_UI_URL")
	if ui == "" {
		return runID
	}
	query := url.QueryEscape("RunId=\"" + runID + "\"")
	return runID + " (" + strings.TrimSuffix(ui, "/") + "/namespaces/" + namespace() + "/workflows?query=" + query + ")"
}
