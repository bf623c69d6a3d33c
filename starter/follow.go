package main

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
	"golang.org/x/term"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/workflows"
)

// follow shows how far an operation is until its workflow ends.
func follow(ctx context.Context, out io.Writer, store *postgres.Store, run client.WorkflowRun, r *report) error {
	ended := make(chan error, 1)
	go func() {
		var result workflows.OperationResult
		ended <- run.Get(ctx, &result)
	}()
	show, stop := tracker(out, r)
	defer stop()
	for {
		select {
		case err := <-ended:
			if ctx.Err() != nil {
				return interrupted(r)
			}
			if u, readErr := store.Operation(ctx, r.Operation); readErr == nil {
				r.Done, r.Outcome = u.Done, u.Outcome
				show(u.Done)
			}
			if err != nil {
				return fmt.Errorf("%s: %d moved: %w", r.WorkflowID, r.Done, err)
			}
			return nil
		case <-ctx.Done():
			return interrupted(r)
		case <-time.After(250 * time.Millisecond):
			// A database that is away for a moment is the workflow's business.
			if u, err := store.Operation(ctx, r.Operation); err == nil {
				r.Done = u.Done
				show(u.Done)
			}
		}
	}
}

func interrupted(r *report) error {
	return fmt.Errorf("no longer followed, with %d events moved: it goes on; the same command follows it again, and %q stops it",
		r.Done, "temporal workflow cancel -w "+r.WorkflowID)
}

// tracker shows progress: moving on a terminal, as a line every two seconds anywhere
// else.
func tracker(out io.Writer, r *report) (show func(done int64), stop func()) {
	if file, ok := out.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		var last int64
		said := time.Now()
		return func(done int64) {
			if done != last && time.Since(said) > 2*time.Second {
				last, said = done, time.Now()
				fmt.Fprintf(out, "%d of %d\n", done, r.Matched)
			}
		}, func() {}
	}
	w := progress.NewWriter()
	w.SetOutputWriter(out)
	w.SetUpdateFrequency(100 * time.Millisecond)
	w.Style().Visibility = progress.StyleVisibility{Tracker: true, Value: true, Percentage: true, Speed: true, ETA: true}
	t := &progress.Tracker{Message: r.Kind + " " + r.Topic, Total: r.Matched}
	w.AppendTracker(t)
	rendered := make(chan struct{})
	go func() {
		w.Render()
		close(rendered)
	}()
	return t.SetValue, func() {
		t.MarkAsDone()
		w.Stop()
		<-rendered
	}
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
