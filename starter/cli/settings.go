package cli

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-outbox/relay/internal/liveness"
	"github.com/temporal-outbox/relay/workflows"
)

// planner says how a schedule should be, given how it is: nil if there is none.
type planner func(have *schedulepb.Schedule) (plan, error)

// plan is how a schedule should be.
type plan struct {
	schedule *schedulepb.Schedule // nil: there should be none
	changes  []change
	keepDays int // of Maintenance
	// unread says that the stored input could not be read, and that the flags give all of it.
	unread bool
}

// state adds to r how the schedule is run.
func (p plan) state(r scheduleResult) scheduleResult {
	r.KeepDays = p.keepDays
	if r.Off, _, _ = maintenanceOff(p.schedule.GetState()); !r.Off {
		r.Paused, r.Note = p.schedule.GetState().GetPaused(), p.schedule.GetState().GetNotes()
	}
	return r
}

// settings are the flags of "starter schedule". One that is not given leaves the stored value
// as it is; its value here is that of a new schedule.
type settings struct {
	given     func(flag string) bool
	taskQueue string

	every time.Duration
	relay workflows.RelayInput

	maintainEvery time.Duration // 0: off
	maintenance   workflows.MaintenanceInput

	// installed is true if the relay's schedule was there when the command began.
	installed bool
	// mayLower says that retention may be lowered from days: it was confirmed.
	mayLower func(days int) bool
}

// lowering is the error of a plan that lowers retention without a confirmation.
type lowering struct {
	schedule string
	from, to int // days; from is 0 if it is not known
}

func (l *lowering) Error() string {
	before := fmt.Sprintf("not %d as before", l.from)
	if l.from == 0 {
		before = "and the retention until now is not known"
	}
	return fmt.Sprintf("%s would drop the events of days that ended more than %d days ago, %s: set retention to %d days?", l.schedule, l.to, before, l.to)
}

func (s *settings) check() error {
	switch {
	case s.relay.Slots < 0 || s.relay.Concurrency < 0 || s.relay.Linger < 0 || s.relay.RunFor < 0 || s.every < time.Second:
		return misuse("--slots, --concurrency, --linger and --run-for cannot be negative, and --every must be at least 1s")
	case s.maintenance.KeepDays < 1 || s.maintenance.AheadDays < 1 || s.maintainEvery != 0 && s.maintainEvery < time.Second:
		return misuse("--keep-days and --ahead-days must be at least 1, and --maintain-every must be 0 or at least 1s")
	}
	return nil
}

// unreadable stands for a stored value that could not be read.
const unreadable = "unreadable"

// setting takes a flag's value over where it is given, and notes the change in p.
func setting[T comparable](s *settings, p *plan, flag string, stored *T, value T, text func(T) string) {
	if !s.given(flag) || !p.unread && *stored == value {
		return
	}
	old := unreadable
	if !p.unread {
		old = text(*stored)
	}
	p.changes = append(p.changes, change{Setting: flag, Old: old, New: text(value)})
	*stored = value
}

// anew has p overwrite an input that could not be read. This loses nothing if all its flags
// are given. Otherwise anew returns an error that names the missing flags.
func (s *settings) anew(p *plan, why error, flags ...string) error {
	missing := slices.DeleteFunc(flags, s.given)
	if len(missing) > 0 {
		return fmt.Errorf("%w: give --%s as well to overwrite them; the schedule keeps its pause, its note and its interval", why, strings.Join(missing, ", --"))
	}
	p.unread = true
	return nil
}

// orDefault writes a value of which the zero stands for a default.
func orDefault[T comparable](standard T) func(T) string {
	var zero T
	return func(v T) string {
		if v == zero {
			return fmt.Sprintf("default (%v)", standard)
		}
		return fmt.Sprint(v)
	}
}

// orLevel writes the most requests of a batch.
func orLevel(most int) string {
	if most == 0 {
		return "default (each destination finds its own level)"
	}
	return fmt.Sprint(most)
}

func plain[T any](v T) string { return fmt.Sprint(v) }

// relaySchedule is the planner of the relay's own schedule. attributes says whether recoveries
// are to set search attributes, given whether they do so far; nil without a schedule.
func (s *settings) relaySchedule(attributes func(stored *bool) (bool, error)) planner {
	d := definition{
		id: s.taskQueue, taskQueue: s.taskQueue, workflow: "Relay",
		overlap: enumspb.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE, timeout: workflows.RunTimeout, decision: workflows.TaskTimeout,
		summary: "publishes the outbox's pending events", details: workflows.RelayDescription,
	}
	return func(have *schedulepb.Schedule) (p plan, err error) {
		in, every := s.relay, s.every
		if have != nil {
			every = interval(have)
			setting(s, &p, "every", &every, s.every, everyText)
			if in, err = storedInput[workflows.RelayInput](have); err != nil {
				if err = s.anew(&p, err, "run-for", "slots", "concurrency", "linger", "search-attributes"); err != nil {
					return p, err
				}
			}
			setting(s, &p, "run-for", &in.RunFor, s.relay.RunFor, orDefault(workflows.RunFor))
			setting(s, &p, "slots", &in.Slots, s.relay.Slots, orDefault(workflows.DefaultSlots))
			setting(s, &p, "concurrency", &in.Concurrency, s.relay.Concurrency, orLevel)
			setting(s, &p, "linger", &in.Linger, s.relay.Linger, plain)
		}
		var stored *bool
		if have != nil && !p.unread {
			stored = new(in.SearchAttributes)
		}
		if in.SearchAttributes, err = attributes(stored); err != nil {
			return p, err
		}
		switch {
		case p.unread:
			p.changes = append(p.changes, change{"search-attributes", unreadable, plain(in.SearchAttributes)})
		case stored != nil && in.SearchAttributes != *stored:
			p.changes = append(p.changes, change{"search-attributes", plain(*stored), plain(in.SearchAttributes)})
		}
		err = apply(&p, d, have, every, in)
		return p, err
	}
}

func maintenanceID(taskQueue string) string { return taskQueue + "-maintenance" }

// maintenanceSchedule is the planner of the schedule of Maintenance. While maintenance is off,
// the schedule is there and paused, so that it keeps its settings.
func (s *settings) maintenanceSchedule(have *schedulepb.Schedule) (p plan, err error) {
	d := definition{
		id: maintenanceID(s.taskQueue), taskQueue: s.taskQueue, workflow: "Maintenance",
		overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, timeout: workflows.MaintenanceTimeout,
		summary: "looks after the outbox's partitions", details: workflows.MaintenanceDescription,
	}
	in, every := s.maintenance, s.maintainEvery
	before := 0
	switch {
	case have != nil:
		if every = interval(have); isOff(have) {
			every = 0
		}
		setting(s, &p, "maintain-every", &every, s.maintainEvery, everyText)
		if in, err = storedInput[workflows.MaintenanceInput](have); err != nil {
			if err = s.anew(&p, err, "keep-days", "ahead-days"); err != nil {
				return p, err
			}
			if !s.mayLower(0) {
				return p, &lowering{d.id, 0, s.maintenance.KeepDays}
			}
		} else {
			before = keepDays(in)
		}
		setting(s, &p, "keep-days", &in.KeepDays, s.maintenance.KeepDays, orDefault(workflows.DefaultKeepDays))
		setting(s, &p, "ahead-days", &in.AheadDays, s.maintenance.AheadDays, orDefault(workflows.DefaultAheadDays))
	case s.installed && !s.given("maintain-every"):
		// An earlier version deleted the schedule when maintenance was turned off.
		if s.given("keep-days") || s.given("ahead-days") {
			return p, misuse("there is no schedule %s, so maintenance is off: give --maintain-every as well to turn it on", d.id)
		}
		return p, nil
	case s.installed && !s.given("keep-days") && every != 0 && !s.mayLower(0):
		return p, &lowering{d.id, 0, keepDays(in)}
	}
	if keepDays(in) < before && !s.mayLower(before) {
		return p, &lowering{d.id, before, keepDays(in)}
	}
	off := s.given("maintain-every") && every == 0 || have != nil && isOff(have) && !s.given("maintain-every")
	stored := every
	if off {
		// The interval of the schedule stays. It has no effect while the schedule is paused.
		if stored = interval(have); stored == 0 {
			stored = workflows.MaintenanceEvery
		}
	}
	if err := apply(&p, d, have, stored, in); err != nil {
		return p, err
	}
	turn(p.schedule.State, off)
	p.keepDays = keepDays(in)
	return p, nil
}

func keepDays(in workflows.MaintenanceInput) int {
	if in.KeepDays <= 0 {
		return workflows.DefaultKeepDays
	}
	return in.KeepDays
}

// While maintenance is off, its schedule is paused with a note that begins with offNote. If an
// operator had paused it before, the rest is pausedNote and that operator's note. An empty
// specification would not do: Temporal deletes a schedule that has no next action after some
// days, unless it is paused.
const (
	offNote    = liveness.OffNote
	pausedNote = "; before that it was paused: "
)

// maintenanceOff reports whether a schedule's state says that maintenance is off, and whether
// it was paused before that, with which note.
func maintenanceOff(s *schedulepb.ScheduleState) (off, paused bool, note string) {
	rest, off := strings.CutPrefix(s.GetNotes(), offNote)
	if !off || !s.GetPaused() {
		return false, false, ""
	}
	note, paused = strings.CutPrefix(rest, pausedNote)
	return true, paused, note
}

func isOff(s *schedulepb.Schedule) bool {
	off, _, _ := maintenanceOff(s.GetState())
	return off
}

// turn turns maintenance off or on. A pause of an operator comes back when it is turned on.
func turn(s *schedulepb.ScheduleState, off bool) {
	is, paused, note := maintenanceOff(s)
	switch {
	case is == off:
	case is && paused:
		s.Notes = note
	case is:
		s.Paused, s.Notes = false, ""
	case s.GetPaused():
		s.Notes = offNote + pausedNote + s.GetNotes()
	default:
		s.Paused, s.Notes = true, offNote
	}
}

// definition is the part of a schedule that no flag sets.
type definition struct {
	id, taskQueue, workflow string
	overlap                 enumspb.ScheduleOverlapPolicy
	timeout                 time.Duration // of a run
	decision                time.Duration // of a workflow task; 0: Temporal's default
	summary, details        string
}

// apply gives p a copy of have, which may be nil, with a definition, an interval and an input.
// It does not change a value that is right already, in any form that the server keeps. Nor
// does it change fields that it does not own: above all, the state belongs to the operator.
func apply[T any](p *plan, d definition, have *schedulepb.Schedule, every time.Duration, input T) error {
	to := &schedulepb.Schedule{}
	if have != nil {
		to = proto.CloneOf(have)
	}
	if to.State == nil {
		to.State = &schedulepb.ScheduleState{}
	}
	if to.Policies == nil {
		to.Policies = &schedulepb.SchedulePolicies{}
	}
	to.Policies.OverlapPolicy = d.overlap
	setDuration(&to.Policies.CatchupWindow, workflows.CatchUp)
	if every != interval(have) {
		p.changes = append(p.changes, repeat(to, every)...)
	}
	start := to.GetAction().GetStartWorkflow()
	if start == nil {
		start = &workflowpb.NewWorkflowExecutionInfo{}
		to.Action = &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: start}}
	}
	start.WorkflowId = d.id
	if start.GetWorkflowType().GetName() != d.workflow {
		start.WorkflowType = &commonpb.WorkflowType{Name: d.workflow}
	}
	if start.GetTaskQueue().GetName() != d.taskQueue {
		start.TaskQueue = &taskqueuepb.TaskQueue{Name: d.taskQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL}
	}
	setDuration(&start.WorkflowRunTimeout, d.timeout)
	if d.decision > 0 {
		setDuration(&start.WorkflowTaskTimeout, d.decision)
	}
	if start.UserMetadata == nil {
		start.UserMetadata = &sdkpb.UserMetadata{}
	}
	for text, to := range map[string]**commonpb.Payload{d.summary: &start.UserMetadata.Summary, d.details: &start.UserMetadata.Details} {
		if err := setText(to, text); err != nil {
			return err
		}
	}
	// An input that means the same may have values that only a newer version knows.
	if stored, err := storedInput[T](have); have == nil || err != nil || !reflect.DeepEqual(stored, input) {
		if start.Input, err = converter.GetDefaultDataConverter().ToPayloads(input); err != nil {
			return fmt.Errorf("encode the input: %w", err)
		}
	}
	p.schedule = to
	return nil
}

// repeat gives a schedule an interval. Its jitter, time zone, begin and end stay, and so does
// its phase if it has no more than an interval already. Temporal refuses a phase that is not
// smaller than the interval: the remainder takes its place, and is the change that is returned.
func repeat(s *schedulepb.Schedule, every time.Duration) (changes []change) {
	var phase time.Duration
	if interval(s) > 0 {
		have := s.Spec.Interval[0].GetPhase().AsDuration()
		if phase = have % every; phase != have {
			changes = []change{{"phase", plain(have), plain(phase)}}
		}
	}
	if s.Spec == nil {
		s.Spec = &schedulepb.ScheduleSpec{}
	}
	to := &schedulepb.IntervalSpec{Interval: durationpb.New(every)}
	if phase > 0 {
		to.Phase = durationpb.New(phase)
	}
	s.Spec.Interval = []*schedulepb.IntervalSpec{to}
	s.Spec.Calendar, s.Spec.CronString, s.Spec.StructuredCalendar = nil, nil, nil
	return changes
}

// storedInput is what a schedule gives its workflow.
func storedInput[T any](s *schedulepb.Schedule) (in T, err error) {
	payloads := s.GetAction().GetStartWorkflow().GetInput().GetPayloads()
	if len(payloads) == 0 {
		return in, nil
	}
	if err := converter.GetDefaultDataConverter().FromPayload(payloads[0], &in); err != nil {
		return in, fmt.Errorf("read the stored settings: %w", err)
	}
	return in, nil
}

// ownSpecification is the interval of a schedule that has another specification than one
// interval. Only an operator makes such a schedule.
const ownSpecification time.Duration = -1

// interval is how often a schedule starts its workflow, 0 without a schedule.
func interval(s *schedulepb.Schedule) time.Duration {
	spec := s.GetSpec()
	others := len(spec.GetCalendar()) + len(spec.GetCronString()) + len(spec.GetStructuredCalendar())
	switch {
	case s == nil:
		return 0
	case len(spec.GetInterval()) != 1 || others > 0:
		return ownSpecification
	}
	return spec.GetInterval()[0].GetInterval().AsDuration()
}

func everyText(d time.Duration) string {
	switch d {
	case 0:
		return "0 (off)"
	case ownSpecification:
		return "a specification of its own"
	}
	return d.String()
}

func setDuration(to **durationpb.Duration, d time.Duration) {
	if (*to).AsDuration() != d {
		*to = durationpb.New(d)
	}
}

func setText(to **commonpb.Payload, text string) error {
	var have string
	if *to != nil && converter.GetDefaultDataConverter().FromPayload(*to, &have) == nil && have == text {
		return nil
	}
	p, err := converter.GetDefaultDataConverter().ToPayload(text)
	if err != nil {
		return fmt.Errorf("encode a description: %w", err)
	}
	*to = p
	return nil
}
