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
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/workflows"
)

func scheduleCommand() *cobra.Command {
	var taskQueue string
	var every time.Duration
	var in workflows.RelayInput
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Create or update the schedule that keeps the relay running",
		Long: `Creates the Temporal schedule that keeps one Relay workflow running, or brings it
to what is asked. A schedule that an operator has paused stays paused. Running
it again changes nothing.

The schedule is named like the task queue, and its runs <task queue>-<time>, so
that several outboxes can share a namespace: give each its own task queue.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Slots < 0 || in.Concurrency < 0 || in.Linger < 0 || in.RunFor < 0 || every < time.Second {
				return errors.New("--slots, --concurrency, --linger and --run-for cannot be negative, and --every is at least 1s")
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
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(result)
			}
			_, err = fmt.Fprintln(out, result)
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
	Action   string `json:"action"` // created, updated or unchanged
	Paused   bool   `json:"paused"`
	Note     string `json:"note,omitempty"` // of whoever paused it
}

func (r scheduleResult) String() string {
	text := fmt.Sprintf("schedule %s %s", r.Schedule, r.Action)
	if r.Paused {
		text += fmt.Sprintf("; it is paused (%s) and stays so: temporal schedule toggle --unpause --schedule-id %s", r.Note, r.Schedule)
	}
	return text
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

// same compares what relaySchedule sets.
func same(have *client.Schedule, want client.ScheduleOptions) bool {
	h, ok := have.Action.(*client.ScheduleWorkflowAction)
	w, asked := want.Action.(*client.ScheduleWorkflowAction)
	return ok && asked && reflect.DeepEqual(have.Spec.Intervals, want.Spec.Intervals) &&
		len(have.Spec.Calendars) == 0 && len(have.Spec.CronExpressions) == 0 &&
		have.Policy.Overlap == want.Overlap && have.Policy.CatchupWindow == want.CatchupWindow &&
		h.ID == w.ID && h.TaskQueue == w.TaskQueue && h.WorkflowRunTimeout == w.WorkflowRunTimeout &&
		h.StaticSummary == w.StaticSummary && h.Workflow == "Relay" && sameInput(h.Args, w.Args)
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
