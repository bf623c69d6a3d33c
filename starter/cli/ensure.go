package cli

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
)

// scheduleResult says what ensureSchedule did.
type scheduleResult struct {
	Schedule string `json:"schedule"`
	Action   string `json:"action"` // created, updated, unchanged, deleted or absent
	Paused   bool   `json:"paused"`
	Note     string `json:"note,omitempty"` // of whoever paused it
	// SearchAttributes says whether recoveries set them.
	SearchAttributes *bool `json:"searchAttributes,omitempty"`
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
		h.StaticSummary == w.StaticSummary && h.StaticDetails == w.StaticDetails && sameInput(h.Args, w.Args)
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
