package workflows

import (
	"strconv"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
)

// RelayInput configures a run of Relay. The zero value is the default.
type RelayInput struct {
	// Slots is how many batches may be in flight. Default DefaultSlots.
	Slots int `json:"slots,omitempty"`
	// Concurrency is how many requests each batch may have under way. Default
	// DefaultConcurrency.
	Concurrency int `json:"concurrency,omitempty"`
	// Linger is how long a topic's oldest event may wait for a page to fill.
	// Default 0: events are claimed as soon as they are seen.
	Linger time.Duration `json:"linger,omitempty"`
	// RunFor is how long the run claims. Default RunFor.
	RunFor time.Duration `json:"runFor,omitempty"`
	// Before is set when a run continues as new.
	Before *Progress `json:"before,omitempty"`
}

// Progress is what a run hands on when it continues as new.
type Progress struct {
	Deadline time.Time   `json:"deadline"`
	Result   RelayResult `json:"result"`
}

// RelayResult says what a run did.
type RelayResult struct {
	Published int           `json:"published"` // events
	Batches   int           `json:"batches"`
	Topics    []TopicResult `json:"topics,omitempty"` // by name
	// Lost counts batches that turned out to be in other hands, as after a worker
	// was stopped: nothing is wrong, another claim has their events.
	Lost int `json:"lost,omitempty"`
	// Cancelled counts batches that were still failing when the run ended. Their
	// events are pending, and the next run claims them.
	Cancelled int `json:"cancelled,omitempty"`
}

// TopicResult is one topic's part of a RelayResult.
type TopicResult struct {
	Topic     string `json:"topic"`
	Published int    `json:"published"`
	Batches   int    `json:"batches"`
}

func (in RelayInput) withDefaults(now time.Time) RelayInput {
	if in.Slots <= 0 {
		in.Slots = DefaultSlots
	}
	if in.Concurrency <= 0 {
		in.Concurrency = DefaultConcurrency
	}
	if in.RunFor <= 0 {
		in.RunFor = RunFor
	}
	if in.Before == nil {
		in.Before = &Progress{Deadline: now.Add(in.RunFor)}
	}
	return in
}

// Relay claims batches of pending events and publishes them for RunFor, and then
// completes with a summary. A schedule has the next run waiting.
func Relay(ctx workflow.Context, in RelayInput) (RelayResult, error) {
	in = in.withDefaults(workflow.Now(ctx))
	workCtx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	r := &run{
		in: in, result: in.Before.Result,
		selector: workflow.NewSelector(ctx), cancel: cancel,
	}
	r.cancelAfter(workCtx, in.Before.Deadline.Add(DrainFor).Sub(workflow.Now(ctx)))
	for draining := false; ; {
		if r.mayClaim(ctx) {
			r.claim(workCtx)
		} else if r.mustEnd(ctx) && !draining {
			// Sooner than its deadline, with batches that may be retried for ever.
			draining = true
			r.cancelAfter(workCtx, DrainFor)
		}
		if !r.claiming && r.batches == 0 && r.releasing == 0 {
			break
		}
		r.selector.Select(ctx)
	}
	switch {
	case r.failure != nil:
		return r.result, r.failure
	case ctx.Err() != nil: // somebody cancelled the run
		return r.result, ctx.Err()
	case !workflow.Now(ctx).Before(in.Before.Deadline):
		return r.result, nil
	}
	in.Before.Result = r.result
	return RelayResult{}, workflow.NewContinueAsNewError(ctx, Relay, in)
}

// run is the state of a run of Relay.
type run struct {
	in        RelayInput
	selector  workflow.Selector
	result    RelayResult
	claiming  bool
	batches   int // in flight
	releasing int // batches being released
	cancel    workflow.CancelFunc
	cancelled bool
	failure   error
}

// cancelAfter cancels whatever is still under way then.
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
	return r.failure != nil || workflow.GetInfo(ctx).GetCurrentHistoryLength() >= maxHistory
}

func (r *run) mayClaim(ctx workflow.Context) bool {
	return !r.claiming && r.batches < r.in.Slots && !r.cancelled && ctx.Err() == nil &&
		!r.mustEnd(ctx) && workflow.Now(ctx).Before(r.in.Before.Deadline)
}

// ending reports whether errors are those of being cancelled, whatever they say.
func (r *run) ending(ctx workflow.Context) bool { return r.cancelled || ctx.Err() != nil }

// act refers to activities by method; it is never used as a receiver.
var act *activities.Activities

func (r *run) claim(ctx workflow.Context) {
	r.claiming = true
	asked := r.in.Slots - r.batches
	claimed := workflow.ExecuteActivity(claimOptions(ctx), act.ClaimBatches, activities.ClaimRequest{
		Batches:  asked,
		PerTopic: max(1, r.in.Slots/topicShare),
		Linger:   r.in.Linger,
		Wait:     min(ClaimWait, r.in.Before.Deadline.Sub(workflow.Now(ctx))),
	})
	r.selector.AddFuture(claimed, func(f workflow.Future) {
		r.claiming = false
		var result activities.ClaimResult
		if err := f.Get(ctx, &result); err != nil {
			if !r.ending(ctx) {
				r.failure = temporal.NewApplicationErrorWithCause("claim batches", "ClaimFailed", err)
			}
			return
		}
		// When as many were claimed as were asked for, others may be waiting for
		// a slot, and no batch stays.
		plenty := len(result.Batches) < asked
		for _, b := range result.Batches {
			r.publish(ctx, b, plenty)
		}
	})
}

func (r *run) publish(ctx workflow.Context, b relay.Batch, plenty bool) {
	r.batches++
	stay := BatchStay
	if !plenty || r.batches > r.in.Slots/2 {
		stay = 0
	}
	published := workflow.ExecuteActivity(publishOptions(ctx, b), act.PublishBatch, activities.PublishRequest{
		Batch:       b,
		Concurrency: r.in.Concurrency,
		For:         max(0, min(BatchFor, r.in.Before.Deadline.Sub(workflow.Now(ctx)))),
		Stay:        stay,
	})
	r.selector.AddFuture(published, func(f workflow.Future) {
		r.batches--
		var result activities.PublishResult
		err := f.Get(ctx, &result)
		r.published(ctx, b, result, err)
	})
}

// published takes a batch's end.
func (r *run) published(ctx workflow.Context, b relay.Batch, result activities.PublishResult, err error) {
	var failure *temporal.ApplicationError
	switch {
	case err == nil:
		r.result.add(b.Topic, result.Published)
	case asApplicationError(err, &failure) && failure.Type() == activities.TypeClaimLost:
		r.result.Lost++
	case r.ending(ctx):
		r.result.Cancelled++
		r.release(ctx, b)
	default:
		r.failure = temporal.NewApplicationErrorWithCause("publish "+summary(b), "PublishFailed", err)
	}
}

// release gives up a batch that was cancelled between two attempts, when it could
// not release its lanes itself.
func (r *run) release(ctx workflow.Context, b relay.Batch) {
	free, _ := workflow.NewDisconnectedContext(ctx)
	r.releasing++
	r.selector.AddFuture(workflow.ExecuteActivity(releaseOptions(free, b), act.ReleaseBatch, b), func(f workflow.Future) {
		r.releasing--
		if err := f.Get(free, nil); err != nil {
			workflow.GetLogger(free).Warn("batch not released: its lanes wait for the end of their lease",
				"topic", b.Topic, "lanes", relay.FormatLanes(b.Lanes), "error", err)
		}
	})
}

// summary describes a batch in the UI: "orders · 500 events · lanes 0-15".
func summary(b relay.Batch) string {
	lanes, events := "lanes ", " events"
	if len(b.Lanes) == 1 {
		lanes = "lane "
	}
	if b.Events == 1 {
		events = " event"
	}
	return b.Topic + " · " + strconv.Itoa(b.Events) + events + " · " + lanes + relay.FormatLanes(b.Lanes)
}
