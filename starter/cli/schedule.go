package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/workflows"
)

func scheduleCommand() *cobra.Command {
	var taskQueue string
	var every, maintainEvery time.Duration
	var in workflows.RelayInput
	var upkeep workflows.MaintenanceInput
	var attributes, asJSON bool
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Create or update the schedules that keep the relay running and look after its tables",
		Long: `Creates or updates two Temporal schedules. One keeps one Relay workflow running. The
other runs Maintenance, which makes partitions ahead and drops expired ones. A
schedule that an operator has paused stays paused. Running it again with the same
flags changes nothing. A flag that you leave out gets its default: after an upgrade,
give the flags that you gave before, --keep-days above all.

It registers search attributes that recoveries set, so that everything in recovery
is one query: OutboxState = "recovering". Where that is refused, as by Temporal
Cloud, it warns, and everything else works without them.

The first is named like the task queue, and its runs <task queue>-<time>, so that
several outboxes can share a namespace: give each its own task queue. The second
has "-maintenance" behind that name.`,
		Example: `  starter schedule
  starter schedule --keep-days 30          # events stay for a month
  starter schedule --maintain-every 0      # partitions are looked after elsewhere`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Slots < 0 || in.Concurrency < 0 || in.Linger < 0 || in.RunFor < 0 || every < time.Second {
				return misuse("--slots, --concurrency, --linger and --run-for cannot be negative, and --every is at least 1s")
			}
			if upkeep.KeepDays < 1 || upkeep.AheadDays < 1 || maintainEvery != 0 && maintainEvery < time.Second {
				return misuse("--keep-days and --ahead-days are at least 1, and --maintain-every is 0 or at least 1s")
			}
			c, err := dial(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if attributes {
				if in.SearchAttributes, err = withSearchAttributes(cmd, c); err != nil {
					return err
				}
			}
			result, err := ensureSchedule(cmd.Context(), c, relaySchedule(taskQueue, every, in))
			if err != nil {
				return fmt.Errorf("schedule %s: %w", taskQueue, err)
			}
			result.SearchAttributes = &in.SearchAttributes
			result.Maintenance, err = ensureMaintenance(cmd.Context(), c, taskQueue, maintainEvery, upkeep)
			if err != nil {
				return fmt.Errorf("schedule %s: %w", maintenanceID(taskQueue), err)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(result)
			}
			_, err = fmt.Fprintf(out, "%s\n%s\n", result, result.Maintenance)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&taskQueue, "task-queue", cmp.Or(os.Getenv("OUTBOX_TASK_QUEUE"), workflows.DefaultTaskQueue), "task queue of the workers, from OUTBOX_TASK_QUEUE")
	f.DurationVar(&every, "every", workflows.ScheduleEvery, "how often a run is started; runs follow each other without a gap if it is shorter than --run-for")
	f.DurationVar(&in.RunFor, "run-for", 0, "how long a run claims (default "+workflows.RunFor.String()+")")
	f.IntVar(&in.Slots, "slots", 0, fmt.Sprintf("batches in flight at most; a topic gets a quarter (default %d)", workflows.DefaultSlots))
	f.IntVar(&in.Concurrency, "concurrency", 0, fmt.Sprintf("requests that a batch has under way at most (default %d)", workflows.DefaultConcurrency))
	f.DurationVar(&in.Linger, "linger", 0, "how long events may wait for a page to fill: fewer activities and requests for more latency (default 0)")
	f.DurationVar(&maintainEvery, "maintain-every", workflows.MaintenanceEvery, "how often Maintenance runs; 0: not at all")
	f.IntVar(&upkeep.KeepDays, "keep-days", workflows.DefaultKeepDays, "for how many days after its own a day's events are kept; longer while any is pending or dead")
	f.IntVar(&upkeep.AheadDays, "ahead-days", workflows.DefaultAheadDays, "for how many days after today partitions are made")
	f.BoolVar(&attributes, "search-attributes", true, "register "+strings.Join(workflows.Attributes(), ", ")+", and have recoveries set them")
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func relaySchedule(taskQueue string, every time.Duration, in workflows.RelayInput) client.ScheduleOptions {
	return client.ScheduleOptions{
		ID:            taskQueue,
		Spec:          client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: every}}},
		Overlap:       enumspb.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE,
		CatchupWindow: workflows.CatchUp,
		Action: &client.ScheduleWorkflowAction{
			ID:                 taskQueue,
			Workflow:           workflows.Relay,
			Args:               []any{in},
			TaskQueue:          taskQueue,
			WorkflowRunTimeout: workflows.RunTimeout,
			StaticSummary:      "publishes the outbox's pending events",
			StaticDetails:      workflows.RelayDetails,
		},
		// The first run begins now rather than at the next full interval.
		TriggerImmediately: true,
	}
}

func maintenanceID(taskQueue string) string { return taskQueue + "-maintenance" }

// ensureMaintenance creates, updates or deletes the schedule of Maintenance.
func ensureMaintenance(ctx context.Context, c client.Client, taskQueue string, every time.Duration, in workflows.MaintenanceInput) (*scheduleResult, error) {
	id := maintenanceID(taskQueue)
	if every == 0 {
		err := c.ScheduleClient().GetHandle(ctx, id).Delete(ctx)
		var absent *serviceerror.NotFound
		switch {
		case errors.As(err, &absent):
			return &scheduleResult{Schedule: id, Action: "absent"}, nil
		case err != nil:
			return nil, fmt.Errorf("delete: %w", err)
		}
		return &scheduleResult{Schedule: id, Action: "deleted"}, nil
	}
	result, err := ensureSchedule(ctx, c, client.ScheduleOptions{
		ID:            id,
		Spec:          client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: every}}},
		Overlap:       enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		CatchupWindow: workflows.CatchUp,
		Action: &client.ScheduleWorkflowAction{
			ID:                 id,
			Workflow:           workflows.Maintenance,
			Args:               []any{in},
			TaskQueue:          taskQueue,
			WorkflowRunTimeout: workflows.MaintenanceTimeout,
			StaticSummary:      "looks after the outbox's partitions",
			StaticDetails:      workflows.MaintenanceDetails,
		},
		TriggerImmediately: true,
	})
	return &result, err
}
