package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"

	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/workflows"
)

const (
	// askEvery is how often Temporal is asked about a workflow that is followed, and
	// askWithin how long it may take to answer.
	askEvery  = 2 * time.Second
	askWithin = 5 * time.Second
	// idleFor is how long an operation may move nothing before the command looks for a reason.
	idleFor = 5 * time.Second
)

// ended waits for the workflow's end. It continues through outages of Temporal.
func ended(ctx context.Context, run client.WorkflowRun) (r workflows.OperationResult, err error) {
	for {
		err = run.Get(ctx, &r)
		var failed *temporal.WorkflowExecutionError
		if err == nil || ctx.Err() != nil || errors.As(err, &failed) || !passes(err) {
			return r, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(askEvery):
		}
	}
}

// passes reports whether an error of Temporal's may not come again.
func passes(err error) bool {
	switch serviceerror.ToStatus(err).Code() {
	case codes.NotFound, codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition:
		return false
	}
	return true
}

// ask describes a workflow repeatedly and reports each change.
func ask(ctx context.Context, c client.Client, workflowID string, answers chan<- error) {
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, askWithin)
		_, err := c.DescribeWorkflowExecution(asking, workflowID, "")
		cancel()
		select {
		case answers <- err:
		case <-ctx.Done():
		}
		select {
		case <-ctx.Done():
		case <-time.After(askEvery):
		}
	}
}

// unattended returns the task queue of a workflow that runs, if no worker polls it; ""
// if one does, or it is not known.
func unattended(ctx context.Context, c client.Client, workflowID string) string {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	d, err := c.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil || d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return ""
	}
	queue := d.GetExecutionConfig().GetTaskQueue().GetName()
	q, err := c.DescribeTaskQueue(ctx, queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	if err != nil {
		return ""
	}
	for _, p := range q.GetPollers() {
		if time.Since(p.GetLastAccessTime().AsTime()) < timing.PolledWithin {
			return ""
		}
	}
	return queue
}

// outage tells once that something is away, and once that it is back.
type outage struct {
	what string
	say  func(text string)
	away bool
}

func (o *outage) seen(err error) {
	switch {
	case err != nil && !o.away:
		o.say(fmt.Sprintf("%s does not answer; the operation continues, and this command waits for an answer: %v", o.what, err))
	case err == nil && o.away:
		o.say(o.what + " answers again")
	}
	o.away = err != nil
}
