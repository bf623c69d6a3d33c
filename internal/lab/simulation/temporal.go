package simulation

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/temporal-outbox/relay/workflows"
)

// glimpse is the state of the recovery at a moment, as Temporal's UI shows it. The zero
// value says that there is no recovery.
type glimpse struct {
	workflow string // id
	status   enumspb.WorkflowExecutionStatus
	attempt  int32
	failure  string    // last
	next     time.Time // attempt, if none is under way
}

// describe asks Temporal for the recovery of this run.
func (o *outage) describe(ctx context.Context) (g glimpse, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	id := workflows.RecoveryID(o.TaskQueue, brokenTopic)
	d, err := o.Temporal.DescribeWorkflowExecution(ctx, id, "")
	if missing := (*serviceerror.NotFound)(nil); errors.As(err, &missing) {
		return g, nil
	}
	if err != nil {
		return g, fmt.Errorf("describe %s: %w", id, err)
	}
	if d.GetWorkflowExecutionInfo().GetStartTime().AsTime().Before(o.began) {
		return g, nil // an earlier run's
	}
	g.workflow, g.status = id, d.GetWorkflowExecutionInfo().GetStatus()
	for _, a := range d.GetPendingActivities() {
		g.attempt, g.failure = a.GetAttempt(), a.GetLastFailure().GetMessage()
		if a.GetState() == enumspb.PENDING_ACTIVITY_STATE_SCHEDULED {
			g.next = a.GetScheduledTime().AsTime()
		}
	}
	return g, nil
}

// visible is how long Temporal's list of workflows may lag behind.
const visible = 10 * time.Second

// recoveries lists those of all topics that began in this run. It waits a while until the
// list shows one recovery that has ended.
func (o *outage) recoveries(ctx context.Context) (all []Recovery, err error) {
	for limit := time.Now().Add(visible); ; {
		if all, err = o.listed(ctx); err != nil {
			return nil, err
		}
		asItShould := len(all) == 1 && all[0].Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING.String()
		if asItShould || time.Now().After(limit) {
			return all, nil
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

func (o *outage) listed(ctx context.Context) (all []Recovery, err error) {
	out, err := o.Temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType = 'Recovery' AND TaskQueue = '%s' AND StartTime >= '%s'",
			o.TaskQueue, o.began.UTC().Format(time.RFC3339Nano)),
	})
	if err != nil {
		return nil, fmt.Errorf("list recoveries: %w", err)
	}
	for _, w := range out.GetExecutions() {
		id, run := w.GetExecution().GetWorkflowId(), w.GetExecution().GetRunId()
		r := Recovery{ID: id, Status: w.GetStatus().String()}
		if w.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
			if err := o.Temporal.GetWorkflow(ctx, id, run).Get(ctx, &r.Result); err != nil {
				return nil, fmt.Errorf("read the result of %s: %w", id, err)
			}
		}
		all = append(all, r)
	}
	return all, nil
}
