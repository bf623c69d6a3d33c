package chaos

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/api/workflowservice/v1"
)

// explain reports the state of the workflows, so that the reader can see why something
// remains.
func (fx *fixture) explain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := fx.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("TaskQueue = '%s' AND (ExecutionStatus = 'Running' OR WorkflowType = 'Recovery')", fx.token),
	})
	if err != nil {
		fx.say("  %v", err)
		return
	}
	for _, e := range out.Executions {
		since := func(t time.Time) float64 { return t.Sub(fx.began).Seconds() }
		text := fmt.Sprintf("%s %s, begun at %.1fs", e.Execution.WorkflowId, e.Status, since(e.StartTime.AsTime()))
		if e.CloseTime != nil {
			text += fmt.Sprintf(", ended at %.1fs", since(e.CloseTime.AsTime()))
		}
		fx.say("  %s", text)
		if e.CloseTime != nil {
			continue
		}
		d, err := fx.temporal.DescribeWorkflowExecution(ctx, e.Execution.WorkflowId, e.Execution.RunId)
		if err != nil {
			continue
		}
		for _, a := range d.PendingActivities {
			fx.say("    %s %s, attempt %d: %s", a.ActivityType.GetName(), a.State, a.Attempt, a.LastFailure.GetMessage())
		}
	}
}
