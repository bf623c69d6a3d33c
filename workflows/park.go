package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
)

// ParkRequest says who gives up, and why.
type ParkRequest struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	// Operation is the number under which it is on record, 0 if it is not. The recovery
	// notes there how it ended, whether or not somebody still waits for it.
	Operation int64 `json:"operation,omitempty"`
}

// ParkResult is what became of the batch that was parked.
type ParkResult struct {
	Published int `json:"published"`
	Dead      int `json:"dead"`
	// State is that in which the recovery ended: StateParked, or another if something
	// came in between. Empty from a worker of an earlier version.
	State string `json:"state,omitempty"`
	// GoesOn is true if parking is not over: the recovery continues as new, and the same
	// update waits on.
	GoesOn bool `json:"goesOn,omitempty"`
}

// Outcome says in words what became of it, for people and for the record.
func (p ParkResult) Outcome() string {
	counts := fmt.Sprintf("%d published, %d dead letters", p.Published, p.Dead)
	switch p.State {
	case StateParked, "":
		return "parked: " + counts
	case StateRecovered:
		return "not parked, because the destination was back before: " + counts
	case StateLost:
		return "lost to another claim before all was parked: " + counts
	default:
		return p.State + " before all was parked: " + counts
	}
}

// onPark makes the next attempt the one that gives up, and waits for its end. It is over
// before the workflow continues as new, because no update outlives its run.
func (r *recovery) onPark(ctx workflow.Context, p ParkRequest) (ParkResult, error) {
	switch {
	case r.over || r.goesOn:
	case r.park == nil:
		r.park = &p
		workflow.SetCurrentDetails(ctx, r.details())
		r.cancel()
	case r.park.Operation == 0: // the first was not on record
		r.park.Operation = p.Operation
	}
	if err := workflow.Await(ctx, func() bool { return r.over || r.goesOn }); err != nil {
		return ParkResult{}, fmt.Errorf("wait for the end: %w", err)
	}
	return r.parkResult(), nil
}

func (r *recovery) parkResult() ParkResult {
	return ParkResult{Published: r.result.Published, Dead: r.result.Dead, State: r.state, GoesOn: r.goesOn && !r.over}
}

// parksOn reports whether parking needs another round after one with this result. It
// goes up to what was pending when it began: as long as services write, something new
// is there in every round, and nobody has given that up.
func (r *recovery) parksOn(result activities.PublishResult) bool {
	if result.ParkUpTo == 0 { // nothing was pending, or the worker knows of no bound
		return result.Dead > 0
	}
	r.upTo = relay.Bound{ID: result.ParkUpTo, At: result.ParkBefore}
	return result.More
}

// isLong reports whether it has to continue as new. It is parking that makes a history
// long, with an activity for each page: attempts leave nothing in it. (A park without a
// bound is of an earlier version, which never continued.)
func (r *recovery) isLong(ctx workflow.Context) bool {
	return r.park != nil && r.upTo.ID > 0 && ctx.Err() == nil && workflow.GetInfo(ctx).GetCurrentHistoryLength() >= maxHistory
}

// continueAsNew goes on under the same id, and on the current version of the worker, as
// what upgrades by itself does. The lanes stay leased, and the topic paused, as between
// two rounds.
func (r *recovery) continueAsNew(ctx workflow.Context) error {
	r.goesOn = true
	if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
		return fmt.Errorf("wait for handlers: %w", err) // cancelled
	}
	in := r.in
	in.Before = &RecoveryProgress{Began: r.began, Result: r.result, Park: r.park, ParkUpTo: r.upTo.ID, ParkBefore: r.upTo.At}
	return workflow.NewContinueAsNewError(ctx, Recovery, in)
}

// RecoveryProgress is what a recovery hands on when it continues as new.
type RecoveryProgress struct {
	Began      time.Time      `json:"began"`
	Result     RecoveryResult `json:"result"`
	Park       *ParkRequest   `json:"park,omitempty"`
	ParkUpTo   int64          `json:"parkUpTo,omitempty"`
	ParkBefore time.Time      `json:"parkBefore,omitzero"`
}

// report notes on record how a park ended, if it is on record.
func (r *recovery) report(ctx workflow.Context) {
	if r.park == nil || r.park.Operation == 0 {
		return
	}
	end := activities.EndRequest{Operation: r.park.Operation, Outcome: r.parkResult().Outcome(), Done: int64(r.result.Dead)}
	err := workflow.ExecuteActivity(reportOptions(ctx, r.in.Batch.Topic), act.EndOperation, end).Get(ctx, nil)
	if err != nil {
		workflow.GetLogger(ctx).Warn("park not ended on record", "operation", end.Operation, "topic", r.in.Batch.Topic, "error", err)
	}
}
