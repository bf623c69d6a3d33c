package drain_test

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/temporal-outbox/relay/internal/drain"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// batch is an activity like PublishBatch: it ends at once when its worker stops.
func batch(ctx context.Context) error {
	select {
	case <-activity.GetWorkerStopChannel(ctx):
	case <-ctx.Done():
	}
	return nil
}

func quick(context.Context) error { return nil }

// slow does not notice that its worker stops, like a request to a slow destination.
func slow(ctx context.Context, takes time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(takes):
	}
	return nil
}

// untilStopped makes tasks by the end of its first worker.
func untilStopped(ctx workflow.Context) error {
	return errors.Join(run(ctx, batch), run(ctx, quick))
}

func quickly(ctx workflow.Context) error { return run(ctx, quick) }

func slowly(ctx workflow.Context, takes time.Duration) error { return run(ctx, slow, takes) }

func run(ctx workflow.Context, activity any, args ...any) error {
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Minute,
		DisableEagerExecution: true, // so that polls bring activities too
	}), activity, args...).Get(ctx, nil)
}

type stopping struct {
	worker.Worker
	polls *drain.Polls
}

func startWorker(t *testing.T, queue string) *stopping {
	t.Helper()
	polls := drain.New()
	c := testenv.Temporal(t, func(o *client.Options) {
		o.Identity = fmt.Sprintf("%p", polls)
		o.ConnectionOptions.DialOptions = append(o.ConnectionOptions.DialOptions, grpc.WithChainUnaryInterceptor(polls.Intercept))
	})
	w := worker.New(c, queue, worker.Options{WorkerStopTimeout: timing.StopTimeout, StickyScheduleToStartTimeout: time.Second})
	w.RegisterWorkflow(untilStopped)
	w.RegisterWorkflow(quickly)
	w.RegisterWorkflow(slowly)
	w.RegisterActivity(batch)
	w.RegisterActivity(quick)
	w.RegisterActivity(slow)
	require.NoError(t, w.Start())
	return &stopping{w, polls}
}

func (s *stopping) stop() {
	s.polls.Drain(context.Background())
	s.Stop()
}

func stopAll(workers ...*stopping) {
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(w.stop)
	}
	all.Wait()
}

// Without Drain, a round in which a task is lost takes ten seconds.
func TestDrain_LosesNoTaskThatTheEndOfActivitiesMakes(t *testing.T) {
	c := testenv.Temporal(t)
	for round := range 8 {
		queue := fmt.Sprintf("%s-%d", testenv.TaskQueue(t), round)
		old := []*stopping{startWorker(t, queue), startWorker(t, queue)}
		var runs []client.WorkflowRun
		for i := range 8 {
			run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("%s-%d", queue, i), TaskQueue: queue}, untilStopped)
			require.NoError(t, err)
			runs = append(runs, run)
		}
		for _, run := range runs {
			testenv.Eventually(t, 10*time.Second, func() error {
				d, err := c.DescribeWorkflowExecution(t.Context(), run.GetID(), run.GetRunID())
				if err == nil && (len(d.GetPendingActivities()) != 1 || d.GetPendingActivities()[0].GetState() != enumspb.PENDING_ACTIVITY_STATE_STARTED) {
					err = errors.New("its activity has not begun")
				}
				return err
			})
		}
		next := startWorker(t, queue)
		stopAll(old...)
		for _, run := range runs {
			require.NoError(t, run.Get(t.Context(), nil))
			requireNoneTimedOut(t, c, run)
		}
		next.stop()
	}
}

func requireNoneTimedOut(t *testing.T, c client.Client, run client.WorkflowRun) {
	t.Helper()
	history := c.GetWorkflowHistory(t.Context(), run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		e, err := history.Next()
		require.NoError(t, err)
		if timedOut := e.GetWorkflowTaskTimedOutEventAttributes(); timedOut != nil {
			// A run of which no decision came while its worker drained waits a second for that worker.
			require.Equal(t, enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, timedOut.GetTimeoutType(), "%s", e)
		}
		require.LessOrEqual(t, e.GetActivityTaskStartedEventAttributes().GetAttempt(), int32(1), "%s", e)
	}
}

// A worker that waits for a slow request takes no tasks from the others meanwhile.
func TestDrain_OfWorkersThatStopSlowlyDelaysNoTask(t *testing.T) {
	queue := testenv.TaskQueue(t)
	c := testenv.Temporal(t)
	old := []*stopping{startWorker(t, queue), startWorker(t, queue)}
	const busy = 6 * time.Second
	for i := range 8 {
		_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("%s-slow-%d", queue, i), TaskQueue: queue}, slowly, busy)
		require.NoError(t, err)
	}
	next := startWorker(t, queue)
	began := time.Now()
	var stopped sync.WaitGroup
	stopped.Go(func() { stopAll(old...) })
	for i := 0; time.Since(began) < busy/2; i++ {
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("%s-%d", queue, i), TaskQueue: queue}, quickly)
		require.NoError(t, err)
		require.NoError(t, run.Get(t.Context(), nil))
		requireNoneTimedOut(t, c, run)
	}
	stopped.Wait()
	next.stop()
}
