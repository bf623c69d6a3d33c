package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// begin counts, asks, puts the operation on record and starts its workflow. If another
// command has put the same on record meanwhile, it joins that.
func (o *operation) begin(cmd *cobra.Command, store *postgres.Store, c client.Client, topic string, chosen relay.Selection,
) (u relay.OperationState, run client.WorkflowRun, joined bool, err error) {
	ctx := cmd.Context()
	n, err := o.count(cmd, store, topic, chosen)
	if err != nil {
		return u, nil, false, err
	}
	if !o.yes {
		if err := confirm(cmd, fmt.Sprintf("%s %d %s of %s?", o.kind, n.Events, relay.Nouns(o.kind), topic)); err != nil {
			return u, nil, false, err
		}
	}
	id, joined, err := store.BeginOperation(ctx, relay.Operation{
		Kind: o.kind, Topic: topic, By: o.by, Reason: o.reason, Selection: chosen, Matched: n.Events, At: n.At,
		WorkflowID: workflows.OperationIDPrefix(o.taskQueue, o.kind, topic),
	})
	if err == nil {
		u, err = store.Operation(ctx, id)
	}
	if err != nil {
		return u, nil, joined, err
	}
	run, err = o.start(ctx, c, u)
	return u, run, joined, err
}

// underWay joins the same operation, if it is under way. If its record is new and it has no
// workflow, underWay starts the workflow: the other command is about to start the same one,
// and Temporal accepts only one. If the record is older and has no workflow, because the
// command was killed or an operator terminated the workflow, underWay ends the operation:
// the filters would select other events now.
func (o *operation) underWay(cmd *cobra.Command, store *postgres.Store, c client.Client, topic string, chosen relay.Selection,
) (u relay.OperationState, run client.WorkflowRun, joined bool, err error) {
	ctx := cmd.Context()
	u, found, err := store.SameUnderWay(ctx, o.kind, topic, chosen)
	if err != nil || !found {
		return u, nil, false, err
	}
	if !workflows.IsID(u.WorkflowID) {
		fmt.Fprintf(cmd.ErrOrStderr(), "operation %d, by %s, is of an earlier version, and Temporal does not accept the id of its workflow, %q: it is marked as abandoned\n", u.ID, u.By, u.WorkflowID)
		return u, nil, false, store.EndOperation(ctx, u.ID, relay.Abandoned+"Temporal takes no workflow of its id", 0)
	}
	runs, err := running(ctx, c, u.WorkflowID)
	var notFound *serviceerror.NotFound
	if errors.As(err, &notFound) && u.Age >= relay.StartWithin && u.Done == 0 && u.From.ID == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "operation %d, by %s, has no workflow yet: waiting a moment for it\n", u.ID, u.By)
		for until := time.Now().Add(relay.WaitForStart); errors.As(err, &notFound) && time.Now().Before(until); runs, err = running(ctx, c, u.WorkflowID) {
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	}
	switch {
	case runs:
		return u, c.GetWorkflow(ctx, u.WorkflowID, ""), true, nil
	case err != nil && !errors.As(err, &notFound):
		return u, nil, false, fmt.Errorf("look for workflow %s: %w", u.WorkflowID, err)
	case err != nil && (u.Done > 0 || u.From.ID > 0):
		// It has had a workflow, so this may be the wrong place to look for it.
		return u, nil, false, fmt.Errorf("operation %d has moved %d events, but %s has no workflow %s: use the namespace in which the operation was started.\n"+
			"If that namespace no longer exists, end the operation in the database:\n  UPDATE outbox.operation SET finished_at = now(), outcome = 'abandoned' WHERE id = %d", u.ID, u.Done, place(), u.WorkflowID, u.ID)
	case err != nil && u.Age < relay.StartWithin:
		run, err = o.start(ctx, c, u)
		return u, run, err == nil, err
	}
	if err == nil { // it has ended: perhaps in this moment, because all is done
		if u, err = store.Operation(ctx, u.ID); err != nil || u.Finished != nil {
			return u, c.GetWorkflow(ctx, u.WorkflowID, ""), err == nil, err
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "operation %d, by %s: no workflow %s runs in %s: it is marked as abandoned\n", u.ID, u.By, u.WorkflowID, place())
	return u, nil, false, store.EndOperation(ctx, u.ID, relay.Abandoned+"its workflow does not run", 0)
}

// running reports whether a workflow runs.
func running(ctx context.Context, c client.Client, workflowID string) (bool, error) {
	d, err := c.DescribeWorkflowExecution(ctx, workflowID, "")
	return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, err
}

// place is which Temporal was asked.
func place() string {
	o, err := clientOptions()
	if err != nil {
		return "Temporal"
	}
	return fmt.Sprintf("namespace %s at %s", o.Namespace, cmp.Or(o.HostPort, client.DefaultHostPort))
}

// start starts an operation's workflow, unless it runs.
func (o *operation) start(ctx context.Context, c client.Client, u relay.OperationState) (client.WorkflowRun, error) {
	number := strconv.FormatInt(u.ID, 10)
	if u.WorkflowID != workflows.OperationIDPrefix(o.taskQueue, u.Kind, u.Topic)+number &&
		u.WorkflowID != workflows.EarlierOperationIDPrefix(o.taskQueue, u.Kind, u.Topic)+number {
		return nil, misuse("workflow %s is under way on another task queue than %s: give the --task-queue with which it was started", u.WorkflowID, o.taskQueue)
	}
	attributes, err := topicAttribute(ctx, c, u.Topic)
	if err != nil {
		return nil, fmt.Errorf("start workflow %s: %w: run the command again", u.WorkflowID, err)
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: u.WorkflowID, TaskQueue: o.taskQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            short(printable.Line(fmt.Sprintf("%s %s, by %s: %s", o.kind, u.Topic, u.By, u.Reason))),
		TypedSearchAttributes:    attributes,
		Memo: map[string]any{
			"operation": u.ID, "kind": u.Kind, "topic": u.Topic, "by": u.By, "reason": short(u.Reason), "at": u.At,
			"matched": u.Matched, "selectedBy": u.Selection.By(), // what it says is in outbox.operation
		},
	}, workflows.Operation, workflows.OperationInput{
		Operation: u.ID, Kind: o.kind, Topic: u.Topic, Matched: u.Matched, PerSecond: o.perSecond,
	})
	if err != nil {
		return nil, fmt.Errorf("start workflow %s: %w: run the command again", u.WorkflowID, err)
	}
	return run, nil
}

// short cuts what Temporal limits to 400 bytes.
func short(text string) string { return printable.Cut(text, 200+len("…")) }
