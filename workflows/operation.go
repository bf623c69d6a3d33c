package workflows

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
)

// OperationInput names an operation that is on record in outbox.operation. What it
// selects stays there: a key may say more than a history should keep. Without an operation's
// number it is a form: what somebody has typed into Temporal's Start Workflow form.
type OperationInput struct {
	Operation int64  `json:"operation"`
	Kind      string `json:"kind"`
	Topic     string `json:"topic"`
	Matched   int64  `json:"matched"`
	// PerSecond is how many events are moved in a second at most. 0: no limit.
	PerSecond float64 `json:"perSecond,omitempty"`
	// Began is when its first run did, once it continues as new.
	Began time.Time `json:"began,omitzero"`
	// Asked is what came of the form, once it is on record.
	Asked *activities.AskResult `json:"asked,omitempty"`
	// Form is what was typed. It counts instead of all the others.
	Form json.RawMessage `json:"-"`
}

// UnmarshalJSON reads either. It refuses nothing, so that AskOperation can say what is
// wrong with a form. An operation's number beside what only a form has is a form, too: its
// filters would be ignored otherwise.
func (in *OperationInput) UnmarshalJSON(typed []byte) error {
	type plain OperationInput
	var p plain
	if err := json.Unmarshal(typed, &p); err != nil || p.Operation == 0 {
		*in = OperationInput{Form: bytes.Clone(typed)}
		return nil //nolint:nilerr // AskOperation says it
	}
	*in = OperationInput(p)
	if activities.LooksLikeForm(typed) {
		in.Form = bytes.Clone(typed)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (in OperationInput) MarshalJSON() ([]byte, error) {
	if len(in.Form) > 0 {
		return in.Form, nil
	}
	type plain OperationInput
	return json.Marshal(plain(in))
}

// OperationResult says how an operation ended.
type OperationResult struct {
	Done   int64  `json:"done"`   // events moved
	Lasted string `json:"lasted"` // over all its runs
	// Text says what happened, of an operation that somebody has asked for with a form.
	Text string `json:"text,omitempty"`
	// Asked is what was asked for, and put on record.
	Asked *activities.AskResult `json:"asked,omitempty"`
	// Delivered is what became of the events that were made pending, if that was followed.
	Delivered *relay.Delivered `json:"delivered,omitempty"`
}

// Operation does to many events what an operator asked for: redrive or discard dead
// letters, or replay what was published. It goes on whatever becomes of the terminal
// that started it. Cancelling it leaves done what is done.
//
// An operator may start it by hand, with a form as its input: see docs/runbook.md. It
// then checks and counts first, puts on record who and why, and follows the events to their
// outcome. A form may also pause or resume a topic.
func Operation(ctx workflow.Context, in OperationInput) (r OperationResult, err error) {
	if in.Began.IsZero() {
		in.Began = workflow.GetInfo(ctx).WorkflowStartTime
	}
	isForm := in.Operation == 0 || len(in.Form) > 0
	if isForm && workflow.GetVersion(ctx, changeForm, workflow.DefaultVersion, 1) != workflow.DefaultVersion {
		if in, err = ask(ctx, in); err != nil || in.Asked.Over {
			return ended(ctx, in), err
		}
	}
	in.Form = nil
	free, _ := workflow.NewDisconnectedContext(ctx)
	var done activities.OperateResult
	for {
		if done, err = operate(ctx, in); workflow.IsContinueAsNewError(err) {
			return r, err
		}
		end := activities.EndRequest{Operation: in.Operation, Outcome: outcome(err)}
		if err == nil {
			end.Holder, end.Moved = done.Holder, done.Done
		}
		if endErr := workflow.ExecuteActivity(endOptions(free, in), act.EndOperation, end).Get(free, &done); endErr != nil && err == nil {
			err = fmt.Errorf("end operation %d: %w", in.Operation, endErr)
		}
		if err != nil || !done.Again {
			break
		}
		if isLong(ctx) {
			return r, workflow.NewContinueAsNewError(ctx, Operation, in)
		}
		// It may see two databases by turns, until all connections lead to the new primary.
		// If it is cancelled meanwhile, so is what it does next.
		_ = workflow.Sleep(ctx, againAfter)
	}
	r.Done, r.Lasted = done.Done, workflow.Now(ctx).Sub(in.Began).Round(time.Second).String()
	r.Text = fmt.Sprintf("%s: %d events %s, %s.", in.Kind, r.Done, moved(in.Kind), outcome(err))
	workflow.SetCurrentDetails(free, escape(r.Text, maxDetails))
	if in.Asked == nil {
		r.Text = ""
		return r, err
	}
	r.Asked = in.Asked
	if err == nil {
		r.follow(ctx, in)
		workflow.SetCurrentDetails(free, escape(r.Text, maxDetails))
	}
	return r, err
}

// operate goes on until everything is done.
func operate(ctx workflow.Context, in OperationInput) (done activities.OperateResult, err error) {
	do := map[string]any{relay.Redrive: act.Redrive, relay.Discard: act.Discard, relay.Replay: act.Replay}[in.Kind]
	if do == nil {
		return done, temporal.NewNonRetryableApplicationError("unknown kind of operation: "+in.Kind, "UnknownOperation", nil)
	}
	request := activities.OperateRequest{Operation: in.Operation, PerSecond: in.PerSecond, For: OperateFor}
	for !done.Over {
		workflow.SetCurrentDetails(ctx, details(in, done.Done))
		if err := workflow.ExecuteActivity(operateOptions(ctx, in), do, request).Get(ctx, &done); err != nil {
			return done, err
		}
		if !done.Over && isLong(ctx) {
			return done, workflow.NewContinueAsNewError(ctx, Operation, in)
		}
		if done.Wait > 0 {
			if err := workflow.Sleep(ctx, done.Wait); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// isLong is true if an operation is to continue as new. One that is cancelled ends instead: a
// run that follows knows nothing of it.
func isLong(ctx workflow.Context) bool {
	return ctx.Err() == nil && workflow.GetInfo(ctx).GetCurrentHistoryLength() >= maxHistory
}

// outcome is what is put on record.
func outcome(err error) string {
	switch {
	case err == nil:
		return "done"
	case temporal.IsCanceledError(err):
		return "cancelled"
	}
	var failure *temporal.ApplicationError
	if asApplicationError(err, &failure) {
		return failure.Message()
	}
	return err.Error()
}

// moved is what has become of an event that an operation of a kind has moved.
func moved(kind string) string {
	if kind == relay.Discard {
		return "discarded"
	}
	return "pending again"
}

func details(in OperationInput, done int64) string {
	return in.Kind + " of **" + escape(in.Topic, maxName) + "**: " + strconv.FormatInt(done, 10) + " of about " + strconv.FormatInt(in.Matched, 10) + " events moved so far. " +
		"Cancel this workflow to stop it; what was moved stays so."
}
