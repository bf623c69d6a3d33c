package service

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// bursts runs some activities at a time, as a run of Relay that publishes many topics does.
func bursts(ctx workflow.Context) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute, DisableEagerExecution: true})
	for range 40 {
		var all []workflow.Future
		for range 6 {
			all = append(all, workflow.ExecuteActivity(ctx, "brief"))
		}
		for _, f := range all {
			if err := f.Get(ctx, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// Temporal 1.29 keeps a task for two seconds from the polls in its partition, if it finds none there.
// With two polls, that happened to one of 25 activities in such bursts.
func TestWorker_PollsSoThatNoActivityOfABurstBeginsLate(t *testing.T) {
	c := testenv.Temporal(t)
	queue := testenv.TaskQueue(t)
	w := worker.New(c, queue, (&relay{}).workerOptions())
	w.RegisterWorkflow(bursts)
	w.RegisterActivityWithOptions(func(context.Context) error { return nil }, activity.RegisterOptions{Name: "brief"})
	require.NoError(t, w.Start())
	defer w.Stop()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: queue}, bursts)
	require.NoError(t, err)
	require.NoError(t, run.Get(t.Context(), nil))

	scheduled := map[int64]time.Time{}
	late := 0
	events := c.GetWorkflowHistory(t.Context(), run.GetID(), run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		require.NoError(t, err)
		if e.GetActivityTaskScheduledEventAttributes() != nil {
			scheduled[e.GetEventId()] = e.GetEventTime().AsTime()
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a != nil && e.GetEventTime().AsTime().Sub(scheduled[a.GetScheduledEventId()]) > 1500*time.Millisecond {
			late++
		}
	}
	require.Len(t, scheduled, 240)
	require.Zero(t, late)
}
