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
	PauseTopic(ctx context.Context, topic, workflowID string, pause time.Duration) error
	NoteFailure(ctx context.Context, topic, workflowID string, f relay.Failure, next time.Duration) error
	ResumeTopic(ctx context.Context, topic, workflowID string) error
}

// TopicRequest names a topic and the recovery that acts on it.
type TopicRequest struct {
	Topic      string `json:"topic"`
	RecoveryID string `json:"recoveryId"`
}

// ResumeTopic lifts the pause of a recovery that is over, and no other.
func (a *Activities) ResumeTopic(ctx context.Context, r TopicRequest) error {
	return failure(ctx, a.batches.ResumeTopic(ctx, r.Topic, r.RecoveryID), nil)
}

// RecoveryRuns reports whether the recovery of that id runs, on this activity's task queue:
// ids of earlier versions are not always of one task queue. If it does, the pause that
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
	return true, failure(ctx, a.batches.PauseTopic(ctx, r.Topic, r.RecoveryID, a.cfg.HandoverPause), nil)
}
