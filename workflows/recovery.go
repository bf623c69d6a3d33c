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

// RecoveryInput says what Recovery takes over.
//
// Its order is that in which the Temporal UI shows it.
type RecoveryInput struct {
	// Reason is the failure for which it began: the destination's code and text.
	Reason string `json:"reason"`
	// Error is the code alone, the failure's type.
	Error string `json:"error,omitempty"`
	// Destination is the one that is broken.
	Destination string `json:"destination,omitempty"`
	// SearchAttributes says that they are registered.
	SearchAttributes bool `json:"searchAttributes,omitempty"`
	// Concurrency is how many requests may be under way.
	Concurrency int `json:"concurrency"`
	// Batch is one that its destination refuses. Its lanes are still leased.
	Batch relay.Batch `json:"batch"`
	// Before is set when a recovery continues as new.
	Before *RecoveryProgress `json:"before,omitempty"`
}

// RecoveryResult says how a recovery ended.
type RecoveryResult struct {
	Published int `json:"published"`      // of its batch
	Dead      int `json:"dead,omitempty"` // made dead letters
	// Parked names who gave up what failed.
	Parked string `json:"parked,omitempty"`
	// Paused names the operator who has paused the topic: the relay tries it when it is
	// resumed, and starts another recovery if it has to.
	Paused string `json:"paused,omitempty"`
	// Lost is true if the batch is in other hands: they go on with it, and start a
	// recovery of their own if they have to.
	Lost   bool   `json:"lost,omitempty"`
	Lasted string `json:"lasted"`
}

// goesTo names the topic and its destination, as failures do.
func goesTo(in RecoveryInput) string {
	if in.Destination == "" {
		return in.Batch.Topic
	}
	return in.Batch.Topic + " → " + in.Destination
}

// Recovery owns a topic whose destination is broken. It retries one batch without
// limit, while its attempts keep the topic paused, and completes when that batch
// gets through. Terminating it, or pausing its activity, lets the pause expire;
// the relay then tries the topic again and starts another recovery if it must. It also
// ends, with its next attempt, when an operator has paused the topic.
func Recovery(ctx workflow.Context, in RecoveryInput) (RecoveryResult, error) {
	r := newRecovery(ctx, in)
	workflow.SetCurrentDetails(ctx, r.details())
	r.describe(ctx)
	err := workflow.SetUpdateHandlerWithOptions(ctx, UpdatePark, r.onPark, workflow.UpdateHandlerOptions{
		Description: "Give up what this batch's destination refuses: it becomes dead letters, and the topic goes on.",
		Validator: func(_ workflow.Context, p ParkRequest) error {
			if p.By == "" {
				return errors.New("say who parks: by is empty")
			}
			return nil
		},
	})
	if err != nil {
		return RecoveryResult{}, fmt.Errorf("offer to park: %w", err)
	}
	err = r.run(ctx)
	if workflow.IsContinueAsNewError(err) {
		return RecoveryResult{}, err
	}
	r.over, r.state = true, r.endsIn(err)
	r.result.Lasted = workflow.Now(ctx).Sub(r.began).Round(time.Second).String()
	free, _ := workflow.NewDisconnectedContext(ctx)
	if ctx.Err() != nil {
		// Cancelled: what the batch holds is free at once.
		if err := workflow.ExecuteActivity(releaseOptions(free, in.Batch), act.ReleaseBatch, in.Batch).Get(free, nil); err != nil {
			workflow.GetLogger(free).Warn("batch not released: its lanes wait for the end of their lease", "topic", in.Batch.Topic, "error", err)
		}
	}
	resume := activities.TopicRequest{Topic: in.Batch.Topic, RecoveryID: r.id}
	if err := workflow.ExecuteActivity(resumeOptions(free, in.Batch.Topic), act.ResumeTopic, resume).Get(free, nil); err != nil {
		workflow.GetLogger(free).Warn("topic not resumed: its pause expires", "topic", in.Batch.Topic, "error", err)
	}
	r.report(free)
	workflow.SetCurrentDetails(free, r.epilogue())
	r.conclude(free)
	if err := workflow.Await(free, func() bool { return workflow.AllHandlersFinished(free) }); err != nil {
		return r.result, fmt.Errorf("wait for handlers: %w", err)
	}
	return r.result, err
}

// recovery is the state of a Recovery.
type recovery struct {
	in     RecoveryInput
	id     string
	began  time.Time
	result RecoveryResult
	park   *ParkRequest
	upTo   relay.Bound         // how far parking goes, once that is known
	cancel workflow.CancelFunc // the attempt under way
	over   bool
	state  string // in which it ended
	goesOn bool   // as new
}

func newRecovery(ctx workflow.Context, in RecoveryInput) *recovery {
	r := &recovery{in: in, id: workflow.GetInfo(ctx).WorkflowExecution.ID, began: workflow.Now(ctx)}
	if b := in.Before; b != nil {
		r.began, r.result, r.park, r.upTo = b.Began, b.Result, b.Park, relay.Bound{ID: b.ParkUpTo, At: b.ParkBefore}
	}
	return r
}

// run publishes the batch until it gets through, is given up, or is lost.
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
			Park: parking, Bound: parking && r.upTo.ID == 0, ParkUpTo: r.upTo.ID, ParkBefore: r.upTo.At,
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
			if !parking || !r.parksOn(result) {
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

// details is what the UI shows under User Metadata while it lasts. The failure in it
// is the first; the last is with the pending activity.
func (r *recovery) details() string {
	topic, parked := escape(r.in.Batch.Topic, maxName), ""
	if r.park != nil {
		parked = "Parked by " + escape(r.park.By, maxName) + ": " + escape(r.park.Reason, maxReason) + "\n\n"
	}
	return framed(fmt.Sprintf("Topic **%s** waits for its destination since **%s UTC**. The first failure:\n\n> %s\n\n%s"+
		"Repair the destination, and everything goes on by itself, in order. Nothing is lost meanwhile, however long it takes. "+
		"If every event is refused one by one, each attempt also tries events behind the first page. Once one of those is accepted, the refused ones "+
		"are tried again, and those that are refused again become dead letters. "+
		"The last failure, and when the next attempt is due, is in *Pending Activities*, in the table of `Relay` and in `starter status`. "+
		"That table also has how much waits.\n\n"+
		"To try at once: `starter recover TOPIC --now`, or *Reset* of the pending activity (not of this workflow). "+
		"To give up what is pending of its batch now: `starter recover TOPIC --park`, or the update `%s` with `{\"by\": \"…\", \"reason\": \"…\"}` "+
		"(*More Actions*). It becomes dead letters.",
		topic, r.began.UTC().Format(time.DateTime), escape(r.in.Reason, maxCause), parked, UpdatePark))
}

// uncounted leaves out of a failure's text how many events were left of one attempt:
// more comes while a recovery lasts.
func uncounted(text string) string {
	before, after, found := strings.Cut(text, " left: ")
	i := strings.LastIndex(before, ": ")
	if !found || i < 0 {
		return text
	}
	return before[:i+len(": ")] + after
}

// epilogue is what it shows when it is over.
func (r *recovery) epilogue() string {
	return framed(fmt.Sprintf("Topic **%s** goes on: this recovery is over (%s) after %s, with %s published and %s made dead letters.",
		escape(r.in.Batch.Topic, maxName), r.state, r.result.Lasted, events(r.result.Published), count(r.result.Dead)))
}
