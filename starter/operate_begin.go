package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// begin counts, asks, puts the operation on record and starts its workflow.
func (o *operation) begin(cmd *cobra.Command, store *postgres.Store, c client.Client, topic string, chosen relay.Selection, count counter,
) (u relay.UnderWay, run client.WorkflowRun, err error) {
	ctx := cmd.Context()
	n, err := o.count(cmd, store, topic, chosen, count)
	if err != nil {
		return u, nil, err
	}
	if !o.yes {
		if err := confirm(cmd, fmt.Sprintf("%s %d %s of %s?", o.kind, n.events, o.nouns, topic)); err != nil {
			return u, nil, err
		}
	}
	id, _, err := store.BeginOperation(ctx, relay.Operation{
		Kind: o.kind, Topic: topic, By: o.by, Reason: o.reason, Selection: chosen, Matched: n.events, At: n.at,
		WorkflowID: workflows.OperationIDPrefix(o.taskQueue, o.kind, topic),
	})
	if err == nil {
		u, err = store.Operation(ctx, id)
	}
	if err != nil {
		return u, nil, err
	}
	run, err = o.start(ctx, c, u)
	return u, run, err
}

// underWay finds the same operation, if its workflow runs. One that is on record without
// (the command died before it had started it, or somebody terminated it) is ended: what
// it had selected then is not what is asked for now.
func (o *operation) underWay(ctx context.Context, store *postgres.Store, c client.Client, topic string, chosen relay.Selection,
) (u relay.UnderWay, run client.WorkflowRun, err error) {
	u, found, err := store.SameUnderWay(ctx, o.kind, topic, chosen)
	if err != nil || !found {
		return u, nil, err
	}
	d, err := c.DescribeWorkflowExecution(ctx, u.WorkflowID, "")
	var absent *serviceerror.NotFound
	switch {
	case err == nil && d.WorkflowExecutionInfo.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return u, c.GetWorkflow(ctx, u.WorkflowID, ""), nil
	case err != nil && !errors.As(err, &absent):
		return u, nil, fmt.Errorf("look for workflow %s: %w", u.WorkflowID, err)
	}
	return u, nil, store.EndOperation(ctx, u.ID, "abandoned: its workflow does not run", 0)
}

// start starts an operation's workflow.
func (o *operation) start(ctx context.Context, c client.Client, u relay.UnderWay) (client.WorkflowRun, error) {
	attributes, err := topicAttribute(ctx, c, u.Topic)
	if err != nil {
		return nil, fmt.Errorf("start workflow %s: %w: give the command again", u.WorkflowID, err)
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: u.WorkflowID, TaskQueue: o.taskQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            short(fmt.Sprintf("%s %s, by %s: %s", o.kind, u.Topic, u.By, u.Reason)),
		TypedSearchAttributes:    attributes,
		Memo: map[string]any{
			"operation": u.ID, "kind": u.Kind, "topic": u.Topic, "by": u.By, "reason": short(u.Reason), "at": u.At,
		},
	}, workflows.Operation, workflows.OperationInput{
		Operation: u.ID, Kind: o.kind, Topic: u.Topic, Matched: u.Matched, PerSecond: o.perSecond,
	})
	if err != nil {
		return nil, fmt.Errorf("start workflow %s: %w: give the command again", u.WorkflowID, err)
	}
	return run, nil
}

// short cuts what Temporal limits to 400 bytes.
func short(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
