package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/liveness"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/timing"
)

// relayReport is what "status --json" says of the relay.
type relayReport struct {
	liveness.State
	// Problems keep events waiting, or soon will. Each names its remedy.
	Problems []string `json:"problems"`
	// Unknown is why Temporal did not tell some of it.
	Unknown []string `json:"unknown,omitempty"`
}

func reportOn(s liveness.State) relayReport {
	return relayReport{State: s, Problems: s.Problems(), Unknown: s.Unknowns()}
}

// warnOf prints, above the table, the problems that keep events waiting.
func (r relayReport) warnOf(out io.Writer) {
	for _, text := range r.Problems {
		fmt.Fprintln(out, "warning: "+text)
	}
	for _, text := range r.Unknown {
		fmt.Fprintln(out, "not known whether the relay runs: "+text)
	}
}

// tellOf prints, below the tables, the parts of the relay that have no problem, and its batches in retry.
func (r relayReport) tellOf(out io.Writer) {
	for _, f := range r.Findings() {
		if !f.Bad && !f.Unknown {
			fmt.Fprintf(out, "%s: %s\n", f.Of, f.Text)
		}
	}
	for i, retry := range r.Run.Retrying {
		if i == retriesShown {
			fmt.Fprintf(out, "retry: %s more, see the pending activities of run %s\n", printable.Count(len(r.Run.Retrying)-i), r.Run.WorkflowID)
			break
		}
		fmt.Fprintln(out, "retry: "+printable.Line(retry.String()))
	}
}

// retriesShown is how many batches in retry are told of, besides their number.
const retriesShown = 20

// relayWatch asks Temporal about the relay beside the command, because an answer may take
// seconds and the outbox's tables do not wait for it.
type relayWatch struct {
	taskQueue string
	mu        sync.Mutex
	last      liveness.State
	first     chan struct{} // closed when there is an answer
}

// watchRelay asks once, or every timing.LookEvery, until stop is called.
func watchRelay(ctx context.Context, taskQueue string, again bool) (w *relayWatch, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	w = &relayWatch{taskQueue: taskQueue, first: make(chan struct{})}
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			s := lookAtRelay(ctx, taskQueue)
			w.mu.Lock()
			w.last = s
			w.mu.Unlock()
			select {
			case <-w.first:
			default:
				close(w.first)
			}
			if !again {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(timing.LookEvery):
			}
		}
	})
	return w, func() {
		cancel()
		asking.Wait()
	}
}

// report returns the last answer, and waits for the first.
func (w *relayWatch) report() relayReport {
	<-w.first
	w.mu.Lock()
	defer w.mu.Unlock()
	return reportOn(w.last)
}

// lookAtRelay asks once, for timing.LookFor at most, with the connection.
func lookAtRelay(ctx context.Context, taskQueue string) liveness.State {
	ctx, cancel := context.WithTimeout(ctx, timing.LookFor)
	defer cancel()
	c, err := dial(ctx)
	if err != nil {
		return liveness.Untold(taskQueue, err)
	}
	defer c.Close()
	s, _ := liveness.Look(ctx, c, taskQueue, os.Getenv("TEMPORAL_DEPLOYMENT_NAME")) // the state says as much
	return s
}
