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

// These are the durations that only workflows need. Durations that other packages need, too, are in
// internal/timing. options_test.go asserts the relations between all durations.
const (
	// RunFor is the time for which a run of Relay claims. Short runs keep histories small, appear
	// as one line each in the UI, and let a new worker version take over with the next run.
	RunFor = 2 * time.Minute
	// DrainFor is the time from the last claim of a run until the run cancels its batches in
	// flight. A batch that its destination accepts ends by itself within a second. The next run
	// begins when all batches of this run have ended.
	DrainFor = 3 * time.Second
	// RunTimeout ends a run that does not end by itself, so that the next run can begin.
	RunTimeout = 4 * time.Minute
	// TaskTimeout is how long Temporal waits for a decision of Relay (a workflow task), which
	// takes milliseconds. If a worker dies during a decision, the whole relay waits for this time.
	// Temporal's default is 10 s. From the fourth attempt on, Temporal itself waits longer.
	TaskTimeout = 2 * time.Second
	// ScheduleEvery is the interval between the starts of runs. It is shorter than a run: with the
	// overlap policy BUFFER_ONE, the next run is then always waiting.
	ScheduleEvery = time.Minute
	// CatchUp is the maximum delay of a scheduled start. After an outage, Temporal then does not
	// start the runs of the outage: one run publishes all pending events. (Temporal's default is a
	// year.)
	CatchUp = time.Minute

	// ClaimWait is how long ClaimBatches waits for pending events.
	ClaimWait    = 30 * time.Second
	claimTimeout = time.Minute

	// BatchStay is the time for which a batch keeps empty lanes while slots are free. A topic with
	// traffic then needs a claim every few seconds only, instead of a claim for every few events.
	BatchStay = 500 * time.Millisecond

	releaseTimeout = 10 * time.Second

	// seatSpare is how much later than the run cancels a seat Temporal would end it. It outlasts the
	// pause between two attempts of a seat.
	seatSpare = time.Second

	// Lease, ClaimLease and BatchFor are the durations of internal/timing, for programs that
	// assemble a relay.
	Lease      = timing.Lease
	ClaimLease = timing.ClaimLease
	BatchFor   = timing.BatchFor
)

const (
	// MaintenanceEvery is the interval between runs of Maintenance.
	MaintenanceEvery = time.Hour
	// MaintenanceTimeout ends a run that gets no lock, because producers hold the locks.
	MaintenanceTimeout     = 30 * time.Minute
	maintenanceStepTimeout = 10 * time.Minute

	// DefaultKeepDays is the number of days after its own day for which a partition is kept.
	DefaultKeepDays = 7
	// DefaultAheadDays is the number of days after today that have a partition.
	DefaultAheadDays = 14
	// heldXIDs is the number of transactions by which a snapshot may hold vacuum back before
	// Maintenance warns. Beyond it, the rows of settled events make scans noticeably slower.
	heldXIDs = 1_000_000
)

const (
	// OperateFor is how long one activity of an operation runs. The workflow updates its details
	// after each activity.
	OperateFor = 15 * time.Second
	// operateTimeout leaves time to wait for lanes whose batch takes the longest time that a batch may.
	operateTimeout = 10 * time.Minute
	// askTimeout leaves time to count the events that a form selects: a replay reads all events of
	// its time range.
	askTimeout = 30 * time.Minute
	// FollowFor is the time for which the operation of a form looks for the outcome of the events
	// that it made pending. followTimeout limits all attempts to look.
	FollowFor     = time.Minute
	followTimeout = 2 * time.Minute
)

const (
	// DefaultSlots is the maximum number of batches in flight.
	DefaultSlots = 16
	// topicShare is the divisor of the slots that gives the maximum for one topic: a quarter.
	topicShare = 4
	// DefaultConcurrency is the maximum number of requests that a batch of a recovery has in flight,
	// and a batch on a worker that cannot find the level of a destination by itself.
	DefaultConcurrency = 4
	// maxBatchesPerSlot limits the batches in flight, slow ones included, as a multiple of the slots.
	maxBatchesPerSlot = 8
	// maxSummary is the maximum length of a summary, in bytes: Temporal refuses summaries of more
	// than 400 bytes (limit.userMetadataSummarySize).
	maxSummary = 380
	// maxMemo is the maximum length of a name or a reason in a memo, in bytes.
	maxMemo = 200
	// againAfter is the time before an operation continues after EndOperation found another record.
	againAfter = 5 * time.Second
	// maxHistory is the length of a history at which a workflow continues as new. A worker that
	// takes over a run replays its history within TaskTimeout, on a busy machine too.
	maxHistory = 2_000
	// longHistory is that length for runs of earlier versions, which they have recorded decisions
	// for. Temporal ends a workflow whose history has 51,200 events.
	longHistory = 20_000
)

// changeShortHistory marks runs that continue as new at maxHistory. The name is in histories.
const changeShortHistory = "short-history"

// historyReaches reports whether a run's history has some length, or longHistory. A run that an
// earlier version took beyond that length only ends at longHistory.
func historyReaches(ctx workflow.Context, length int) bool {
	now := workflow.GetInfo(ctx).GetCurrentHistoryLength()
	return now >= longHistory || now >= length &&
		workflow.GetVersion(ctx, changeShortHistory, workflow.DefaultVersion, 1) != workflow.DefaultVersion
}

// PublishActivity is the name of the activity that a recovery repeats.
const PublishActivity = "PublishBatch"

// retries returns a retry policy without a maximum of attempts: the activity is tried until it succeeds
// or is cancelled.
func retries(first, most time.Duration) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{InitialInterval: first, BackoffCoefficient: 2, MaximumInterval: most}
}

// claimOptions are the options of a claim. If anywhere is set, any worker may run the claim, and not only
// the worker that has the run: another worker may have routes that this worker does not have.
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
		WaitForCancellation: true, // the attempt releases its lanes first
		Summary:             fitSummary(summary(b)),
	})
}

// seatOptions are the options of a seat that may last for some time. Any worker may take the seat: the
// one that has the run may have a seat already.
func seatOptions(ctx workflow.Context, lasts time.Duration) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		// If a worker dies, the run cancels its seat DrainFor after its end, and does not wait for the
		// heartbeat. Temporal ends no seat before that, even if its next attempt has to fit in: to an
		// earlier version, which may have other decisions of the run, that is the failure of a batch.
		ScheduleToCloseTimeout: lasts + DrainFor + seatSpare,
		HeartbeatTimeout:       timing.SeatHeartbeatTimeout,
		RetryPolicy:            retries(timing.RetryPauseFirst, timing.RetryPauseFirst),
		// A seat learns from its next heartbeat that it is cancelled, and has nothing to release.
		WaitForCancellation:   false,
		DisableEagerExecution: true,
		Summary:               seatSummary,
	})
}

func recoveryOptions(ctx workflow.Context, in RecoveryInput) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: timing.PublishTimeout,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         retries(timing.RecoveryPauseFirst, timing.RecoveryPauseMost),
		WaitForCancellation: true,
		// The summary has no number of events, because the number changes. The last failure has it.
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

// runsOptions allow few attempts, because the batch keeps its lanes meanwhile.
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
		Summary:             fitSummary("let claims take " + topic + " again"),
	})
}

// reportOptions limit the attempts, because the next recovery of the topic can start only after this
// recovery has ended.
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
		WaitForCancellation: true, // the activity may have recorded an operation
		Summary:             "check the form, count the events, record the operation",
	})
}

// followOptions limit the time, because the operation is done already.
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
