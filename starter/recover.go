package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

func recoverCommand() *cobra.Command {
	var w who
	var now, park, yes, asJSON bool
	var wait time.Duration
	var taskQueue string
	cmd := &cobra.Command{
		Use:   "recover TOPIC --now|--park",
		Short: "Have a broken topic tried at once, or give up what fails in it",
		Long: `A topic whose destination is broken has a recovery: a workflow that tries it again, at
most a minute apart. --now has it try at once, as after a repair. --park gives up
what its destination refuses: those events become dead letters, to be redriven later,
and the topic goes on.`,
		Example: `  starter recover billing --now --reason "policy repaired"
  starter recover billing --park --reason "their bug, redrive tomorrow"`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: topicArgument,
		RunE: func(cmd *cobra.Command, args []string) error {
			if now == park {
				return misuse("say what to do: --now or --park")
			}
			if err := w.check(); err != nil {
				return err
			}
			store, err := openStore(cmd.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			if err := store.Known(cmd.Context(), args[0]); err != nil {
				return badTopic(err)
			}
			c, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			id, runID, activity, err := recovery(cmd.Context(), c, taskQueue, args[0])
			if err != nil {
				return err
			}
			if park && !yes {
				if err := confirm(cmd, "make dead letters of what "+args[0]+" cannot deliver?"); err != nil {
					return err
				}
			}
			// Before it is done: the answer may be late, and who asked is to be known.
			record := relay.Operation{Kind: "recover", Topic: args[0], By: w.by, Reason: w.reason, WorkflowID: id}
			if err := store.Record(cmd.Context(), record); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			r := recovered{Topic: args[0], WorkflowID: id, Outcome: "tries now"}
			if park {
				err = r.park(ctx, c, workflows.ParkRequest{By: w.by, Reason: w.reason})
			} else {
				err = tryNow(ctx, c, id, runID, activity)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", r.Topic, r.Outcome)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&now, "now", false, "try again at once")
	f.BoolVar(&park, "park", false, "make dead letters of what is refused, and go on")
	f.BoolVar(&yes, "yes", false, "do not ask before --park")
	f.DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the workflow's answer")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	f.StringVar(&taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
	w.flags(cmd)
	return cmd
}

// recovered says what was done.
type recovered struct {
	Topic      string `json:"topic"`
	WorkflowID string `json:"workflowId"`
	Outcome    string `json:"outcome"`
	Published  int    `json:"published,omitempty"`
	Dead       int    `json:"dead,omitempty"`
}

// recovery finds a topic's recovery, and the activity that it waits for.
func recovery(ctx context.Context, c client.Client, taskQueue, topic string) (id, runID, activity string, err error) {
	id = workflows.RecoveryID(taskQueue, topic)
	d, err := c.DescribeWorkflowExecution(ctx, id, "")
	var absent *serviceerror.NotFound
	switch {
	case errors.As(err, &absent), err == nil && d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return "", "", "", nothing("%s has no recovery under way: nothing says that its destination is broken", topic)
	case err != nil:
		return "", "", "", fmt.Errorf("look for the recovery of %s: %w", topic, err)
	}
	for _, a := range d.PendingActivities {
		activity = a.ActivityId
	}
	return id, d.WorkflowExecutionInfo.Execution.RunId, activity, nil
}

// tryNow ends the backoff of the recovery's activity. (Servers before 1.32 know this
// call only, later ones know it still.)
func tryNow(ctx context.Context, c client.Client, id, runID, activity string) error {
	if activity == "" {
		return errors.New("it is not waiting for an attempt: look again in a moment")
	}
	_, err := c.WorkflowService().ResetActivity(ctx, &workflowservice.ResetActivityRequest{
		Namespace: namespace(), Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: runID}, Identity: whoAmI(),
		Activity: &workflowservice.ResetActivityRequest_Id{Id: activity},
	})
	if err != nil {
		return fmt.Errorf("reset its activity: %w", err)
	}
	return nil
}

// park has the recovery give up, and waits until it has.
func (r *recovered) park(ctx context.Context, c client.Client, p workflows.ParkRequest) error {
	update, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: r.WorkflowID, UpdateName: workflows.UpdatePark, Args: []any{p}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	var result workflows.ParkResult
	if err == nil {
		err = update.Get(ctx, &result)
	}
	var absent *serviceerror.NotFound
	switch {
	case errors.As(err, &absent):
		return nothing("it has ended meanwhile")
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("park: no answer yet, and it may still happen: %w", err)
	case err != nil:
		return fmt.Errorf("park: %w", err)
	}
	r.Published, r.Dead = result.Published, result.Dead
	r.Outcome = fmt.Sprintf("goes on: %d published, %d dead letters", r.Published, r.Dead)
	return nil
}
