package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
)

// ParkRequest names the person who gives up the events, and the reason.
type ParkRequest struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	// Operation is the number of the park in outbox.operation, 0 if the park has no row there. The
	// recovery writes the outcome into that row, even if no command waits for the outcome any more.
	Operation int64 `json:"operation,omitempty"`
}

// ParkResult is the outcome of the parked batch.
type ParkResult struct {
	Published int `json:"published"`
	Dead      int `json:"dead"`
	// State is the state in which the recovery ended: StateParked, or another if the recovery
	// ended for another reason first. Workers of earlier versions leave it empty.
	State string `json:"state,omitempty"`
	// GoesOn is true if parking has not ended: the recovery continues as new. Send the same update
	// again to wait for its end.
	GoesOn bool `json:"goesOn,omitempty"`
}

// Outcome describes the result in words, for operators and for the record.
func (p ParkResult) Outcome() string {
	counts := fmt.Sprintf("%d published, %d dead letters", p.Published, p.Dead)
	switch p.State {
	case StateParked, "":
		return "parked: " + counts
	case StateRecovered:
		return "not parked, because the destination recovered first: " + counts
	case StateLost:
		return "lost to another claim before all events were parked: " + counts
	default:
		return p.State + " before all events were parked: " + counts
	}
}

// onPark handles the update: it makes the next attempt give up events, and waits for the end of the
// recovery. It returns before the workflow continues as new, because no update outlives its run.
func (r *recovery) onPark(ctx workflow.Context, p ParkRequest) (ParkResult, error) {
	switch {
	case r.ended || r.continued:
	case r.park == nil:
		r.park = &p
		workflow.SetCurrentDetails(ctx, r.details())
		r.cancel()
	case r.park.Operation == 0: // the first request was not recorded
		r.park.Operation = p.Operation
	}
	if err := workflow.Await(ctx, func() bool { return r.ended || r.continued }); err != nil {
		return ParkResult{}, fmt.Errorf("wait for the end: %w", err)
	}
	return r.parkResult(), nil
}

func (r *recovery) parkResult() ParkResult {
	return ParkResult{Published: r.result.Published, Dead: r.result.Dead, State: r.state, GoesOn: r.continued && !r.ended}
}

// parkingContinues reports whether parking needs another round after a round with this result. Parking
// takes only the events that were pending when it began, because the operator did not give up the
// events that services write meanwhile.
func (r *recovery) parkingContinues(result activities.PublishResult) bool {
	if result.ParkUpTo == 0 { // no event was pending, or the worker does not know the bound
		return result.Dead > 0
	}
	r.parkBound = relay.Bound{ID: result.ParkUpTo, At: result.ParkBefore}
	return result.More
}

// isLong reports whether the recovery has to continue as new. Only parking makes a history long, with
// an activity for each page: a further attempt adds nothing to a history. (An earlier version, which
// never continued as new, began every park without a bound.)
func (r *recovery) isLong(ctx workflow.Context) bool {
	return r.park != nil && r.parkBound.ID > 0 && ctx.Err() == nil && historyReaches(ctx, maxHistory)
}

// continueAsNew continues under the same id on the current version of the worker, because the
// workflow's versioning behavior is AutoUpgrade. The lanes stay leased and claims leave
// the topic out, as between two rounds.
func (r *recovery) continueAsNew(ctx workflow.Context) error {
	r.continued = true
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return fmt.Errorf("wait for handlers: %w", err) // cancelled
	}
	in := r.in
	in.Before = &RecoveryProgress{Began: r.started, Result: r.result, Park: r.park, ParkUpTo: r.parkBound.ID, ParkBefore: r.parkBound.At}
	return workflow.NewContinueAsNewError(ctx, Recovery, in)
}

// RecoveryProgress is the state that a recovery passes on when it continues as new.
type RecoveryProgress struct {
	Began      time.Time      `json:"began"`
	Result     RecoveryResult `json:"result"`
	Park       *ParkRequest   `json:"park,omitempty"`
	ParkUpTo   int64          `json:"parkUpTo,omitempty"`
	ParkBefore time.Time      `json:"parkBefore,omitzero"`
}

// report records the outcome of a park that has a row in outbox.operation.
func (r *recovery) report(ctx workflow.Context) {
	if r.park == nil || r.park.Operation == 0 {
		return
	}
	end := activities.EndRequest{Operation: r.park.Operation, Outcome: r.parkResult().Outcome(), Done: int64(r.result.Dead)}
	err := workflow.ExecuteActivity(reportOptions(ctx, r.in.Batch.Topic), act.EndOperation, end).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Warn("the end of the park was not recorded", "operation", end.Operation, "topic", r.in.Batch.Topic, "error", err)
	}
}
