package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

type execution = *commonpb.WorkflowExecution

// namespace is the dev server's.
const namespace = "default"

// recoveryAction is an operator's action on a Recovery workflow.
type recoveryAction func(context.Context, client.Client, execution) error

// whileDenied denies access to a destination for a while, and meanwhile acts on the
// Recovery workflow of its topic, if there is one.
func (fx *fixture) whileDenied(do recoveryAction) func(context.Context, plan.Step) error {
	return func(ctx context.Context, step plan.Step) error {
		end := fx.proxy.Begin(faults.Rule{Kind: faults.Deny, Destination: fx.aim(step.Topic), Share: 1})
		defer end()
		until := time.Now().Add(step.For)
		if !wait(ctx, step.For/4) {
			return nil
		}
		for late := time.Now(); time.Since(late) < latest; {
			done, err := fx.actOnRecovery(ctx, step, do)
			if err != nil {
				fx.say("%s: %v", step.Kind, err) // Temporal may be away just now
			}
			if done {
				fx.count(string(step.Kind))
				fx.expectPause(step.Topic, string(step.Kind))
				break
			}
			if !wait(ctx, 200*time.Millisecond) {
				break
			}
		}
		wait(ctx, time.Until(until))
		return nil
	}
}

// recovers is the topic that a recovery is of.
func recovers(w execution) string { return w.WorkflowId[strings.LastIndexByte(w.WorkflowId, '/')+1:] }

// actOnRecovery acts on a topic's recovery, and reports whether there was one.
func (fx *fixture) actOnRecovery(ctx context.Context, step plan.Step, do recoveryAction) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	workflows, err := fx.open(ctx, "Recovery")
	if err != nil {
		return false, err
	}
	for _, w := range workflows {
		if recovers(w) == step.Topic {
			err := do(ctx, fx.temporal, w)
			return err == nil, err
		}
	}
	return false, nil
}

func terminateRecovery(ctx context.Context, c client.Client, w execution) error {
	return c.TerminateWorkflow(ctx, w.WorkflowId, w.RunId, "the harness was here")
}

// pauseRecovery pauses and unpauses the workflow's activity. (The stack's server
// knows the calls for activities by their older names only.)
func pauseRecovery(ctx context.Context, c client.Client, w execution) error {
	id, err := pendingActivity(ctx, c, w)
	if err != nil {
		return err
	}
	_, err = c.WorkflowService().PauseActivity(ctx, &workflowservice.PauseActivityRequest{
		Namespace: namespace, Execution: w, Identity: "chaos", Reason: "the harness was here",
		Activity: &workflowservice.PauseActivityRequest_Id{Id: id},
	})
	if err != nil {
		return fmt.Errorf("pause the activity: %w", err)
	}
	wait(ctx, 2*time.Second)
	_, err = c.WorkflowService().UnpauseActivity(ctx, &workflowservice.UnpauseActivityRequest{
		Namespace: namespace, Execution: w, Identity: "chaos",
		Activity: &workflowservice.UnpauseActivityRequest_Id{Id: id},
	})
	if err != nil {
		return fmt.Errorf("unpause the activity: %w", err)
	}
	return nil
}

// resetRecovery resets the workflow's activity, and then the workflow itself.
func resetRecovery(ctx context.Context, c client.Client, w execution) error {
	if id, err := pendingActivity(ctx, c, w); err == nil {
		_, err = c.WorkflowService().ResetActivity(ctx, &workflowservice.ResetActivityRequest{
			Namespace: namespace, Execution: w, Identity: "chaos",
			Activity: &workflowservice.ResetActivityRequest_Id{Id: id},
		})
		if err != nil {
			return fmt.Errorf("reset the activity: %w", err)
		}
		wait(ctx, time.Second)
	}
	event, err := firstDecision(ctx, c, w)
	if err != nil {
		return err
	}
	_, err = c.ResetWorkflowExecution(ctx, &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: namespace, WorkflowExecution: w, Reason: "the harness was here",
		WorkflowTaskFinishEventId: event, RequestId: w.RunId,
	})
	if err != nil {
		return fmt.Errorf("reset the workflow: %w", err)
	}
	return nil
}

var errNoActivity = errors.New("the workflow is not doing anything")

func pendingActivity(ctx context.Context, c client.Client, w execution) (id string, err error) {
	d, err := c.DescribeWorkflowExecution(ctx, w.WorkflowId, w.RunId)
	if err != nil {
		return "", err
	}
	for _, a := range d.PendingActivities {
		return a.ActivityId, nil
	}
	return "", errNoActivity
}

// firstDecision is the event that a reset to the beginning goes back to.
func firstDecision(ctx context.Context, c client.Client, w execution) (int64, error) {
	events := c.GetWorkflowHistory(ctx, w.WorkflowId, w.RunId, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			return 0, err
		}
		if e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			return e.EventId, nil
		}
	}
	return 0, errNoActivity
}
