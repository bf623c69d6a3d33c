package workflows

import (
	"slices"
	"strconv"
	"time"

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
	asked := r.freeSlots(ctx)
	claimed := workflow.ExecuteActivity(claimOptions(ctx, r.table.summary(), r.routeMissing || r.table.unrouted > 0), act.ClaimBatches, activities.ClaimRequest{
		Batches:  asked,
		PerTopic: r.limits.share,
		Shares:   r.limits.lowered(),
		Linger:   r.in.Linger,
		Wait:     max(0, min(ClaimWait, r.end().Sub(workflow.Now(ctx)))),
	})
	r.selector.AddFuture(claimed, func(f workflow.Future) {
		r.claiming = false
		var result activities.ClaimResult
		if err := f.Get(ctx, &result); err != nil {
			if !r.isCancelled(ctx) {
				r.failure = temporal.NewApplicationErrorWithCause("claim batches", "ClaimFailed", err)
			}
			return
		}
		// If the claim got all batches that it asked for, more batches may wait for a slot.
		// So no batch stays on empty lanes then.
		slotsLeft := len(result.Batches) < asked
		r.routeMissing = result.LeftOut
		if len(result.Published) > 0 {
			r.result.addTopics(result.Published)
			r.table.changed = true
		}
		r.table.update(workflow.Now(ctx), result)
		for _, b := range result.Batches {
			if b.Shared {
				r.seat(ctx, b)
			} else {
				r.publish(ctx, b, slotsLeft)
			}
		}
	})
}

func (r *run) publish(ctx workflow.Context, b relay.Batch, slotsLeft bool) {
	began := workflow.Now(ctx)
	r.startTimes = append(r.startTimes, began)
	stay := BatchStay
	if !slotsLeft || len(r.startTimes)-r.seats > r.in.Slots/2 {
		stay = 0
	}
	published := workflow.ExecuteActivity(publishOptions(ctx, b), act.PublishBatch, activities.PublishRequest{
		Batch:       b,
		Concurrency: r.limits.concurrency(b.Topic),
		FindLevel:   r.in.Concurrency <= 0,
		For:         max(0, min(timing.BatchFor, r.end().Sub(began))),
		Stay:        stay,
		RecoveryID:  RecoveryID(r.taskQueue, b.Topic),
	})
	r.selector.AddFuture(published, func(f workflow.Future) {
		r.isOver(began)
		var result activities.PublishResult
		err := f.Get(ctx, &result)
		r.published(ctx, b, result, err)
	})
}

// isOver forgets a batch or a seat that began at that time.
func (r *run) isOver(began time.Time) {
	i := slices.Index(r.startTimes, began)
	r.startTimes = slices.Delete(r.startTimes, i, i+1)
}

// seat starts the activity that lets a worker hold shares until the run ends. The run counts the
// seat and cancels it as it does a batch: workers of earlier versions may have other decisions of the
// same run, and know only batches.
func (r *run) seat(ctx workflow.Context, b relay.Batch) {
	began := workflow.Now(ctx)
	r.startTimes = append(r.startTimes, began)
	r.seats++
	r.table.changed = true
	lasts := max(0, r.end().Sub(began))
	seated := workflow.ExecuteActivity(seatOptions(ctx, lasts), act.PublishBatch, activities.PublishRequest{
		Batch: b, Concurrency: r.in.Concurrency, For: lasts,
	})
	r.selector.AddFuture(seated, func(f workflow.Future) {
		r.isOver(began)
		r.seats--
		r.table.changed = true
		var result activities.PublishResult
		if f.Get(ctx, &result) == nil {
			r.result.addSeat(result)
		}
		// A seat that is cancelled has nothing to release. If it failed or its worker died, the workers
		// that live take its shares, and a worker without a seat is offered one.
	})
}

// published handles the end of a batch.
func (r *run) published(ctx workflow.Context, b relay.Batch, result activities.PublishResult, err error) {
	r.table.changed = true
	var failure *temporal.ApplicationError
	isFailure := asApplicationError(err, &failure)
	switch {
	case err == nil:
		r.result.add(b.Topic, result)
		r.limits.succeeded(b.Topic, result.Throttled > 0)
	case isFailure && failure.Type() == activities.TypeClaimLost:
		r.result.Lost++
	case isFailure && failure.NonRetryable():
		if failure.HasDetails() && failure.Details(&result) == nil {
			r.result.add(b.Topic, result)
		}
		r.result.Recovering++
		r.limits.failed(b.Topic)
		r.recover(ctx, b, failure, result.Destination)
	case r.isCancelled(ctx):
		r.result.Cancelled++
		r.release(ctx, b)
	default:
		r.failure = temporal.NewApplicationErrorWithCause("publish "+summary(b), "PublishFailed", err)
	}
}

// changeTopicInID marks runs that encode topics in a RecoveryID. The name is in histories.
const changeTopicInID = "topic-in-id"

// recover hands a batch to the recovery of its topic, which outlives this run. If the topic has a
// recovery already, the batch is released.
func (r *run) recover(ctx workflow.Context, b relay.Batch, failure *temporal.ApplicationError, destination string) {
	detached, _ := workflow.NewDisconnectedContext(ctx)
	r.handovers++
	in := RecoveryInput{
		Reason: withoutCount(failure.Message()), Error: failure.Type(), Destination: destination,
		SearchAttributes: r.in.SearchAttributes, Concurrency: r.in.concurrency(), Batch: b,
	}
	id, earlier := RecoveryID(r.taskQueue, b.Topic), EarlierRecoveryID(r.taskQueue, b.Topic)
	switch {
	case id == earlier:
		r.beginRecovery(detached, id, in)
	case workflow.GetVersion(ctx, changeTopicInID, workflow.DefaultVersion, 1) == workflow.DefaultVersion:
		r.beginRecovery(detached, earlier, in)
	case !IsID(earlier): // a recovery could not run under that id
		r.beginRecovery(detached, id, in)
	default:
		r.beginRecoveryUnlessRuns(detached, id, earlier, in)
	}
}

// beginRecovery starts a recovery, or releases its batch if the recovery cannot start. Either way,
// one handover less is open.
func (r *run) beginRecovery(ctx workflow.Context, id string, in RecoveryInput) {
	child := workflow.ExecuteChildWorkflow(recoveryChild(ctx, id, in), Recovery, in)
	r.selector.AddFuture(child.GetChildWorkflowExecution(), func(f workflow.Future) {
		r.handovers--
		if f.Get(ctx, nil) != nil {
			r.release(ctx, in.Batch)
		}
	})
}

// beginRecoveryUnlessRuns starts a recovery, unless a recovery of the topic still runs under the id
// that an earlier version gave to it. If such a recovery runs, or if Temporal does not answer, the
// batch is released, and the relay tries the topic again.
func (r *run) beginRecoveryUnlessRuns(ctx workflow.Context, id, earlier string, in RecoveryInput) {
	request := activities.TopicRequest{Topic: in.Batch.Topic, RecoveryID: earlier}
	r.selector.AddFuture(workflow.ExecuteActivity(runsOptions(ctx, in.Batch.Topic), act.RecoveryRuns, request), func(f workflow.Future) {
		var runs bool
		switch err := f.Get(ctx, &runs); {
		case err != nil || runs:
			r.handovers--
			r.release(ctx, in.Batch)
		default:
			r.beginRecovery(ctx, id, in)
		}
	})
}

// release releases the lanes of a batch that no attempt can release, because the batch ended between
// two attempts.
func (r *run) release(ctx workflow.Context, b relay.Batch) {
	detached, _ := workflow.NewDisconnectedContext(ctx)
	r.handovers++
	r.selector.AddFuture(workflow.ExecuteActivity(releaseOptions(detached, b), act.ReleaseBatch, b), func(f workflow.Future) {
		r.handovers--
		if err := f.Get(detached, nil); err != nil {
			workflow.GetLogger(detached).Warn("batch not released: its lanes stay leased until the lease expires",
				"topic", b.Topic, "lanes", relay.FormatLanes(b.Lanes), "error", err)
		}
	})
}

// seatSummary describes a seat in the UI.
const seatSummary = "lanes of all topics · worker seat"

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
