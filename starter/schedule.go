package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/workflows"
)

func scheduleCommand() *cobra.Command {
	var taskQueue string
	var every, maintainEvery time.Duration
	var in workflows.RelayInput
	var upkeep workflows.MaintenanceInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Create or update the schedules that keep the relay running and look after its tables",
		Long: `Creates the Temporal schedule that keeps one Relay workflow running, and the one
that runs Maintenance, which makes partitions ahead and drops expired ones; or
brings them to what is asked. A schedule that an operator has paused stays paused.
Running it again changes nothing.

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
			result, err := ensureSchedule(cmd.Context(), c, relaySchedule(taskQueue, every, in))
			if err != nil {
				return fmt.Errorf("schedule %s: %w", taskQueue, err)
			}
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
		},
		// The first run begins now rather than at the next full interval.
		TriggerImmediately: true,
	}
}

// scheduleResult says what ensureSchedule did.
type scheduleResult struct {
	Schedule string `json:"schedule"`
	Action   string `json:"action"` // created, updated, unchanged, deleted or absent
	Paused   bool   `json:"paused"`
	Note     string `json:"note,omitempty"` // of whoever paused it
	// Maintenance is beside the relay's own.
	Maintenance *scheduleResult `json:"maintenance,omitempty"`
}

func (r scheduleResult) String() string {
	text := fmt.Sprintf("schedule %s %s", r.Schedule, r.Action)
	if r.Paused {
		text += fmt.Sprintf("; it is paused (%s) and stays so: temporal schedule toggle --unpause --schedule-id %s", r.Note, r.Schedule)
	}
	return text
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
		},
		TriggerImmediately: true,
	})
	return &result, err
}

// ensureSchedule creates a schedule or updates what differs, but for its state:
// a pause is the operator's.
func ensureSchedule(ctx context.Context, c client.Client, want client.ScheduleOptions) (scheduleResult, error) {
	result := scheduleResult{Schedule: want.ID, Action: "created"}
	_, err := c.ScheduleClient().Create(ctx, want)
	if err == nil {
		return result, nil
	}
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return result, fmt.Errorf("create: %w", err)
	}
	result.Action = "unchanged"
	err = c.ScheduleClient().GetHandle(ctx, want.ID).Update(ctx, client.ScheduleUpdateOptions{
		DoUpdate: func(in client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
			s := in.Description.Schedule
			result.Paused, result.Note = s.State.Paused, s.State.Note
			if same(&s, want) {
				return nil, temporal.ErrSkipScheduleUpdate
			}
			result.Action = "updated"
			s.Spec = &want.Spec
			s.Action = want.Action
			s.Policy.Overlap = want.Overlap
			s.Policy.CatchupWindow = want.CatchupWindow
			return &client.ScheduleUpdate{Schedule: &s}, nil
		},
	})
	if err != nil {
		return result, fmt.Errorf("update: %w", err)
	}
	return result, nil
}

// same compares what is set here. Which workflow a schedule runs follows from its
// name and its summary.
func same(have *client.Schedule, want client.ScheduleOptions) bool {
	h, ok := have.Action.(*client.ScheduleWorkflowAction)
	w, asked := want.Action.(*client.ScheduleWorkflowAction)
	return ok && asked && reflect.DeepEqual(have.Spec.Intervals, want.Spec.Intervals) &&
		len(have.Spec.Calendars) == 0 && len(have.Spec.CronExpressions) == 0 &&
		have.Policy.Overlap == want.Overlap && have.Policy.CatchupWindow == want.CatchupWindow &&
		h.ID == w.ID && h.TaskQueue == w.TaskQueue && h.WorkflowRunTimeout == w.WorkflowRunTimeout &&
		h.StaticSummary == w.StaticSummary && sameInput(h.Args, w.Args)
}

// sameInput compares arguments as the server has them.
func sameInput(have, want []any) bool {
	encoded, err := converter.GetDefaultDataConverter().ToPayloads(want...)
	if err != nil || len(have) != len(encoded.Payloads) {
		return false
	}
	for i, p := range encoded.Payloads {
		h, ok := have[i].(interface{ GetData() []byte })
		if !ok || string(h.GetData()) != string(p.GetData()) {
			return false
		}
	}
	return true
}

func dial(ctx context.Context) (client.Client, error) {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, fmt.Errorf("read Temporal's configuration: %w", err)
	}
	o.Logger = log.NewStructuredLogger(quiet)
	c, err := client.DialContext(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal at %q: %w: check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or temporal.toml", o.HostPort, err)
	}
	return c, nil
}
