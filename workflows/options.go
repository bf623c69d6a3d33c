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

// The durations that only workflows need are here. Those that other parts must keep
// as well are in internal/timing. options_test.go asserts how all of them relate.
const (
	// RunFor is how long a run of Relay claims. Short runs keep histories small,
	// make one line each in the UI, and let a new worker version take over at the
	// next run.
	RunFor = 2 * time.Minute
	// DrainFor is how long batches in flight then have before they are cancelled.
	// Those that get through end by themselves within a second; it is the others
	// that it keeps the next run waiting for.
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
	// CatchUp is how late a scheduled start may be. Runs missed while Temporal was
	// away are not made up for: one run takes everything that waits. (Temporal's
	// default is a year.)
	CatchUp = time.Minute

	// ClaimWait is how long ClaimBatches waits for something to be pending.
	ClaimWait    = 30 * time.Second
	claimTimeout = time.Minute

	// BatchStay is how long a batch stays on lanes in which nothing is left, while
	// slots are plenty: a topic with traffic then needs a claim every few seconds
	// and not for every few events.
	BatchStay = 500 * time.Millisecond

	releaseTimeout = 10 * time.Second

	// Lease, ClaimLease and BatchFor are those of internal/timing, for programs that
	// put a relay together.
	Lease      = timing.Lease
	ClaimLease = timing.ClaimLease
	BatchFor   = timing.BatchFor
)

const (
	// MaintenanceEvery is how often partitions are looked after.
	MaintenanceEvery = time.Hour
	// MaintenanceTimeout ends a run whose locks producers never let through.
	MaintenanceTimeout     = 30 * time.Minute
	maintenanceStepTimeout = 10 * time.Minute

	// DefaultKeepDays is for how many days after its own a partition is kept.
	DefaultKeepDays = 7
	// DefaultAheadDays is for how many days after today there are partitions.
	DefaultAheadDays = 14
	// heldXIDs is how many transactions a snapshot may hold vacuum back before it is
	// worth a warning: scans of what was settled since then show.
	heldXIDs = 1_000_000
)

const (
	// OperateFor is how long one activity of an operation goes on. What an operation has
	// done shows in its workflow's details as often.
	OperateFor = 15 * time.Second
	// operateTimeout leaves time to wait for lanes whose batch takes its longest.
	operateTimeout = 10 * time.Minute
	// askTimeout leaves time to count what a form selects: a replay reads all events of its
	// time range.
	askTimeout = 30 * time.Minute
	// FollowFor is how long a form's operation looks for the outcome of the events that it has
	// made pending, and followTimeout how long it tries to.
	FollowFor     = time.Minute
	followTimeout = 2 * time.Minute
)

const (
	// DefaultSlots is how many batches are in flight at most.
	DefaultSlots = 16
	// topicShare is the part of the slots that one topic may take: a quarter.
	topicShare = 4
	// DefaultConcurrency is how many requests one batch has under way.
	DefaultConcurrency = 4
	// maxLate bounds the batches in flight, late ones included, in multiples of the
	// slots.
	maxLate = 8
	// maxSummary is how long a summary may be, in bytes: Temporal refuses one of more
	// than 400 (limit.userMetadataSummarySize).
	maxSummary = 380
	// maxMemo is how long a name or a reason may be in a memo, in bytes.
	maxMemo = 200
	// againAfter is the pause before an operation goes on whose end found another record.
	againAfter = 5 * time.Second
	// maxHistory is the length at which a run continues as new, with the deadline
	// it had. Temporal ends a workflow at 51,200 events.
	maxHistory = 20_000
)

// PublishActivity is the name of the activity that a recovery repeats.
const PublishActivity = "PublishBatch"

// retries have no limit but the run's own end: what is left then is claimed by
// the next run.
func retries(first, most time.Duration) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{InitialInterval: first, BackoffCoefficient: 2, MaximumInterval: most}
}

// claimOptions are those of a claim; anywhere: by any worker, and not at once by the one that
// has the run. Another one may have routes that this one lacks.
func claimOptions(ctx workflow.Context, summary string, anywhere bool) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: claimTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryFirst, timing.ClaimRetryMost),
		WaitForCancellation: true,
		Summary:             summary,

		DisableEagerExecution: anywhere,
	})
}

func publishOptions(ctx workflow.Context, b relay.Batch) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: timing.PublishTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryFirst, timing.RetryMost),
		WaitForCancellation: true, // until it has released its lanes
		Summary:             brief(summary(b)),
	})
}

func recoveryOptions(ctx workflow.Context, in RecoveryInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: timing.PublishTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RecoveryFirst, timing.RecoveryMost),
		WaitForCancellation: true,
		// Without a count: more comes while it waits, and its last failure says how much.
		Summary: brief("retry " + goesTo(in)),
	})
}

// recoveryChild are the options of a recovery that outlives the run that starts it.
func recoveryChild(ctx workflow.Context, id string, in RecoveryInput) workflow.Context {
	return workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:        id,
		ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary:     brief(goesTo(in) + " · " + in.Error),
		StaticDetails:     RecoveryDetails,
	})
}

// runsOptions give up soon: the batch keeps its lanes meanwhile.
func runsOptions(ctx workflow.Context, topic string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 4},
		Summary:             brief("look for a recovery of " + topic),
	})
}

func resumeOptions(ctx workflow.Context, topic string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 10},
		Summary:             brief("resume " + topic),
	})
}

// reportOptions give up in the end: a recovery that stays open keeps the next from beginning.
func reportOptions(ctx workflow.Context, topic string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 10},
		Summary:             brief("end " + relay.RecoverPark + " " + topic),
	})
}

func releaseOptions(ctx workflow.Context, b relay.Batch) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         &temporal.RetryPolicy{MaximumAttempts: 3},
		Summary:             brief("release " + summary(b)),
	})
}

func maintenanceOptions(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: maintenanceStepTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryFirst, timing.RetryMost),
		Summary:             summary,
	})
}

func operateOptions(ctx workflow.Context, in OperationInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: operateTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryFirst, timing.RetryMost),
		WaitForCancellation: true,
		Summary:             brief(in.Kind + " " + in.Topic),
	})
}

func askOptions(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: askTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RetryFirst, timing.RetryMost),
		WaitForCancellation: true, // it may have put an operation on record
		Summary:             "check, count, and put on record",
	})
}

// followOptions give up in the end: the operation is done already.
func followOptions(ctx workflow.Context, in OperationInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ScheduleToCloseTimeout: followTimeout,
		StartToCloseTimeout:    followTimeout,
		HeartbeatTimeout:       timing.HeartbeatTimeout,
		RetryPolicy:            retries(timing.RetryFirst, timing.RetryMost),
		Summary:                printable.Cut("follow "+in.Kind+" of "+in.Topic, maxSummary),
	})
}

func endOptions(ctx workflow.Context, in OperationInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: releaseTimeout,
		RetryPolicy:         retries(timing.RetryFirst, timing.RetryMost),
		Summary:             brief("end " + in.Kind + " " + in.Topic),
	})
}
