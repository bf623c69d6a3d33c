package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
)

// run is one run of the Relay workflow, as Temporal lists it.
type run struct {
	workflowID, runID string
	started, closed   time.Time // closed is zero while it runs
	status            enumspb.WorkflowExecutionStatus
}

// runs lists the runs that were under way at some time since then, oldest first.
func (e *environment) runs(ctx context.Context, since time.Time) ([]run, error) {
	var found []run
	for page := []byte(nil); ; {
		out, err := e.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: e.token, Query: `WorkflowType = "Relay"`, NextPageToken: page,
		})
		if err != nil {
			return nil, fmt.Errorf("list runs: %w", err)
		}
		for _, e := range out.GetExecutions() {
			if n := runOf(e); n.closed.IsZero() || n.closed.After(since) {
				found = append(found, n)
			}
		}
		if page = out.GetNextPageToken(); len(page) == 0 {
			slices.SortFunc(found, func(a, b run) int { return a.started.Compare(b.started) })
			return found, nil
		}
	}
}

func runOf(e *workflow.WorkflowExecutionInfo) run {
	n := run{
		workflowID: e.GetExecution().GetWorkflowId(), runID: e.GetExecution().GetRunId(),
		started: e.GetStartTime().AsTime(), status: e.GetStatus(),
	}
	if e.GetCloseTime() != nil {
		n.closed = e.GetCloseTime().AsTime()
	}
	return n
}

// pause stops the schedule and ends the runs under way. Stop the worker first: it
// has no way to learn of a terminated run at once, and would claim for it.
func (e *environment) pause(ctx context.Context) error {
	h := e.temporal.ScheduleClient().GetHandle(ctx, scheduleID)
	if err := h.Pause(ctx, client.SchedulePauseOptions{Note: "between two measurements"}); err != nil {
		return fmt.Errorf("pause the schedule: %w", err)
	}
	// A run may follow the one that is ended, if it was buffered.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		runs, err := e.runs(ctx, time.Now())
		if err != nil {
			return err
		}
		runs = slices.DeleteFunc(runs, func(n run) bool { return !n.closed.IsZero() })
		if len(runs) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the relay's runs do not end")
		}
		for _, n := range runs {
			err := e.temporal.TerminateWorkflow(ctx, n.workflowID, n.runID, "the measurement is over")
			var gone *serviceerror.NotFound
			if err != nil && !errors.As(err, &gone) {
				return fmt.Errorf("end run %s: %w", n.workflowID, err)
			}
		}
	}
}

// resume lets the schedule go on, and waits until it does: a pause may still be
// on its way when an update of the schedule passes it and brings it back.
func (e *environment) resume(ctx context.Context) error {
	h := e.temporal.ScheduleClient().GetHandle(ctx, scheduleID)
	for range 50 {
		if err := h.Unpause(ctx, client.ScheduleUnpauseOptions{Note: "measuring"}); err != nil {
			return fmt.Errorf("resume the schedule: %w", err)
		}
		time.Sleep(200 * time.Millisecond)
		d, err := h.Describe(ctx)
		if err != nil {
			return fmt.Errorf("resume the schedule: %w", err)
		}
		if !d.Schedule.State.Paused {
			return nil
		}
	}
	return errors.New("the schedule stays paused")
}

// trigger starts a run at once.
func (e *environment) trigger(ctx context.Context) error {
	h := e.temporal.ScheduleClient().GetHandle(ctx, scheduleID)
	if err := h.Trigger(ctx, client.ScheduleTriggerOptions{}); err != nil {
		return fmt.Errorf("trigger the schedule: %w", err)
	}
	return nil
}

// work is what the histories of the runs say about a span of time.
type work struct {
	activities int // scheduled
	actions    int // what Temporal Cloud bills for and a history shows
	batches    int // PublishBatch completed
}

// billed counts Temporal Cloud's actions (https://docs.temporal.io/cloud/actions) that
// an event of a run stands for. A run that the schedule starts is three. Heartbeats
// are in no history.
func billed(e *historypb.HistoryEvent) int {
	switch e.GetEventType() {
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
		return 3
	case enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
		return 2
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_STARTED: // of its attempts, the last
		return int(e.GetActivityTaskStartedEventAttributes().GetAttempt()) - 1
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, enumspb.EVENT_TYPE_TIMER_STARTED, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
		enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED, enumspb.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
		return 1
	default:
		return 0
	}
}

// work reads the histories of all runs and counts what lies between two times.
func (e *environment) work(ctx context.Context, from, to time.Time) (work, error) {
	runs, err := e.runs(ctx, from)
	if err != nil {
		return work{}, err
	}
	var w work
	for _, n := range runs {
		history := e.temporal.GetWorkflowHistory(ctx, n.workflowID, n.runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		batch := map[int64]bool{}
		for history.HasNext() {
			e, err := history.Next()
			if err != nil {
				return w, fmt.Errorf("read the history of %s: %w", n.workflowID, err)
			}
			at := e.GetEventTime().AsTime()
			if at.Before(from) || at.After(to.Add(time.Second)) {
				continue
			}
			if !at.After(to) {
				w.actions += billed(e)
			}
			if s := e.GetActivityTaskScheduledEventAttributes(); s != nil && !at.After(to) {
				w.activities++
				batch[e.GetEventId()] = s.GetActivityType().GetName() == "PublishBatch"
			}
			if c := e.GetActivityTaskCompletedEventAttributes(); c != nil && batch[c.GetScheduledEventId()] {
				w.batches++
			}
		}
	}
	return w, nil
}
