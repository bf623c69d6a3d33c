package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// recoveryFound is a recovery that is under way.
type recoveryFound struct {
	id, runID string
	// firstRunID is that with which it began, before it continued as new.
	firstRunID string
	attempt    *workflowpb.PendingActivityInfo // nil if none is under way or due
}

// findRecovery finds a topic's recovery, also one that an earlier version began under the
// id that it had then.
func findRecovery(ctx context.Context, c client.Client, taskQueue, topic string) (recoveryFound, error) {
	ids := []string{workflows.RecoveryID(taskQueue, topic)}
	if earlier := workflows.EarlierRecoveryID(taskQueue, topic); earlier != ids[0] && workflows.IsID(earlier) {
		ids = append(ids, earlier)
	}
	for _, id := range ids {
		d, err := c.DescribeWorkflowExecution(ctx, id, "")
		var notFound *serviceerror.NotFound
		switch {
		case errors.As(err, &notFound):
		case err != nil:
			return recoveryFound{}, fmt.Errorf("look for the recovery of %s: %w", topic, err)
		case d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
			d.ExecutionConfig.GetTaskQueue().GetName() != taskQueue: // an earlier id can be that of two task queues
		default:
			return recoveryFound{
				id: id, runID: d.WorkflowExecutionInfo.Execution.RunId, firstRunID: d.WorkflowExecutionInfo.FirstRunId, attempt: attemptOf(d),
			}, nil
		}
	}
	return recoveryFound{}, nothing("%s has no recovery under way: its destination is not known to be broken", topic)
}

// attemptOf is the attempt that a recovery makes or waits for, nil if there is none.
func attemptOf(d *workflowservice.DescribeWorkflowExecutionResponse) *workflowpb.PendingActivityInfo {
	for _, a := range d.PendingActivities {
		if a.ActivityType.GetName() == workflows.PublishActivity {
			return a
		}
	}
	return nil
}

// tryNow ends the backoff of the recovery's attempts.
func (o *recovering) tryNow(cmd *cobra.Command, store *postgres.Store, c client.Client, found recoveryFound, r *recovered) error {
	if found.attempt == nil {
		return nothing("%s: no attempt is under way or due: the recovery is just starting, ending or writing dead letters; run the command again in a moment", r.WorkflowID)
	}
	if err := o.ask(cmd, store, relay.RecoverNow, found, r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.wait)
	defer cancel()
	var err error
	if r.Outcome = "tries now"; found.attempt.State == enumspb.PENDING_ACTIVITY_STATE_STARTED {
		fmt.Fprintln(cmd.ErrOrStderr(), "an attempt is under way; another one follows it at once")
		r.Outcome, err = afterAttempt(ctx, c, found)
	} else {
		err = resetAttempt(ctx, c, found)
	}
	return o.answered(cmd.Context(), store, r, err)
}

// afterAttempt waits for the end of an attempt that is under way, which may have begun
// before the repair, and has another follow it. (Reset while it is under way, a server of
// 1.29 takes no answer from it any more, and misses its heartbeat ten seconds later.)
func afterAttempt(ctx context.Context, c client.Client, found recoveryFound) (outcome string, err error) {
	const follows = "tries now, after an attempt that was under way"
	for {
		d, err := c.DescribeWorkflowExecution(ctx, found.id, found.runID)
		if err != nil {
			return "", &unanswered{fmt.Errorf("look for the next attempt: %w", err)}
		}
		switch now := attemptOf(d); {
		case now == nil:
			return "tried: the recovery ends with the attempt that was under way", nil
		case now.ActivityId != found.attempt.ActivityId, now.Attempt != found.attempt.Attempt && now.State == enumspb.PENDING_ACTIVITY_STATE_STARTED:
			return follows, nil
		case now.State != enumspb.PENDING_ACTIVITY_STATE_STARTED:
			return follows, resetAttempt(ctx, c, found)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// resetAttempt resets the recovery's activity. (Servers before 1.32 know this call
// only, later ones know it still.)
func resetAttempt(ctx context.Context, c client.Client, found recoveryFound) error {
	_, err := c.WorkflowService().ResetActivity(ctx, &workflowservice.ResetActivityRequest{
		Namespace: namespace(), Execution: &commonpb.WorkflowExecution{WorkflowId: found.id, RunId: found.runID}, Identity: whoAmI(),
		Activity: &workflowservice.ResetActivityRequest_Id{Id: found.attempt.ActivityId},
	})
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return nothing("that attempt has ended meanwhile: run the command again")
	case err != nil && ctx.Err() != nil:
		return &unanswered{fmt.Errorf("reset its activity: %w", err)}
	case err != nil:
		return fmt.Errorf("reset its activity: %w", err)
	}
	return nil
}
