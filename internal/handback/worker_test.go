package handback_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"

	"github.com/temporal-outbox/relay/internal/handback"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// untilStop is an activity like PublishBatch: it ends at once when its worker stops.
func untilStop(ctx context.Context) error {
	select {
	case <-activity.GetWorkerStopChannel(ctx):
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
	return nil
}

// steps makes a workflow task and an activity after the other, for as long as it is told to.
func steps(ctx workflow.Context, until time.Time) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute, HeartbeatTimeout: timing.HeartbeatTimeout,
	})
	for workflow.Now(ctx).Before(until) {
		if err := workflow.ExecuteActivity(ctx, untilStop).Get(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// stopping is a worker, and how it is stopped.
type stopping struct {
	worker.Worker
	tasks *handback.Tasks
}

func startWorker(t *testing.T, queue string) *stopping {
	tasks := handback.New(client.DefaultNamespace, "stops", slog.New(slog.DiscardHandler))
	c := testenv.Temporal(t, func(o *client.Options) {
		o.ConnectionOptions.DialOptions = append(o.ConnectionOptions.DialOptions, grpc.WithChainUnaryInterceptor(tasks.Intercept))
	})
	w := worker.New(c, queue, worker.Options{WorkerStopTimeout: 10 * time.Second, StickyScheduleToStartTimeout: time.Second})
	w.RegisterWorkflow(steps)
	w.RegisterActivity(untilStop)
	require.NoError(t, w.Start())
	return &stopping{w, tasks}
}

func (s *stopping) stop(ctx context.Context) int {
	s.tasks.Stopping(ctx)
	s.Stop()
	return s.tasks.End(ctx)
}

func TestWorker_ThatStopsLeavesNoTaskToItsTimeout(t *testing.T) {
	queue := testenv.TaskQueue(t)
	c := testenv.Temporal(t)
	old := []*stopping{startWorker(t, queue), startWorker(t, queue)}
	until := time.Now().Add(12 * time.Second)
	var runs []client.WorkflowRun
	for i := range 8 {
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("%s-%d", queue, i), TaskQueue: queue}, steps, until)
		require.NoError(t, err)
		runs = append(runs, run)
	}
	returned := 0
	for time.Now().Before(until) {
		next := []*stopping{startWorker(t, queue), startWorker(t, queue)}
		var all sync.WaitGroup
		var counts [2]int
		for i, w := range old {
			all.Go(func() { counts[i] = w.stop(t.Context()) })
		}
		all.Wait()
		returned += counts[0] + counts[1]
		old = next
	}
	for _, run := range runs {
		require.NoError(t, run.Get(t.Context(), nil))
	}
	for _, w := range old {
		returned += w.stop(t.Context())
	}
	for _, run := range runs {
		history := c.GetWorkflowHistory(t.Context(), run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for history.HasNext() {
			e, err := history.Next()
			require.NoError(t, err)
			if timedOut := e.GetWorkflowTaskTimedOutEventAttributes(); timedOut != nil {
				require.Equal(t, enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, timedOut.GetTimeoutType(), "%s", e)
			}
			require.NotContains(t, e.GetActivityTaskStartedEventAttributes().GetLastFailure().String(), "imeout", "%s", e)
		}
	}
	// If nothing had to be handed back, this has proven nothing.
	require.Positive(t, returned)
	t.Logf("%d tasks were handed back", returned)
}
