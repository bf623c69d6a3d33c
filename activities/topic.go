package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

// TopicStore is the part of Store that has the state of topics.
type TopicStore interface {
	// HoldForRecovery keeps claims away from a topic for its recovery, at most for the time hold.
	HoldForRecovery(ctx context.Context, topic, workflowID string, hold time.Duration) error
	NoteFailure(ctx context.Context, topic, workflowID string, f relay.Failure, next time.Duration) error
	// EndRecoveryHold ends the hold of that recovery, and of no other.
	EndRecoveryHold(ctx context.Context, topic, workflowID string) error
}

// TopicRequest names a topic and the recovery that acts on it.
type TopicRequest struct {
	Topic      string `json:"topic"`
	RecoveryID string `json:"recoveryId"`
}

// ResumeTopic ends the hold of a recovery that is over, and no other. (Its name is in histories.)
func (a *Activities) ResumeTopic(ctx context.Context, r TopicRequest) error {
	return failure(ctx, a.batches.EndRecoveryHold(ctx, r.Topic, r.RecoveryID), nil)
}

// RecoveryRuns reports whether the recovery of that id runs, on this activity's task queue:
// ids of earlier versions are not always of one task queue. If it does, the hold that
// PublishBatch has made is in its name.
func (a *Activities) RecoveryRuns(ctx context.Context, r TopicRequest) (bool, error) {
	d, err := activity.GetClient(ctx).DescribeWorkflowExecution(ctx, r.RecoveryID, "")
	var absent *serviceerror.NotFound
	switch {
	case errors.As(err, &absent):
		return false, nil
	case err != nil:
		return false, failure(ctx, fmt.Errorf("look for recovery %s: %w: %w", r.RecoveryID, errTemporal, err), nil)
	case d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		d.GetExecutionConfig().GetTaskQueue().GetName() != activity.GetInfo(ctx).TaskQueue:
		return false, nil
	}
	return true, failure(ctx, a.batches.HoldForRecovery(ctx, r.Topic, r.RecoveryID, a.cfg.HandoverHold), nil)
}
