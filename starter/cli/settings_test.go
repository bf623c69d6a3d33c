package cli

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/temporal-outbox/relay/workflows"
)

// with are the settings of a command that was given these flags, with other values than
// stored has.
func with(flags ...string) *settings {
	return &settings{
		given: func(flag string) bool { return slices.Contains(flags, flag) }, taskQueue: "q", installed: true,
		every:         11 * time.Second,
		relay:         workflows.RelayInput{RunFor: 12 * time.Second, Slots: 13, Concurrency: 14, Linger: 15 * time.Second},
		maintainEvery: 16 * time.Minute, maintenance: workflows.MaintenanceInput{KeepDays: 90, AheadDays: 17},
		mayLower: func(int) bool { return false },
	}
}

// asStored says what the schedule says of search attributes.
func asStored(stored *bool) (bool, error) { return stored == nil || *stored, nil }

// new schedules, as a command with these settings makes them.
func (s *settings) made(t *testing.T) (relay, maintenance *schedulepb.Schedule) {
	t.Helper()
	s.installed = false
	r, err := s.relaySchedule(asStored)(nil)
	require.NoError(t, err)
	m, err := s.maintenanceSchedule(nil)
	require.NoError(t, err)
	return r.schedule, m.schedule
}

// storedOnes are schedules with settings that are neither a default nor those of with.
func storedOnes(t *testing.T) (relay, maintenance *schedulepb.Schedule) {
	t.Helper()
	s := with()
	s.every, s.maintainEvery = 3*time.Second, 2*time.Hour
	s.relay = workflows.RelayInput{RunFor: 5 * time.Second, Slots: 7, Concurrency: 2, Linger: time.Second}
	s.maintenance = workflows.MaintenanceInput{KeepDays: 60, AheadDays: 30}
	return s.made(t)
}

func TestSchedule_ASettingStaysAsItIsStoredUnlessItsFlagIsGiven(t *testing.T) {
	relay, maintenance := storedOnes(t)
	for flag, want := range map[string]change{
		"":               {},
		"every":          {"every", "3s", "11s"},
		"run-for":        {"run-for", "5s", "12s"},
		"slots":          {"slots", "7", "13"},
		"concurrency":    {"concurrency", "2", "14"},
		"linger":         {"linger", "1s", "15s"},
		"maintain-every": {"maintain-every", "2h0m0s", "16m0s"},
		"keep-days":      {"keep-days", "60", "90"},
		"ahead-days":     {"ahead-days", "30", "17"},
	} {
		t.Run(flag, func(t *testing.T) {
			s := with(flag)
			r, err := s.relaySchedule(asStored)(relay)
			require.NoError(t, err)
			m, err := s.maintenanceSchedule(maintenance)
			require.NoError(t, err)
			changes := slices.Concat(r.changes, m.changes)
			if flag == "" {
				require.Empty(t, changes)
			} else {
				require.Equal(t, []change{want}, changes)
			}
			require.Equal(t, len(r.changes) == 0, proto.Equal(relay, r.schedule))
			require.Equal(t, len(m.changes) == 0, proto.Equal(maintenance, m.schedule))

			// Once it is stored, it stays.
			r, err = with().relaySchedule(asStored)(r.schedule)
			require.NoError(t, err)
			m, err = with().maintenanceSchedule(m.schedule)
			require.NoError(t, err)
			require.Empty(t, slices.Concat(r.changes, m.changes))
		})
	}
}

func TestSchedule_SearchAttributesAreTurnedOffByTheirFlagOnly(t *testing.T) {
	relay, _ := storedOnes(t)
	off := func(*bool) (bool, error) { return false, nil }
	r, err := with().relaySchedule(off)(relay)
	require.NoError(t, err)
	require.Equal(t, []change{{"search-attributes", "true", "false"}}, r.changes)
	again, err := with().relaySchedule(asStored)(r.schedule)
	require.NoError(t, err)
	require.True(t, proto.Equal(r.schedule, again.schedule), "false stays false")
	again, err = with().relaySchedule(func(*bool) (bool, error) { return true, nil })(r.schedule)
	require.NoError(t, err)
	require.Equal(t, []change{{"search-attributes", "false", "true"}}, again.changes)
}

func TestSchedule_AStoredDefaultStaysADefault(t *testing.T) {
	s := with()
	s.relay, s.maintenance = workflows.RelayInput{}, workflows.MaintenanceInput{}
	relay, maintenance := s.made(t)
	r, err := with().relaySchedule(asStored)(relay)
	require.NoError(t, err)
	require.True(t, proto.Equal(relay, r.schedule))
	m, err := with().maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.True(t, proto.Equal(maintenance, m.schedule))
	r, err = with("slots", "run-for").relaySchedule(asStored)(relay)
	require.NoError(t, err)
	require.Equal(t, []change{{"run-for", "default (2m0s)", "12s"}, {"slots", "default (16)", "13"}}, r.changes)
}

func TestSchedule_MaintenanceThatIsOffStaysOffAndKeepsItsDays(t *testing.T) {
	_, maintenance := storedOnes(t)
	off := with("maintain-every")
	off.maintainEvery = 0
	p, err := off.maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.Equal(t, []change{{"maintain-every", "2h0m0s", "0 (off)"}}, p.changes)
	require.True(t, p.schedule.State.Paused)
	require.True(t, isOff(p.schedule))
	for range 2 {
		again, err := with().maintenanceSchedule(p.schedule)
		require.NoError(t, err)
		require.True(t, proto.Equal(p.schedule, again.schedule))
		require.Equal(t, 60, again.keepDays)
		require.True(t, again.state(scheduleResult{}).Off)
		require.False(t, again.state(scheduleResult{}).Paused, "no operator has paused it")
	}

	// Its days change while it is off, and it stays off.
	p, err = with("keep-days").maintenanceSchedule(p.schedule)
	require.NoError(t, err)
	require.True(t, isOff(p.schedule))
	require.Equal(t, []change{{"keep-days", "60", "90"}}, p.changes)

	p, err = with("maintain-every").maintenanceSchedule(p.schedule)
	require.NoError(t, err)
	require.Equal(t, []change{{"maintain-every", "0 (off)", "16m0s"}}, p.changes)
	require.False(t, p.schedule.State.Paused)
	require.Empty(t, p.schedule.State.Notes)
	require.Equal(t, 90, p.keepDays)
}

func TestSchedule_MaintenanceThatIsNewAndOffIsRemembered(t *testing.T) {
	s := with("maintain-every", "keep-days")
	s.maintainEvery = 0
	_, maintenance := s.made(t)
	require.True(t, isOff(maintenance))
	require.Equal(t, workflows.MaintenanceEvery, interval(maintenance))
	p, err := with().maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.True(t, proto.Equal(maintenance, p.schedule))
	require.Equal(t, 90, p.keepDays)
}

func TestSchedule_AnOperatorsPauseIsNotTakenForMaintenanceThatIsOff(t *testing.T) {
	_, maintenance := storedOnes(t)
	maintenance.State = &schedulepb.ScheduleState{Paused: true, Notes: "ada: the disk is full"}
	p, err := with().maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.True(t, proto.Equal(maintenance, p.schedule))
	r := p.state(scheduleResult{})
	require.True(t, r.Paused && !r.Off)

	off := with("maintain-every")
	off.maintainEvery = 0
	p, err = off.maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.True(t, isOff(p.schedule))
	require.Contains(t, p.schedule.State.Notes, "ada: the disk is full")
	p, err = with("maintain-every").maintenanceSchedule(p.schedule)
	require.NoError(t, err)
	require.True(t, proto.Equal(maintenance.State, p.schedule.State), "the pause is back")

	// An operator who unpauses the schedule in Temporal's UI turns maintenance on.
	p, err = off.maintenanceSchedule(maintenance)
	require.NoError(t, err)
	p.schedule.State = &schedulepb.ScheduleState{Notes: "unpaused by ada"}
	p, err = with().maintenanceSchedule(p.schedule)
	require.NoError(t, err)
	require.False(t, isOff(p.schedule))
	require.Equal(t, 2*time.Hour, interval(p.schedule))
}

// A version before deleted the schedule when maintenance was turned off.
func TestSchedule_MaintenanceThatIsAbsentDoesNotComeBackByItself(t *testing.T) {
	p, err := with().maintenanceSchedule(nil)
	require.NoError(t, err)
	require.Nil(t, p.schedule)
	_, err = with("keep-days").maintenanceSchedule(nil)
	require.Equal(t, exitUsage, exitStatus(err))
	require.ErrorContains(t, err, "--maintain-every")

	_, err = with("maintain-every").maintenanceSchedule(nil)
	var lower *lowering
	require.ErrorAs(t, err, &lower, "nobody has said for how many days events are kept")
	p, err = with("maintain-every", "keep-days").maintenanceSchedule(nil)
	require.NoError(t, err)
	require.Equal(t, 90, p.keepDays)

	s := with()
	s.installed = false
	p, err = s.maintenanceSchedule(nil)
	require.NoError(t, err)
	require.NotNil(t, p.schedule, "a new outbox gets one")
}

func TestSchedule_RetentionIsLoweredOnlyIfThatIsConfirmed(t *testing.T) {
	_, maintenance := storedOnes(t)
	off := with("maintain-every")
	off.maintainEvery = 0
	turnedOff, err := off.maintenanceSchedule(maintenance)
	require.NoError(t, err)
	for name, have := range map[string]*schedulepb.Schedule{"on": maintenance, "off": turnedOff.schedule} {
		for _, flags := range [][]string{{"keep-days"}, {"keep-days", "maintain-every"}} {
			s := with(flags...)
			s.maintenance.KeepDays = 59
			_, err := s.maintenanceSchedule(have)
			var lower *lowering
			require.ErrorAs(t, err, &lower, name)
			require.Equal(t, lowering{"q-maintenance", 60, 59}, *lower)
			s.mayLower = func(days int) bool { return days == 60 }
			p, err := s.maintenanceSchedule(have)
			require.NoError(t, err)
			require.Equal(t, 59, p.keepDays)
		}
	}
	// A stored default is a number of days, too.
	s := with()
	s.maintenance = workflows.MaintenanceInput{}
	_, maintenance = s.made(t)
	s = with("keep-days")
	s.maintenance.KeepDays = workflows.DefaultKeepDays - 1
	_, err = s.maintenanceSchedule(maintenance)
	require.ErrorContains(t, err, "not 7 as before")
}

func TestSchedule_WhatNoFlagSetsStays(t *testing.T) {
	relay, _ := storedOnes(t)
	relay.Action.GetStartWorkflow().Input.Payloads[0].Data = []byte(`{"slots":7,"ofANewerVersion":{"x":1}}`)
	relay.Spec = &schedulepb.ScheduleSpec{Interval: []*schedulepb.IntervalSpec{
		{Interval: durationpb.New(time.Minute), Phase: durationpb.New(time.Second)}, {Interval: durationpb.New(time.Hour)},
	}}
	relay.State.Notes = "resumed by ada"
	p, err := with().relaySchedule(asStored)(relay)
	require.NoError(t, err)
	require.True(t, proto.Equal(relay, p.schedule))
	p, err = with("every").relaySchedule(asStored)(relay)
	require.NoError(t, err)
	require.Equal(t, []change{{"every", "a specification of its own", "11s"}}, p.changes)

	// An upgrade may change what no flag sets.
	relay.Action.GetStartWorkflow().WorkflowRunTimeout = durationpb.New(time.Hour)
	relay.Action.GetStartWorkflow().WorkflowTaskTimeout = nil // as versions before stored it
	p, err = with().relaySchedule(asStored)(relay)
	require.NoError(t, err)
	require.Empty(t, p.changes)
	require.Equal(t, workflows.RunTimeout, p.schedule.Action.GetStartWorkflow().WorkflowRunTimeout.AsDuration())
	require.Equal(t, workflows.TaskTimeout, p.schedule.Action.GetStartWorkflow().WorkflowTaskTimeout.AsDuration())
}

// encrypted are schedules with inputs that nobody can read, as of another data converter, which
// an operator has paused.
func encrypted(t *testing.T) (relay, maintenance *schedulepb.Schedule) {
	t.Helper()
	relay, maintenance = storedOnes(t)
	for _, s := range []*schedulepb.Schedule{relay, maintenance} {
		secret, err := converter.GetDefaultDataConverter().ToPayload([]byte("nobody can read this"))
		require.NoError(t, err)
		s.Action.GetStartWorkflow().Input.Payloads[0] = secret
		s.State = &schedulepb.ScheduleState{Paused: true, Notes: "ada: the disk is full"}
	}
	return relay, maintenance
}

func TestSchedule_SettingsThatCannotBeReadNameTheFlagsThatStoreThemAnew(t *testing.T) {
	relay, maintenance := encrypted(t)
	_, err := with("every").relaySchedule(asStored)(relay)
	require.ErrorContains(t, err, "read the stored settings")
	require.ErrorContains(t, err, "give --run-for, --slots, --concurrency, --linger, --search-attributes as well")
	require.NotContains(t, err.Error(), "delete", "that loses the pause and its note")
	_, err = with("slots", "linger", "run-for").relaySchedule(asStored)(relay)
	require.ErrorContains(t, err, "give --concurrency, --search-attributes as well")
	_, err = with("keep-days").maintenanceSchedule(maintenance)
	require.ErrorContains(t, err, "give --ahead-days as well")
	require.NotContains(t, err.Error(), "delete")
}

func TestSchedule_SettingsThatCannotBeReadAreStoredAnewByAllTheirFlags(t *testing.T) {
	relay, maintenance := encrypted(t)
	p, err := with("run-for", "slots", "concurrency", "linger", "search-attributes").relaySchedule(asStored)(relay)
	require.NoError(t, err)
	require.True(t, proto.Equal(relay.State, p.schedule.State))
	require.True(t, proto.Equal(relay.Spec, p.schedule.Spec))
	require.Equal(t, []change{
		{"run-for", "unreadable", "12s"},
		{"slots", "unreadable", "13"},
		{"concurrency", "unreadable", "14"},
		{"linger", "unreadable", "15s"},
		{"search-attributes", "unreadable", "true"},
	}, p.changes)
	in, err := storedInput[workflows.RelayInput](p.schedule)
	require.NoError(t, err)
	require.Equal(t, workflows.RelayInput{RunFor: 12 * time.Second, Slots: 13, Concurrency: 14, Linger: 15 * time.Second, SearchAttributes: true}, in)

	s := with("keep-days", "ahead-days")
	_, err = s.maintenanceSchedule(maintenance)
	var lower *lowering
	require.ErrorAs(t, err, &lower, "for how many days events were kept is not known")
	require.Equal(t, lowering{"q-maintenance", 0, 90}, *lower)
	s.mayLower = func(days int) bool { return days == 0 }
	p, err = s.maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.True(t, proto.Equal(maintenance.State, p.schedule.State))
	require.True(t, proto.Equal(maintenance.Spec, p.schedule.Spec))
	require.Equal(t, []change{{"keep-days", "unreadable", "90"}, {"ahead-days", "unreadable", "17"}}, p.changes)
}

func TestSchedule_AnotherIntervalKeepsWhatAnOperatorHasSetBesideIt(t *testing.T) {
	relay, maintenance := storedOnes(t)
	for _, have := range []*schedulepb.Schedule{relay, maintenance} {
		have.Spec.Interval[0].Phase = durationpb.New(7 * time.Second)
		have.Spec.Jitter = durationpb.New(30 * time.Second)
		have.Spec.TimezoneName = "Europe/Berlin"
		have.Spec.EndTime = timestamppb.New(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	}
	r, err := with("every").relaySchedule(asStored)(relay)
	require.NoError(t, err)
	m, err := with("maintain-every").maintenanceSchedule(maintenance)
	require.NoError(t, err)
	for every, is := range map[time.Duration]plan{11 * time.Second: r, 16 * time.Minute: m} {
		want := proto.CloneOf(relay.Spec) // both have the same beside their interval
		want.Interval[0].Interval = durationpb.New(every)
		require.True(t, proto.Equal(want, is.schedule.Spec), is.schedule.Spec)
		require.Len(t, is.changes, 1)
	}
}

// Temporal refuses a phase that is not smaller than its interval.
func TestSchedule_APhaseIsShortenedToWhatIsSmallerThanTheNewInterval(t *testing.T) {
	for _, c := range []struct{ phase, every, want time.Duration }{
		{20 * time.Minute, time.Hour, 20 * time.Minute},
		{20 * time.Minute, 16 * time.Minute, 4 * time.Minute},
		{48 * time.Minute, 16 * time.Minute, 0},
	} {
		_, maintenance := storedOnes(t)
		maintenance.Spec.Interval[0].Phase = durationpb.New(c.phase)
		s := with("maintain-every")
		s.maintainEvery = c.every
		p, err := s.maintenanceSchedule(maintenance)
		require.NoError(t, err)
		require.Equal(t, c.want, p.schedule.Spec.Interval[0].Phase.AsDuration())
		changes := []change{{"maintain-every", "2h0m0s", c.every.String()}}
		if c.want != c.phase {
			changes = append(changes, change{"phase", c.phase.String(), c.want.String()})
		}
		require.Equal(t, changes, p.changes)
	}
}

func TestSchedule_AnIntervalInPlaceOfACalendarKeepsTheRest(t *testing.T) {
	_, maintenance := storedOnes(t)
	maintenance.Spec = &schedulepb.ScheduleSpec{
		StructuredCalendar: []*schedulepb.StructuredCalendarSpec{{Comment: "nightly"}}, CronString: []string{"@daily"},
		Calendar: []*schedulepb.CalendarSpec{{Hour: "3"}}, ExcludeStructuredCalendar: []*schedulepb.StructuredCalendarSpec{{Comment: "holidays"}},
		Jitter: durationpb.New(time.Minute), TimezoneName: "Europe/Berlin", StartTime: timestamppb.New(time.Unix(1e9, 0)),
	}
	p, err := with("maintain-every").maintenanceSchedule(maintenance)
	require.NoError(t, err)
	require.Equal(t, []change{{"maintain-every", "a specification of its own", "16m0s"}}, p.changes)
	want := proto.CloneOf(maintenance.Spec)
	want.StructuredCalendar, want.CronString, want.Calendar = nil, nil, nil
	want.Interval = []*schedulepb.IntervalSpec{{Interval: durationpb.New(16 * time.Minute)}}
	require.True(t, proto.Equal(want, p.schedule.Spec), p.schedule.Spec)
}
