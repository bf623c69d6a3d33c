package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// giveUp counts the events, asks for confirmation, has the recovery park its batch, and
// returns the result with the number of events that remain.
func (o *recovering) giveUp(cmd *cobra.Command, store *postgres.Store, c client.Client, found recoveryFound, r *recovered) error {
	batch, err := batchOf(cmd.Context(), c, found)
	if err != nil {
		return err
	}
	inBatch, inTopic, err := store.Waits(cmd.Context(), batch)
	if err != nil {
		return err
	}
	r.Matched, r.Pending, r.DryRun = &inBatch, &inTopic, o.dryRun
	fmt.Fprintf(cmd.ErrOrStderr(), "%d events are pending in the batch of %s, lanes %s, of %d pending in %s\n",
		inBatch, r.WorkflowID, relay.FormatLanes(batch.Lanes), inTopic, r.Topic)
	if o.dryRun {
		r.Outcome = "dry run"
		return nil
	}
	if !o.yes {
		err := confirm(cmd, fmt.Sprintf("give up on the %d events that are pending in that batch: send each to %s once more, and make those that it refuses dead letters?", inBatch, r.Topic))
		if err != nil {
			return err
		}
	}
	if err := o.ask(cmd, store, relay.RecoverPark, found, r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.wait)
	defer cancel()
	result, err := park(ctx, c, found.id, workflows.ParkRequest{By: o.by, Reason: o.reason, Operation: r.Operation})
	r.Published, r.Dead, r.Outcome = result.Published, result.Dead, result.Outcome()
	if err := o.answered(cmd.Context(), store, r, err); err != nil {
		return err
	}
	if _, inTopic, err = store.Waits(cmd.Context(), batch); err != nil {
		return fmt.Errorf("%s, but the number of remaining events is not known: %w", r.Outcome, err)
	}
	if r.Pending = &inTopic; inTopic > 0 {
		r.Outcome += fmt.Sprintf("; %d events of the topic are pending and tried next: if they are refused too, another recovery begins", inTopic)
	}
	return nil
}

// park has the recovery give up, and waits until it has, through all its runs.
func park(ctx context.Context, c client.Client, id string, p workflows.ParkRequest) (result workflows.ParkResult, err error) {
	for asked := false; ; asked = true {
		result = workflows.ParkResult{}
		update, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
			WorkflowID: id, UpdateName: workflows.UpdatePark, Args: []any{p}, WaitForStage: client.WorkflowUpdateStageCompleted,
		})
		if err == nil {
			err = update.Get(ctx, &result)
		}
		var notFound *serviceerror.NotFound
		var refused *temporal.ApplicationError
		switch {
		case err == nil && result.GoesOn:
			continue
		case err == nil:
			return result, nil
		case errors.As(err, &notFound) && asked: // between two questions
			return endOfRecovery(ctx, c, id)
		case errors.As(err, &notFound):
			return result, nothing("nothing to park: the recovery has ended meanwhile")
		case errors.As(err, &refused):
			return result, fmt.Errorf("park: %w", err)
		default:
			return result, &unanswered{fmt.Errorf("park: %w", err)}
		}
	}
}

// endOfRecovery reads how a recovery has ended that was parked.
func endOfRecovery(ctx context.Context, c client.Client, id string) (p workflows.ParkResult, err error) {
	var r workflows.RecoveryResult
	if err := c.GetWorkflow(ctx, id, "").Get(ctx, &r); err != nil {
		return p, &unanswered{fmt.Errorf("read how it ended: %w", err)}
	}
	p = workflows.ParkResult{Published: r.Published, Dead: r.Dead, State: workflows.StateParked}
	switch {
	case r.Lost:
		p.State = workflows.StateLost
	case r.Paused != "":
		p.State = workflows.StatePaused
	}
	return p, nil
}

// batchOf reads a recovery's batch from its input.
func batchOf(ctx context.Context, c client.Client, found recoveryFound) (relay.Batch, error) {
	var in workflows.RecoveryInput
	history := c.GetWorkflowHistory(ctx, found.id, found.runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !history.HasNext() { // Next would panic
		return relay.Batch{}, fmt.Errorf("read the input of %s: its history is empty", found.id)
	}
	first, err := history.Next()
	if err == nil {
		err = converter.GetDefaultDataConverter().FromPayloads(first.GetWorkflowExecutionStartedEventAttributes().GetInput(), &in)
	}
	if err != nil {
		return relay.Batch{}, fmt.Errorf("read the input of %s: %w", found.id, err)
	}
	return in.Batch, nil
}
