package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
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
