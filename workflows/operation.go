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

// OperationInput names an operation that has a row in outbox.operation. The filters of the operation
// are only in that row, because a key may be too confidential for a history. An input without the
// number of an operation is a form: the text that an operator typed into Temporal's Start Workflow form.
type OperationInput struct {
	Operation int64  `json:"operation"`
	Kind      string `json:"kind"`
	Topic     string `json:"topic"`
	Matched   int64  `json:"matched"`
	// PerSecond is the maximum number of events to move in a second. 0: no limit.
	PerSecond float64 `json:"perSecond,omitempty"`
	// Began is the time at which the first run began. It is set when a run continues as new.
	Began time.Time `json:"began,omitzero"`
	// Asked is the answer to the form, after the operation is recorded.
	Asked *activities.AskResult `json:"asked,omitempty"`
	// Form is the typed text. It replaces all other fields.
	Form json.RawMessage `json:"-"`
}

// UnmarshalJSON reads an operation or a form. It never returns an error, so that AskOperation can
// explain the mistakes of a form. An input that has the number of an operation and a field of forms is
// also a form: otherwise its filters would be ignored.
func (in *OperationInput) UnmarshalJSON(typed []byte) error {
	type plain OperationInput
	var p plain
	if err := json.Unmarshal(typed, &p); err != nil || p.Operation == 0 {
		*in = OperationInput{Form: bytes.Clone(typed)}
		return nil //nolint:nilerr // AskOperation explains the mistake
	}
	*in = OperationInput(p)
	if activities.LooksLikeForm(typed) {
		in.Form = bytes.Clone(typed)
	}
	return nil
}

// MarshalJSON is the reverse of UnmarshalJSON.
func (in OperationInput) MarshalJSON() ([]byte, error) {
	if len(in.Form) > 0 {
		return in.Form, nil
	}
	type plain OperationInput
	return json.Marshal(plain(in))
}

// OperationResult is the result of an operation.
type OperationResult struct {
	Done   int64  `json:"done"`   // events moved
	Lasted string `json:"lasted"` // the duration of all its runs
	// Text describes the result in words. Only operations that began with a form have it.
	Text string `json:"text,omitempty"`
	// Asked is the answer to the form, as it is recorded.
	Asked *activities.AskResult `json:"asked,omitempty"`
	// Delivered counts the outcomes of the events that became pending again, if the operation
	// followed them.
	Delivered *relay.Delivered `json:"delivered,omitempty"`
}

// Operation redrives or discards dead letters, or replays published events, for an operator. It
// continues after the terminal that started it is closed. If the operation is cancelled, events that
// it has moved stay moved.
//
// An operator may also start the workflow by hand, with a form as the input: see docs/runbook.md. The
// workflow then checks the form, counts the events, records the operator and the reason, moves the
// events, and looks for their outcome. A form may also pause or resume a topic.
func Operation(ctx workflow.Context, in OperationInput) (r OperationResult, err error) {
	if in.Began.IsZero() {
		in.Began = workflow.GetInfo(ctx).WorkflowStartTime
	}
	isForm := in.Operation == 0 || len(in.Form) > 0
	if isForm && workflow.GetVersion(ctx, changeForm, workflow.DefaultVersion, 1) != workflow.DefaultVersion {
		if in, err = readForm(ctx, in); err != nil || in.Asked.Over {
			return formResult(ctx, in), err
		}
	}
	in.Form = nil
	detached, _ := workflow.NewDisconnectedContext(ctx)
	var done activities.OperateResult
	for {
		if done, err = operate(ctx, in); workflow.IsContinueAsNewError(err) {
			return r, err
		}
		end := activities.EndRequest{Operation: in.Operation, Outcome: outcome(err)}
		if err == nil {
			end.Holder, end.Moved = done.Holder, done.Done
		}
		if endErr := workflow.ExecuteActivity(endOptions(detached, in), act.EndOperation, end).Get(detached, &done); endErr != nil && err == nil {
			err = fmt.Errorf("end operation %d: %w", in.Operation, endErr)
		}
		if err != nil || !done.Again {
			break
		}
		if isLong(ctx) {
			return r, workflow.NewContinueAsNewError(ctx, Operation, in)
		}
		// After a failover, activities may read the old and the new primary in turn, until all
		// connections lead to the new one. A cancellation during this sleep also cancels the next
		// activity.
		_ = workflow.Sleep(ctx, againAfter)
	}
	r.Done, r.Lasted = done.Done, workflow.Now(ctx).Sub(in.Began).Round(time.Second).String()
	r.Text = fmt.Sprintf("%s: %d events %s, %s.", in.Kind, r.Done, moved(in.Kind), outcome(err))
	workflow.SetCurrentDetails(detached, escape(r.Text, maxDetails))
	if in.Asked == nil {
		r.Text = ""
		return r, err
	}
	r.Asked = in.Asked
	if err == nil {
		r.follow(ctx, in)
		workflow.SetCurrentDetails(detached, escape(r.Text, maxDetails))
	}
	return r, err
}

// operate runs activities until the operation is done.
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

// isLong reports whether an operation has to continue as new. A cancelled operation ends instead,
// because the next run would not know that it was cancelled.
func isLong(ctx workflow.Context) bool {
	return ctx.Err() == nil && historyReaches(ctx, maxHistory)
}

// outcome returns the text of the outcome for the record.
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

// moved returns the state of an event after an operation of the given kind has moved it.
func moved(kind string) string {
	if kind == relay.Discard {
		return "discarded"
	}
	return "pending again"
}

func details(in OperationInput, done int64) string {
	return in.Kind + " of **" + escape(in.Topic, maxName) + "**: " + strconv.FormatInt(done, 10) + " of about " + strconv.FormatInt(in.Matched, 10) + " events moved so far. " +
		"Cancel this workflow to stop the operation. Moved events stay moved."
}
