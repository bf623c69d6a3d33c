package workflows

import (
	"slices"
	"strconv"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// act refers to activities by method; it is never used as a receiver.
var act *activities.Activities

func (r *run) claim(ctx workflow.Context) {
	r.claiming = true
	asked := r.free(ctx)
	claimed := workflow.ExecuteActivity(claimOptions(ctx, r.board.summary(), r.leftOut || r.board.unrouted > 0), act.ClaimBatches, activities.ClaimRequest{
		Batches:  asked,
		PerTopic: r.loads.share,
		Shares:   r.loads.lowered(),
		Linger:   r.in.Linger,
		Wait:     min(ClaimWait, r.in.Before.Deadline.Sub(workflow.Now(ctx))),
	})
	r.selector.AddFuture(claimed, func(f workflow.Future) {
		r.claiming = false
		var result activities.ClaimResult
		if err := f.Get(ctx, &result); err != nil {
			if !r.isEnding(ctx) {
				r.failure = temporal.NewApplicationErrorWithCause("claim batches", "ClaimFailed", err)
			}
			return
		}
		// A claim that got all the batches that it asked for may have left others, which need
		// a slot. So no batch stays on its lanes then.
		plenty := len(result.Batches) < asked
		r.leftOut = result.LeftOut
		r.board.told(workflow.Now(ctx), result)
		for _, b := range result.Batches {
			r.publish(ctx, b, plenty)
		}
	})
}

func (r *run) publish(ctx workflow.Context, b relay.Batch, plenty bool) {
	began := workflow.Now(ctx)
	r.began = append(r.began, began)
	stay := BatchStay
	if !plenty || len(r.began) > r.in.Slots/2 {
		stay = 0
	}
	published := workflow.ExecuteActivity(publishOptions(ctx, b), act.PublishBatch, activities.PublishRequest{
		Batch:       b,
		Concurrency: r.loads.concurrency(b.Topic),
		For:         max(0, min(timing.BatchFor, r.in.Before.Deadline.Sub(began))),
		Stay:        stay,
		RecoveryID:  RecoveryID(r.taskQueue, b.Topic),
	})
	r.selector.AddFuture(published, func(f workflow.Future) {
		i := slices.Index(r.began, began)
		r.began = slices.Delete(r.began, i, i+1)
		var result activities.PublishResult
		err := f.Get(ctx, &result)
		r.published(ctx, b, result, err)
	})
}

// published handles the end of a batch.
func (r *run) published(ctx workflow.Context, b relay.Batch, result activities.PublishResult, err error) {
	r.board.stale = true
	var failure *temporal.ApplicationError
	isFailure := asApplicationError(err, &failure)
	switch {
	case err == nil:
		r.result.add(b.Topic, result)
		r.loads.ended(b.Topic, result.Throttled > 0)
	case isFailure && failure.Type() == activities.TypeClaimLost:
		r.result.Lost++
	case isFailure && failure.NonRetryable():
		if failure.HasDetails() && failure.Details(&result) == nil {
			r.result.add(b.Topic, result)
		}
		r.result.Recovering++
		r.loads.failed(b.Topic)
		r.recover(ctx, b, failure, result.Destination)
	case r.isEnding(ctx):
		r.result.Cancelled++
		r.release(ctx, b)
	default:
		r.failure = temporal.NewApplicationErrorWithCause("publish "+summary(b), "PublishFailed", err)
	}
}

// changeTopicInID marks runs whose RecoveryID encodes topics. The name is in histories.
const changeTopicInID = "topic-in-id"

// recover hands a batch to its topic's recovery, which outlives this run. If the topic has a
// recovery already, it is paused, and recover releases the batch.
func (r *run) recover(ctx workflow.Context, b relay.Batch, failure *temporal.ApplicationError, destination string) {
	free, _ := workflow.NewDisconnectedContext(ctx)
	r.ending++
	in := RecoveryInput{
		Reason: uncounted(failure.Message()), Error: failure.Type(), Destination: destination,
		SearchAttributes: r.in.SearchAttributes, Concurrency: r.in.Concurrency, Batch: b,
	}
	id, earlier := RecoveryID(r.taskQueue, b.Topic), EarlierRecoveryID(r.taskQueue, b.Topic)
	switch {
	case id == earlier:
		r.beginRecovery(free, id, in)
	case workflow.GetVersion(ctx, changeTopicInID, workflow.DefaultVersion, 1) == workflow.DefaultVersion:
		r.beginRecovery(free, earlier, in)
	case !IsID(earlier): // no recovery of that name could run
		r.beginRecovery(free, id, in)
	default:
		r.beginUnlessRuns(free, id, earlier, in)
	}
}

// beginRecovery starts a recovery and decrements ending.
func (r *run) beginRecovery(ctx workflow.Context, id string, in RecoveryInput) {
	child := workflow.ExecuteChildWorkflow(recoveryChild(ctx, id, in), Recovery, in)
	r.selector.AddFuture(child.GetChildWorkflowExecution(), func(f workflow.Future) {
		r.ending--
		if f.Get(ctx, nil) != nil {
			r.release(ctx, in.Batch)
		}
	})
}

// beginUnlessRuns starts a recovery, unless one that an earlier version started for the topic
// still runs, under the id that recoveries had then. If Temporal does not say whether it runs,
// beginUnlessRuns releases the batch, and the relay tries the topic again.
func (r *run) beginUnlessRuns(ctx workflow.Context, id, earlier string, in RecoveryInput) {
	request := activities.TopicRequest{Topic: in.Batch.Topic, RecoveryID: earlier}
	r.selector.AddFuture(workflow.ExecuteActivity(runsOptions(ctx, in.Batch.Topic), act.RecoveryRuns, request), func(f workflow.Future) {
		var runs bool
		switch err := f.Get(ctx, &runs); {
		case err != nil || runs:
			r.ending--
			r.release(ctx, in.Batch)
		default:
			r.beginRecovery(ctx, id, in)
		}
	})
}

// release releases the lanes of a batch that was cancelled between two attempts, because no
// activity was running that could release them.
func (r *run) release(ctx workflow.Context, b relay.Batch) {
	free, _ := workflow.NewDisconnectedContext(ctx)
	r.ending++
	r.selector.AddFuture(workflow.ExecuteActivity(releaseOptions(free, b), act.ReleaseBatch, b), func(f workflow.Future) {
		r.ending--
		if err := f.Get(free, nil); err != nil {
			workflow.GetLogger(free).Warn("batch not released: its lanes stay leased until the lease expires",
				"topic", b.Topic, "lanes", relay.FormatLanes(b.Lanes), "error", err)
		}
	})
}

// summary describes a batch in the UI: "orders · 500 events · lanes 0-15".
func summary(b relay.Batch) string {
	return printable.Line(b.Topic) + " · " + events(b.Events) + " · " + lanes(b)
}

func events(n int) string {
	if n == 1 {
		return "1 event"
	}
	return strconv.Itoa(n) + " events"
}

func lanes(b relay.Batch) string {
	if len(b.Lanes) == 1 {
		return "lane " + relay.FormatLanes(b.Lanes)
	}
	return "lanes " + relay.FormatLanes(b.Lanes)
}
