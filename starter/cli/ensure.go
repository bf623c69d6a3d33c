package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-outbox/relay/internal/program"
)

// scheduleResult is the result for one schedule.
type scheduleResult struct {
	Schedule string   `json:"schedule"`
	Action   string   `json:"action"`            // created, updated, unchanged or absent
	Changes  []change `json:"changes,omitempty"` // of a schedule that was there before
	Paused   bool     `json:"paused"`            // by an operator
	Note     string   `json:"note,omitempty"`    // of the operator who paused it
	// Off says that maintenance is off: --maintain-every 0.
	Off bool `json:"off,omitempty"`
	// KeepDays is how long Maintenance keeps a day's events, also while it is off.
	KeepDays int `json:"keepDays,omitempty"`
	// SearchAttributes says whether recoveries set them.
	SearchAttributes *bool `json:"searchAttributes,omitempty"`
	// Maintenance is beside the relay's own.
	Maintenance *scheduleResult `json:"maintenance,omitempty"`
}

// change is a setting that gets another value.
type change struct {
	Setting string `json:"setting"` // the name of its flag, or phase
	Old     string `json:"old"`
	New     string `json:"new"`
}

func (r scheduleResult) String() string {
	text := fmt.Sprintf("schedule %s %s", r.Schedule, r.Action)
	switch {
	case r.Action == "absent":
		text += "; this command does not create it, because an earlier version deleted it for --maintain-every 0: no partitions are made, and no events are dropped. " +
			"To turn maintenance on, say for how many days events are kept: " +
			program.Starter("schedule --maintain-every 1h --keep-days DAYS")
	case r.Off:
		text += fmt.Sprintf("; maintenance is off: no partitions are made, and no events are dropped. "+
			"%s turns it on, with retention of %d days", program.Starter("schedule --maintain-every 1h"), r.KeepDays)
	case r.Paused:
		text += fmt.Sprintf("; it is paused (%s) and stays so: temporal schedule toggle --unpause --schedule-id %s", r.Note, r.Schedule)
	}
	var changes strings.Builder
	for _, c := range r.Changes {
		fmt.Fprintf(&changes, "\n  %s: %s → %s", c.Setting, c.Old, c.New)
	}
	return text + changes.String()
}

// schedules reads and writes the schedules of a namespace. The SDK's Update overwrites
// changes that were made after it read the schedule. So schedules calls the server directly,
// with its conflict tokens.
type schedules struct {
	service   workflowservice.WorkflowServiceClient
	namespace string
}

const (
	// scheduleCall bounds each call, with its repetitions.
	scheduleCall = 10 * time.Second
	// conflictsMost is how often a schedule may be changed by others in between.
	conflictsMost = 20
	// appliedWithin is how long an update may take until it is seen.
	appliedWithin = 5 * time.Second
)

// calling repeats a call that the server had no room or no time for, as the SDK's own do.
func calling(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, scheduleCall)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := call(ctx)
		_, unavailable := errors.AsType[*serviceerror.Unavailable](err)
		_, exhausted := errors.AsType[*serviceerror.ResourceExhausted](err)
		if !unavailable && !exhausted {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// describe returns nil if there is no such schedule.
func (s schedules) describe(ctx context.Context, id string) (*schedulepb.Schedule, []byte, error) {
	var d *workflowservice.DescribeScheduleResponse
	err := calling(ctx, func(ctx context.Context) (err error) {
		d, err = s.service.DescribeSchedule(ctx, &workflowservice.DescribeScheduleRequest{Namespace: s.namespace, ScheduleId: id})
		return err
	})
	if _, notFound := errors.AsType[*serviceerror.NotFound](err); notFound {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("describe: %w", err)
	}
	return d.GetSchedule(), d.GetConflictToken(), nil
}

// ensure makes a schedule as plan wants it. plan gets the schedule as it is, or nil, and is
// asked again if others change the schedule meanwhile, so that none of their changes is lost.
func (s schedules) ensure(ctx context.Context, id string, plan planner) (scheduleResult, error) {
	result := scheduleResult{Schedule: id, Action: "unchanged"}
	for range conflictsMost {
		have, token, err := s.describe(ctx, id)
		if err != nil {
			return result, err
		}
		p, err := plan(have)
		switch {
		case err != nil:
			return result, err
		case p.schedule == nil:
			result.Action = "absent"
			return result, nil
		case have == nil:
			made, err := s.create(ctx, id, p)
			if err != nil {
				return result, err
			}
			if made {
				result.Action = "created"
				return p.state(result), nil
			}
		case proto.Equal(have, p.schedule):
			return p.state(result), nil
		default:
			if err := s.update(ctx, id, p.schedule, token); err != nil {
				return result, err
			}
			result.Action, result.Changes = "updated", p.changes
		}
	}
	return result, errors.New("another program keeps changing the schedule: run this again later")
}

// create returns false if another program has created the schedule meanwhile.
func (s schedules) create(ctx context.Context, id string, p plan) (made bool, err error) {
	r := &workflowservice.CreateScheduleRequest{Namespace: s.namespace, ScheduleId: id, Schedule: p.schedule, RequestId: uuid.NewString()}
	if !p.schedule.GetState().GetPaused() {
		// The first run begins now rather than at the next full interval.
		r.InitialPatch = &schedulepb.SchedulePatch{
			TriggerImmediately: &schedulepb.TriggerImmediatelyRequest{OverlapPolicy: p.schedule.GetPolicies().GetOverlapPolicy()},
		}
	}
	err = calling(ctx, func(ctx context.Context) error {
		_, err := s.service.CreateSchedule(ctx, r)
		return err
	})
	_, started := errors.AsType[*serviceerror.WorkflowExecutionAlreadyStarted](err)
	_, exists := errors.AsType[*serviceerror.AlreadyExists](err)
	if started || exists {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create: %w", err)
	}
	return true, nil
}

// update returns when the server has applied the update, or refused it because the schedule
// was changed since token. It does not say which.
func (s schedules) update(ctx context.Context, id string, to *schedulepb.Schedule, token []byte) error {
	r := &workflowservice.UpdateScheduleRequest{
		Namespace: s.namespace, ScheduleId: id, Schedule: to, ConflictToken: token, RequestId: uuid.NewString(),
	}
	err := calling(ctx, func(ctx context.Context) error {
		_, err := s.service.UpdateSchedule(ctx, r)
		return err
	})
	if _, conflict := errors.AsType[*serviceerror.FailedPrecondition](err); conflict {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	for until := time.Now().Add(appliedWithin); ; {
		_, now, err := s.describe(ctx, id)
		if err != nil {
			return err
		}
		if string(now) != string(token) || time.Now().After(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
