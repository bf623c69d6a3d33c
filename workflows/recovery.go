package workflows

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// UpdatePark is the name of Recovery's update handler.
const UpdatePark = "park"

// RecoveryInput is the batch that a Recovery takes over, and the reason.
//
// The Temporal UI shows the fields in this order.
type RecoveryInput struct {
	// Reason is the failure that started the recovery: the destination's code and text.
	Reason string `json:"reason"`
	// Error is the code alone, the failure's type.
	Error string `json:"error,omitempty"`
	// Destination is the broken destination.
	Destination string `json:"destination,omitempty"`
	// SearchAttributes is true if the search attributes are registered.
	SearchAttributes bool `json:"searchAttributes,omitempty"`
	// Concurrency is the maximum number of requests in flight.
	Concurrency int `json:"concurrency"`
	// Batch is the batch that the destination refuses. The lanes of the batch are still leased.
	Batch relay.Batch `json:"batch"`
	// Before is set when a recovery continues as new.
	Before *RecoveryProgress `json:"before,omitempty"`
}

// RecoveryResult is the result of a recovery.
type RecoveryResult struct {
	Published int `json:"published"`      // events
	Dead      int `json:"dead,omitempty"` // events that became dead letters
	// Parked names the operator who gave up the events that failed.
	Parked string `json:"parked,omitempty"`
	// Paused names the operator who paused the topic. After the resume, the relay tries the topic,
	// and starts another recovery if the topic fails.
	Paused string `json:"paused,omitempty"`
	// Lost is true if another claim has the batch. That claim publishes it, and starts another
	// recovery if the topic fails.
	Lost   bool   `json:"lost,omitempty"`
	Lasted string `json:"lasted"`
}

// topicAndDestination names the topic and its destination, as failures do.
func topicAndDestination(in RecoveryInput) string {
	if in.Destination == "" {
		return in.Batch.Topic
	}
	return in.Batch.Topic + " → " + in.Destination
}

// Recovery handles a topic whose destination is broken. It sends one batch again and again, and completes
// when the destination accepts the batch. With each attempt, claims leave the topic out for another
// timing.RecoveryHold. If you terminate the workflow, claims end the hold within seconds. If you pause its
// activity, the hold expires. The relay then tries the topic again, and starts another recovery if the topic
// fails. If an operator pauses the topic, the next attempt ends the recovery.
func Recovery(ctx workflow.Context, in RecoveryInput) (RecoveryResult, error) {
	r := newRecovery(ctx, in)
	workflow.SetCurrentDetails(ctx, r.details())
	r.setFirstAttributes(ctx)
	err := workflow.SetUpdateHandlerWithOptions(ctx, UpdatePark, r.onPark, workflow.UpdateHandlerOptions{
		Description: "Make dead letters of the events of this batch that the destination refuses. The topic then continues.",
		Validator: func(_ workflow.Context, p ParkRequest) error {
			if p.By == "" {
				return errors.New("by is empty: name the person who parks")
			}
			return nil
		},
	})
	if err != nil {
		return RecoveryResult{}, fmt.Errorf("set the handler of the update park: %w", err)
	}
	err = r.run(ctx)
	if workflow.IsContinueAsNewError(err) {
		return RecoveryResult{}, err
	}
	r.ended, r.state = true, r.finalState(err)
	r.result.Lasted = workflow.Now(ctx).Sub(r.started).Round(time.Second).String()
	detached, _ := workflow.NewDisconnectedContext(ctx)
	if ctx.Err() != nil {
		// Cancelled: release the lanes of the batch at once.
		if err := workflow.ExecuteActivity(releaseOptions(detached, in.Batch), act.ReleaseBatch, in.Batch).Get(detached, nil); err != nil {
			workflow.GetLogger(detached).Warn("batch not released: its lanes stay leased until the lease expires", "topic", in.Batch.Topic, "error", err)
		}
	}
	resume := activities.TopicRequest{Topic: in.Batch.Topic, RecoveryID: r.id}
	if err := workflow.ExecuteActivity(resumeOptions(detached, in.Batch.Topic), act.ResumeTopic, resume).Get(detached, nil); err != nil {
		workflow.GetLogger(detached).Warn("the topic is not resumed: claims leave it out until the hold of its recovery expires in the database", "topic", in.Batch.Topic, "error", err)
	}
	r.report(detached)
	workflow.SetCurrentDetails(detached, r.epilogue())
	r.setFinalState(detached)
	if err := workflow.Await(detached, func() bool { return workflow.AllHandlersFinished(detached) }); err != nil {
		return r.result, fmt.Errorf("wait for handlers: %w", err)
	}
	return r.result, err
}

// recovery is the state of a Recovery.
type recovery struct {
	in        RecoveryInput
	id        string
	started   time.Time
	result    RecoveryResult
	park      *ParkRequest
	parkBound relay.Bound         // the last event to park, after the first round
	cancel    workflow.CancelFunc // cancels the current attempt
	ended     bool
	state     string // the final state
	continued bool   // the workflow continues as new
}

func newRecovery(ctx workflow.Context, in RecoveryInput) *recovery {
	r := &recovery{in: in, id: workflow.GetInfo(ctx).WorkflowExecution.ID, started: workflow.Now(ctx)}
	if b := in.Before; b != nil {
		r.started, r.result, r.park, r.parkBound = b.Began, b.Result, b.Park, relay.Bound{ID: b.ParkUpTo, At: b.ParkBefore}
	}
	return r
}

// run publishes the batch until the destination accepts it, an operator gives it up, or another
// claim takes it.
func (r *recovery) run(ctx workflow.Context) error {
	for {
		if r.isLong(ctx) {
			return r.continueAsNew(ctx)
		}
		parking := r.park != nil
		if parking {
			r.result.Parked = r.park.By
		}
		attempt, cancel := workflow.WithCancel(ctx)
		r.cancel = cancel
		var result activities.PublishResult
		err := workflow.ExecuteActivity(recoveryOptions(attempt, r.in), act.PublishBatch, activities.PublishRequest{
			Batch: r.in.Batch, Concurrency: r.in.Concurrency, For: timing.BatchFor, RecoveryID: r.id, Recovering: true,
			Park: parking, Bound: parking && r.parkBound.ID == 0, ParkUpTo: r.parkBound.ID, ParkBefore: r.parkBound.At,
		}).Get(attempt, &result)
		cancel()
		var failure *temporal.ApplicationError
		switch {
		case err == nil:
			r.result.Published += result.Published
			r.result.Dead += result.Dead
			if result.PausedBy != "" {
				r.result.Paused = result.PausedBy
				return nil
			}
			if !parking || !r.parkingContinues(result) {
				return nil
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case asApplicationError(err, &failure) && failure.Type() == activities.TypeClaimLost:
			r.result.Lost = true
			return nil
		case r.park == nil || parking:
			return fmt.Errorf("publish %s: %w", summary(r.in.Batch), err)
		}
	}
}

// details returns the text that the UI shows under User Metadata during the recovery. The text has the
// first failure. The pending activity shows the last failure.
func (r *recovery) details() string {
	topic, parked := escape(r.in.Batch.Topic, maxName), ""
	if r.park != nil {
		parked = "Parked by " + escape(r.park.By, maxName) + ": " + escape(r.park.Reason, maxReason) + "\n\n"
	}
	return withBlankLine(fmt.Sprintf("Topic **%s** has been waiting for its destination since **%s UTC**. The first failure:\n\n> %s\n\n%s"+
		"Repair the destination: the topic then continues by itself, in order. No event is lost meanwhile, however long the repair takes. "+
		"If the destination refuses each event for itself, an attempt also sends a few events behind the first page. If the destination accepts one of these, "+
		"the attempt sends the refused events again. Events that the destination refuses again become dead letters. "+
		"*Pending Activities*, the table of `Relay` and `starter status` show the last failure and the time of the next attempt. "+
		"The table also shows the number of pending events.\n\n"+
		"To try again at once, run `starter recover TOPIC --now`, or use *Reset* of the pending activity (not of this workflow). "+
		"To give up the pending events of the batch, run `starter recover TOPIC --park`, or send the update `%s` with `{\"by\": \"…\", \"reason\": \"…\"}` "+
		"(*More Actions*): the events that the destination refuses then become dead letters.",
		topic, r.started.UTC().Format(time.DateTime), escape(r.in.Reason, maxCause), parked, UpdatePark))
}

// withoutCount removes the number of events that one attempt could not publish from the text of a
// failure, because the number changes during a recovery.
func withoutCount(text string) string {
	before, after, found := strings.Cut(text, " left: ")
	i := strings.LastIndex(before, ": ")
	if !found || i < 0 {
		return text
	}
	return before[:i+len(": ")] + after
}

// epilogue returns the text that the UI shows after the recovery.
func (r *recovery) epilogue() string {
	return withBlankLine(fmt.Sprintf("The recovery of topic **%s** is over (%s) after %s, with %s published and %s dead letters.",
		escape(r.in.Batch.Topic, maxName), r.state, r.result.Lasted, events(r.result.Published), count(r.result.Dead)))
}
