package workflows

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
)

// changeForm marks runs of Operation that read a form. Runs of earlier versions did not.
const changeForm = "operation-form"

// maxDetails is the maximum length of an operation's text in its details, in characters.
const maxDetails = 1500

// readForm returns the operation that a form asks for. An activity checks the form, counts the events
// and records the operation. A failure has the type of its mistake, and does not repeat the form.
func readForm(ctx workflow.Context, in OperationInput) (OperationInput, error) {
	info := workflow.GetInfo(ctx)
	workflow.SetCurrentDetails(ctx, "Checks the input and counts the events that it selects. No event has been moved yet.")
	var asked activities.AskResult
	err := workflow.ExecuteActivity(askOptions(ctx), act.AskOperation, activities.AskRequest{Form: in.Form, FirstRun: cmp.Or(info.FirstRunID, info.WorkflowExecution.RunID)}).Get(ctx, &asked)
	if err != nil {
		var failure *temporal.ApplicationError
		if asApplicationError(err, &failure) {
			err = temporal.NewNonRetryableApplicationError(failure.Message(), failure.Type(), nil)
		}
		return in, err
	}
	memo := map[string]any{"kind": asked.Kind, "topic": asked.Topic, "by": printable.Cut(asked.By, maxMemo), "reason": printable.Cut(asked.Reason, maxMemo)}
	if asked.Operation != 0 {
		memo["operation"], memo["matched"], memo["selectedBy"] = asked.Operation, asked.Matched, asked.SelectedBy
	}
	if err := workflow.UpsertMemo(ctx, memo); err != nil {
		return in, err
	}
	return OperationInput{
		Operation: asked.Operation, Kind: asked.Kind, Topic: asked.Topic, Matched: asked.Matched, PerSecond: asked.PerSecond,
		Began: in.Began, Asked: &asked,
	}, nil
}

// formResult returns the result of a form that moves no events.
func formResult(ctx workflow.Context, in OperationInput) (r OperationResult) {
	detached, _ := workflow.NewDisconnectedContext(ctx)
	r.Lasted = workflow.Now(ctx).Sub(in.Began).Round(time.Second).String()
	if in.Asked == nil {
		workflow.SetCurrentDetails(detached, "Nothing was changed. The failure names the reason.")
		return r
	}
	r.Done, r.Text, r.Asked = in.Asked.Done, in.Asked.Text, in.Asked
	workflow.SetCurrentDetails(detached, escape(r.Text, maxDetails))
	return r
}

// follow looks for the outcome of the events that became pending again. The operation is done even if
// no outcome is found.
func (r *OperationResult) follow(ctx workflow.Context, in OperationInput) {
	if !relay.Pends(in.Kind) || ctx.Err() != nil {
		return
	}
	var d relay.Delivered
	request := activities.FollowRequest{Operation: in.Operation, Moved: r.Done, For: FollowFor}
	if err := workflow.ExecuteActivity(followOptions(ctx, in), act.FollowOperation, request).Get(ctx, &d); err != nil {
		r.Text += " The outcome of these events is not known: see the view outbox.status."
		return
	}
	r.Delivered = &d
	r.Text += fmt.Sprintf(" Of these, %d published, %d still pending, %d dead.", d.Published, d.Pending, d.Dead)
	var causes []string
	for _, c := range d.Causes {
		causes = append(causes, fmt.Sprintf("%d with %s (%s)", c.Events, c.Code, printable.Cut(c.Message, maxReason)))
	}
	if len(causes) > 0 {
		r.Text += " Dead letters: " + strings.Join(causes, ", ") + "."
	}
	if d.NotKnown > 0 {
		r.Text += fmt.Sprintf(" The outcome of %d events is not known: a worker of an earlier version moved them, or made dead letters of them.", d.NotKnown)
	}
	if len(d.Taken) > 0 {
		r.Text += fmt.Sprintf(" Since then, the operations %d have moved some of these events.", d.Taken)
	}
	if d.Lacks() {
		r.Text += " The database has lost a part of the operation, for example in a failover: start the same operation again, with another workflow id."
	}
	if d.Why != "" {
		r.Text += " Still pending: " + d.Why + "."
	}
}
