package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/timing"
)

// RelayInput configures a run of Relay. The zero value is the default.
type RelayInput struct {
	// Slots is the maximum number of batches in flight. Default DefaultSlots.
	Slots int `json:"slots,omitempty"`
	// Concurrency is the maximum number of requests that each batch has in flight, and each seat to one
	// destination. Default 0: the limiter of the destination, in the worker, alone decides.
	Concurrency int `json:"concurrency,omitempty"`
	// Linger is the time for which the oldest event of a topic may wait for a full page.
	// Default 0: events do not wait.
	Linger time.Duration `json:"linger,omitempty"`
	// RunFor is the time for which the run claims. Default RunFor.
	RunFor time.Duration `json:"runFor,omitempty"`
	// SearchAttributes is true if Attributes are registered in the namespace. Recoveries then set
	// the attributes.
	SearchAttributes bool `json:"searchAttributes,omitempty"`
	// Before is set when a run continues as new.
	Before *Progress `json:"before,omitempty"`
}

// Progress is the state that a run passes on when it continues as new.
type Progress struct {
	Deadline time.Time   `json:"deadline"`
	Result   RelayResult `json:"result"`
}

// RelayResult is the result of a run.
type RelayResult struct {
	Published int           `json:"published"` // events
	Batches   int           `json:"batches"`
	Topics    []TopicResult `json:"topics,omitempty"` // by name
	// Lost counts batches whose lanes another claim has taken, for example after a worker was
	// stopped. The other claim publishes their events.
	Lost int `json:"lost,omitempty"`
	// Cancelled counts batches that still failed when the run ended. Their events are pending, and
	// the next run claims them.
	Cancelled int `json:"cancelled,omitempty"`
	// Recovering counts batches that the run handed to the recovery of their topic.
	Recovering int `json:"recovering,omitempty"`
	// Dead counts events that became dead letters.
	Dead int `json:"dead,omitempty"`
	// Broken, Paused and HaveDead name the topics that had a broken destination, a pause by an
	// operator, or dead letters of any age, in the last sample.
	Broken   []string `json:"broken,omitempty"`
	Paused   []string `json:"paused,omitempty"`
	HaveDead []string `json:"haveDeadLetters,omitempty"`
}

// TopicResult is one topic's part of a RelayResult.
type TopicResult struct {
	Topic     string `json:"topic"`
	Published int    `json:"published"`
	Batches   int    `json:"batches"`
	Dead      int    `json:"dead,omitempty"` // events that became dead letters
}

func (in RelayInput) withDefaults(now time.Time) RelayInput {
	if in.Slots <= 0 {
		in.Slots = DefaultSlots
	}
	if in.RunFor <= 0 {
		in.RunFor = RunFor
	}
	if in.Before == nil {
		in.Before = &Progress{Deadline: now.Add(in.RunFor)}
	}
	return in
}

// concurrency is the maximum number of requests for parts that need a number: recoveries, and workers
// of an earlier version.
func (in RelayInput) concurrency() int {
	if in.Concurrency > 0 {
		return in.Concurrency
	}
	return DefaultConcurrency
}

// Relay claims batches of pending events and publishes them for RunFor, and then completes with a
// summary. The next run of its schedule is already waiting.
func Relay(ctx workflow.Context, in RelayInput) (RelayResult, error) {
	in = in.withDefaults(workflow.Now(ctx))
	workCtx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	r := &run{
		in: in, result: in.Before.Result, limits: newLimits(in),
		selector: workflow.NewSelector(ctx), cancel: cancel,
		taskQueue: workflow.GetInfo(ctx).TaskQueueName,
		table:     topicsTable{changed: true, runBegan: in.Before.Deadline.Add(-in.RunFor)},
	}
	r.cancelAfter(workCtx, in.Before.Deadline.Add(DrainFor).Sub(workflow.Now(ctx)))
	for draining := false; ; {
		if r.mayClaim(ctx) {
			r.claim(workCtx)
		} else if r.mustEnd(ctx) && !draining {
			// The run ends before its deadline. Its batches may be retried for ever.
			draining = true
			r.cancelAfter(workCtx, DrainFor)
		}
		if r.onlySeatsKeep(ctx) {
			r.cancelled = true
			cancel()
		}
		if !r.claiming && len(r.startTimes) == 0 && r.handovers == 0 {
			break
		}
		r.wakeForSlowBatch(workCtx)
		r.show(ctx)
		r.selector.Select(ctx)
	}
	r.show(ctx)
	r.table.addConcerns(&r.result)
	switch {
	case r.failure != nil:
		return r.result, r.failure
	case ctx.Err() != nil: // the run was cancelled from outside
		return r.result, ctx.Err()
	case !workflow.Now(ctx).Before(in.Before.Deadline):
		return r.result, nil
	}
	in.Before.Result = r.result
	return RelayResult{}, workflow.NewContinueAsNewError(ctx, Relay, in)
}

// run is the state of a run of Relay.
type run struct {
	in           RelayInput
	selector     workflow.Selector
	result       RelayResult
	limits       topicLimits
	table        topicsTable
	taskQueue    string
	claiming     bool
	routeMissing bool        // events wait, and the worker of the last claim has no route for them
	startTimes   []time.Time // of the batches and seats in flight, ascending
	seats        int         // of these
	endsEarly    time.Time   // when the run stops to claim because its history is long; zero: it is not
	timerRuns    bool        // a timer runs until the next batch is slow
	handovers    int         // batches that are being released or handed to a recovery
	cancel       workflow.CancelFunc
	cancelled    bool
	failure      error
}

// cancelAfter cancels all activities that still run after d.
func (r *run) cancelAfter(ctx workflow.Context, d time.Duration) {
	r.selector.AddFuture(workflow.NewTimer(ctx, d), func(f workflow.Future) {
		if f.Get(ctx, nil) == nil {
			r.cancelled = true
			r.cancel()
		}
	})
}

// mustEnd reports whether the run has to end before its deadline.
func (r *run) mustEnd(ctx workflow.Context) bool {
	r.planEnd(ctx)
	return r.failure != nil || historyReaches(ctx, maxHistory) || !r.endsEarly.IsZero() && !workflow.Now(ctx).Before(r.endsEarly)
}

// planEnd sets the time at which the run continues as new, when its history is two fifths as long as it may
// become. The batches that begin from then on end at that time, as they do at the deadline. So the
// next run begins at once, and the relay does not wait for batches meanwhile.
func (r *run) planEnd(ctx workflow.Context) {
	if r.endsEarly.IsZero() && historyReaches(ctx, maxHistory*2/5) {
		r.endsEarly = workflow.Now(ctx).Add(timing.BatchFor)
	}
}

// end returns the time at which the run stops to claim.
func (r *run) end() time.Time {
	if !r.endsEarly.IsZero() && r.endsEarly.Before(r.in.Before.Deadline) {
		return r.endsEarly
	}
	return r.in.Before.Deadline
}

func (r *run) mayClaim(ctx workflow.Context) bool {
	return !r.claiming && r.freeSlots(ctx) > 0 && !r.cancelled && ctx.Err() == nil &&
		!r.mustEnd(ctx) && workflow.Now(ctx).Before(r.in.Before.Deadline)
}

// onlySeatsKeep reports whether a run that ends before its deadline waits for seats only. Their
// workers get new ones from the next run.
func (r *run) onlySeatsKeep(ctx workflow.Context) bool {
	return r.seats > 0 && len(r.startTimes) == r.seats && !r.claiming && r.handovers == 0 && !r.cancelled && ctx.Err() == nil &&
		workflow.Now(ctx).Before(r.in.Before.Deadline) && r.mustEnd(ctx)
}

// freeSlots returns the number of batches that may be claimed. A slow batch takes no slot: otherwise a
// few topics whose destinations accept nothing would stop all other topics. A seat counts as a batch, so
// that earlier versions, which know no seats, decide the same: it takes a slot for its first seconds.
func (r *run) freeSlots(ctx workflow.Context) int {
	if len(r.startTimes) >= maxBatchesPerSlot*r.in.Slots {
		return 0
	}
	busy := 0
	for _, began := range r.startTimes {
		if workflow.Now(ctx).Sub(began) < timing.BatchSlow {
			busy++
		}
	}
	return r.in.Slots - busy
}

// wakeForSlowBatch starts a timer if no slot is free until a batch is slow. The run then looks again.
func (r *run) wakeForSlowBatch(ctx workflow.Context) {
	now := workflow.Now(ctx)
	if r.timerRuns || r.claiming || r.cancelled || r.freeSlots(ctx) > 0 || !now.Before(r.in.Before.Deadline) {
		return
	}
	for _, began := range r.startTimes {
		if left := timing.BatchSlow - now.Sub(began); left > 0 {
			r.timerRuns = true
			r.selector.AddFuture(workflow.NewTimer(ctx, left), func(workflow.Future) { r.timerRuns = false })
			return
		}
	}
}

// isCancelled reports whether the run is cancelled, so that every error counts as a cancellation.
func (r *run) isCancelled(ctx workflow.Context) bool { return r.cancelled || ctx.Err() != nil }
