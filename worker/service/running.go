package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/workflows"
)

// askWithin is how long Temporal may take to say whether a workflow runs.
const askWithin = 5 * time.Second

// running reports whether Temporal knows a workflow of that id, and whether it runs.
func (r *relay) running(ctx context.Context, workflowID string) (found, running bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	d, err := r.temporal.DescribeWorkflowExecution(ctx, workflowID, "")
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("describe workflow %s: %w", workflowID, err)
	}
	return true, d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
}

// recovery asks Temporal for the last run of a recovery. A recovery that is paused has not ended. One that Temporal does
// not know may run in another namespace, so it counts as one that runs.
func (r *relay) recovery(ctx context.Context, workflowID string) (run activities.RecoveryRun, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	d, err := r.temporal.DescribeWorkflowExecution(ctx, workflowID, "")
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return run, nil
	case err != nil:
		return run, fmt.Errorf("describe workflow %s: %w", workflowID, err)
	}
	switch d.GetWorkflowExecutionInfo().GetStatus() {
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		run.Ended, run.Completed = true, true
	case enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED,
		enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		run.Ended = true
	default:
		return run, nil
	}
	runID := d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	var in workflows.RecoveryInput
	history := r.temporal.GetWorkflowHistory(ctx, workflowID, runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !history.HasNext() { // Next would panic, and end the worker
		return run, fmt.Errorf("read the input of workflow %s: its history is empty", workflowID)
	}
	first, err := history.Next()
	if err == nil {
		err = converter.GetDefaultDataConverter().FromPayloads(first.GetWorkflowExecutionStartedEventAttributes().GetInput(), &in)
	}
	if err != nil {
		return run, fmt.Errorf("read the input of workflow %s: %w", workflowID, err)
	}
	run.ClaimID = in.Batch.ClaimID
	return run, nil
}
