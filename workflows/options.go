package workflows

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// Here are the durations that only workflows need. Durations that other parts must keep as well
// are in internal/timing. options_test.go asserts how all of them relate.
const (
	// RunFor is the time for which a run of Relay claims. Short runs keep histories small, appear
	// as one line each in the UI, and let a new worker version take over with the next run.
	RunFor = 2 * time.Minute
	// DrainFor is the time that batches in flight then have before they are cancelled. Batches
	// that their destination accepts end by themselves within a second. The next run waits for
	// the others, for at most this time.
	DrainFor = 3 * time.Second
	// RunTimeout ends a run that is stuck, so that the next can begin.
	RunTimeout = 4 * time.Minute
	// TaskTimeout is how long Temporal waits for a decision of Relay (a workflow task), which
	// takes milliseconds. A decision that is lost with its worker holds the whole relay up for
	// as long. Temporal's default is 10 s. It waits longer by itself from the fourth attempt on.
	TaskTimeout = 2 * time.Second
	// ScheduleEvery starts runs. It is shorter than a run, so that with overlap
	// policy BUFFER_ONE the next is always waiting for the one that runs.
	ScheduleEvery = time.Minute
	// CatchUp is how late a scheduled start may be. Temporal starts no runs for the time when it
	// was down: one run takes everything that waits. (Temporal's default is a year.)
	CatchUp = time.Minute

	// ClaimWait is how long ClaimBatches waits for pending events.
	ClaimWait    = 30 * time.Second
	claimTimeout = time.Minute

	// BatchStay is how long a batch stays on empty lanes while slots are free. A topic with
	// traffic then needs a claim every few seconds, and not for every few events.
	BatchStay = 500 * time.Millisecond

	releaseTimeout = 10 * time.Second

	// Lease, ClaimLease and BatchFor are the durations of internal/timing, for programs that
	// assemble a relay.
	Lease      = timing.Lease
	ClaimLease = timing.ClaimLease
	BatchFor   = timing.BatchFor
)

const (
	// MaintenanceEvery is the interval between runs of Maintenance.
	MaintenanceEvery = time.Hour
	// MaintenanceTimeout ends a run that never gets its locks because of producers.
	MaintenanceTimeout     = 30 * time.Minute
	maintenanceStepTimeout = 10 * time.Minute

	// DefaultKeepDays is the number of days after its own day for which a partition is kept.
	DefaultKeepDays = 7
	// DefaultAheadDays is the number of days after today that have a partition.
	DefaultAheadDays = 14
	// heldXIDs is how many transactions a snapshot may hold vacuum back before Maintenance warns:
	// scans over the events that were settled since then become noticeably slower.
	heldXIDs = 1_000_000
)

const (
	// OperateFor is how long one activity of an operation runs. The workflow updates its details
	// after each activity.
	OperateFor = 15 * time.Second
	// operateTimeout leaves time to wait for lanes whose batch takes as long as a batch may.
	operateTimeout = 10 * time.Minute
	// askTimeout leaves time to count the events that a form selects: a replay reads all events of
	// its time range.
	askTimeout = 30 * time.Minute
	// FollowFor is how long a form's operation looks for the outcome of the events that it made
	// pending. followTimeout is how long it tries to look.
	FollowFor     = time.Minute
	followTimeout = 2 * time.Minute
)

const (
	// DefaultSlots is the maximum number of batches in flight.
	DefaultSlots = 16
	// topicShare is the divisor of the slots that gives the maximum for one topic: a quarter.
	topicShare = 4
	// DefaultConcurrency is the maximum number of requests that one batch has in flight.
	DefaultConcurrency = 4
	// maxBatchesPerSlot limits the batches in flight, slow ones included, as a multiple of the slots.
	maxBatchesPerSlot = 8
	// maxSummary is the maximum length of a summary, in bytes: Temporal refuses summaries of more
	// than 400 bytes (limit.userMetadataSummarySize).
	maxSummary = 380
	// maxMemo is the maximum length of a name or a reason in a memo, in bytes.
	maxMemo = 200
	// againAfter is the pause before an operation continues whose end found another record.
	againAfter = 5 * time.Second
	// maxHistory is the length at which a run continues as new and keeps its deadline. Temporal
	// ends a workflow at 51,200 events.
	maxHistory = 20_000
)

// PublishActivity is the name of the activity that a recovery repeats.
const PublishActivity = "PublishBatch"

// retries last until the run ends. The next run then claims the events that are left.
func retries(first, most time.Duration) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{InitialInterval: first, BackoffCoefficient: 2, MaximumInterval: most}
}

// claimOptions are the options of a claim. If anywhere is set, any worker may run the claim, not
// only the worker that has the run: another worker may have routes that this one lacks.
func claimOptions(ctx workflow.Context, summary string, anywhere bool) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: claimTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryPauseFirst, timing.ClaimRetryPauseMost),
		WaitForCancellation: true,
		Summary:             summary,

		DisableEagerExecution: anywhere,
	})
}

func publishOptions(ctx workflow.Context, b relay.Batch) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: timing.PublishTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryPauseFirst, timing.RetryPauseMost),
		WaitForCancellation: true, // until it has released its lanes
		Summary:             fitSummary(summary(b)),
	})
}

func recoveryOptions(ctx workflow.Context, in RecoveryInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: timing.PublishTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RecoveryPauseFirst, timing.RecoveryPauseMost),
		WaitForCancellation: true,
		// Without a number of events: it grows while the topic waits, and the last failure has it.
		Summary: fitSummary("retry " + topicAndDestination(in)),
	})
}

// recoveryChild are the options of a recovery that outlives the run that starts it.
func recoveryChild(ctx workflow.Context, id string, in RecoveryInput) workflow.Context {
	return workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:        id,
		ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary:     fitSummary(topicAndDestination(in) + " · " + in.Error),
		StaticDetails:     RecoveryDescription,
	})
}

// runsOptions give up soon, because the batch keeps its lanes meanwhile.
func runsOptions(ctx workflow.Context, topic string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 4},
		Summary:             fitSummary("look for a recovery of " + topic),
	})
}

func resumeOptions(ctx workflow.Context, topic string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 10},
		Summary:             fitSummary("resume " + topic),
	})
}

// reportOptions give up in the end, because an open recovery keeps the next one from starting.
func reportOptions(ctx workflow.Context, topic string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 10},
		Summary:             fitSummary("record the end of " + relay.RecoverPark + " of " + topic),
	})
}

func releaseOptions(ctx workflow.Context, b relay.Batch) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 3},
		Summary:             fitSummary("release " + summary(b)),
	})
}

func maintenanceOptions(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: maintenanceStepTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryPauseFirst, timing.RetryPauseMost),
		Summary:             summary,
	})
}

func operateOptions(ctx workflow.Context, in OperationInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: operateTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryPauseFirst, timing.RetryPauseMost),
		WaitForCancellation: true,
		Summary:             fitSummary(in.Kind + " " + in.Topic),
	})
}

func askOptions(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: askTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryPauseFirst, timing.RetryPauseMost),
		WaitForCancellation: true, // it may have recorded an operation
		Summary:             "check the form, count the events, record the operation",
	})
}

// followOptions give up in the end, because the operation is done already.
func followOptions(ctx workflow.Context, in OperationInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ScheduleToCloseTimeout: followTimeout,
		StartToCloseTimeout:    followTimeout,
		HeartbeatTimeout:       timing.HeartbeatTimeout,
		RetryPolicy:            retries(timing.RetryPauseFirst, timing.RetryPauseMost),
		Summary:                printable.Cut("follow "+in.Kind+" of "+in.Topic, maxSummary),
	})
}

func endOptions(ctx workflow.Context, in OperationInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         retries(timing.RetryPauseFirst, timing.RetryPauseMost),
		Summary:             fitSummary("record the end of " + in.Kind + " of " + in.Topic),
	})
}
