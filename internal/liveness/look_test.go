package liveness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestRetrying_ListsBatchesThatFailedAndNoSeats(t *testing.T) {
	next := time.Date(2026, 11, 30, 12, 0, 20, 0, time.UTC)
	activity := func(name, failure, of string, attempt int32, next *timestamppb.Timestamp) *workflowpb.PendingActivityInfo {
		a := &workflowpb.PendingActivityInfo{
			ActivityType: &commonpb.ActivityType{Name: name}, Attempt: attempt, NextAttemptScheduleTime: next,
		}
		if failure != "" {
			a.LastFailure = &failurepb.Failure{Message: failure, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{
				ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: of},
			}}
		}
		return a
	}
	all := retrying([]*workflowpb.PendingActivityInfo{
		activity("PublishBatch", "shipping → SQS queue q: Timeout", "Timeout", 3, timestamppb.New(next)),
		activity("PublishBatch", "", "", 1, nil),
		activity("PublishBatch", "no fault: another worker gets this seat", "Seated", 2, nil),
		activity("ClaimBatches", "claim batch: database", "Database", 2, nil),
		activity("PublishBatch", "ledger → SQS queue q: RequestThrottled", "RequestThrottled", 2, nil),
	})
	require.Equal(t, []Retry{
		{Failure: "ledger → SQS queue q: RequestThrottled", Attempt: 2},
		{Failure: "shipping → SQS queue q: Timeout", Attempt: 3, Next: &next},
	}, all)
	require.Equal(t, "attempt 2 is under way; the last failure: ledger → SQS queue q: RequestThrottled", all[0].String())
	require.Equal(t, "attempt 3 at 2026-11-30 12:00:20 UTC; the last failure: shipping → SQS queue q: Timeout", all[1].String())
}
