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

// maxDetails is how long the text of an operation may be in its details, in characters.
const maxDetails = 1500

// ask has a form checked, counted and put on record, and returns the operation to go on
// with. Its failures have a type of their own, and are short: the form is not repeated.
func ask(ctx workflow.Context, in OperationInput) (OperationInput, error) {
	info := workflow.GetInfo(ctx)
	workflow.SetCurrentDetails(ctx, "Checks and counts what the input asks for. Nothing is moved yet.")
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

// ended is the result of a form that there is nothing to go on with.
func ended(ctx workflow.Context, in OperationInput) (r OperationResult) {
	free, _ := workflow.NewDisconnectedContext(ctx)
	r.Lasted = workflow.Now(ctx).Sub(in.Began).Round(time.Second).String()
	if in.Asked == nil {
		workflow.SetCurrentDetails(free, "Nothing was changed: the failure says why.")
		return r
	}
	r.Done, r.Text, r.Asked = in.Asked.Done, in.Asked.Text, in.Asked
	workflow.SetCurrentDetails(free, escape(r.Text, maxDetails))
	return r
}

// follow looks for what became of the events that are pending again. Without an answer, the
// operation is done all the same.
func (r *OperationResult) follow(ctx workflow.Context, in OperationInput) {
	if !relay.Pends(in.Kind) || ctx.Err() != nil {
		return
	}
	var d relay.Delivered
	request := activities.FollowRequest{Operation: in.Operation, Moved: r.Done, For: FollowFor}
	if err := workflow.ExecuteActivity(followOptions(ctx, in), act.FollowOperation, request).Get(ctx, &d); err != nil {
		r.Text += " It is not known what became of them: see outbox.status."
		return
	}
	r.Delivered = &d
	r.Text += fmt.Sprintf(" Of these, %d published, %d still pending, %d dead.", d.Published, d.Pending, d.Dead)
	var causes []string
	for _, c := range d.Causes {
		causes = append(causes, fmt.Sprintf("%d of %s (%s)", c.Events, c.Code, printable.Cut(c.Message, maxReason)))
	}
	if len(causes) > 0 {
		r.Text += " They died: " + strings.Join(causes, ", ") + "."
	}
	if d.NotKnown > 0 {
		r.Text += fmt.Sprintf(" It is not known of %d: a worker of an earlier version has moved them, or made dead letters.", d.NotKnown)
	}
	if len(d.Taken) > 0 {
		r.Text += fmt.Sprintf(" Operations %d have moved some of them since.", d.Taken)
	}
	if d.Lacks() {
		r.Text += " The database has lost a part of the operation, as in a failover: ask for the same again, with another workflow id."
	}
	if d.Why != "" {
		r.Text += " Still pending: " + d.Why + "."
	}
}
