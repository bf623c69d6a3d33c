package e2e

import (
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// scheduled is what "starter schedule --json" prints of a schedule.
type scheduled struct {
	Action           string
	Changes          []struct{ Setting, Old, New string }
	Paused, Off      bool
	Note             string
	KeepDays         int
	SearchAttributes bool
	Maintenance      *scheduled
}

// scheduling runs "starter schedule --json" and returns what it prints.
func (o *outbox) scheduling(args ...string) (r scheduled) {
	o.t.Helper()
	out := o.starter(append([]string{"schedule", "--json"}, args...)...)
	require.NoError(o.t, json.Unmarshal([]byte(out), &r), out)
	return r
}

// input reads what a schedule gives its workflow.
func input[T any](o *outbox, id string) (in T) {
	o.t.Helper()
	d, err := testenv.Temporal(o.t).ScheduleClient().GetHandle(o.t.Context(), id).Describe(o.t.Context())
	require.NoError(o.t, err)
	args := d.Schedule.Action.(*client.ScheduleWorkflowAction).Args
	require.Len(o.t, args, 1)
	require.NoError(o.t, converter.GetDefaultDataConverter().FromPayload(args[0].(*commonpb.Payload), &in))
	return in
}

// unscheduled removes both schedules when the test ends.
func (o *outbox) unscheduled() {
	o.unschedule(o.queue)
	o.unschedule(o.queue + "-maintenance")
}

func TestSchedule_WithoutFlagsKeepsEverySettingThatIsStored(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	given := [][2]string{
		{"every", "1h1m0s"},
		{"run-for", "3s"},
		{"slots", "7"},
		{"concurrency", "2"},
		{"linger", "70ms"},
		{"maintain-every", "2h0m0s"},
		{"keep-days", "90"},
		{"ahead-days", "21"},
		{"search-attributes", "false"},
	}
	var flags []string
	for _, g := range given {
		flags = append(flags, "--"+g[0]+"="+g[1])
	}
	require.Equal(t, "created", o.scheduling(flags...).Action)

	// As after an upgrade: this reset retention to seven days.
	r := o.scheduling()
	require.Equal(t, "unchanged", r.Action)
	require.Equal(t, "unchanged", r.Maintenance.Action)
	require.Equal(t, 90, r.Maintenance.KeepDays)
	require.False(t, r.SearchAttributes)
	wantRelay := workflows.RelayInput{RunFor: 3e9, Slots: 7, Concurrency: 2, Linger: 70e6}
	require.Equal(t, wantRelay, input[workflows.RelayInput](o, o.queue))
	require.Equal(t, workflows.MaintenanceInput{KeepDays: 90, AheadDays: 21}, input[workflows.MaintenanceInput](o, o.queue+"-maintenance"))

	for _, next := range [][2]string{
		{"every", "2h0m0s"},
		{"run-for", "4s"},
		{"slots", "8"},
		{"concurrency", "3"},
		{"linger", "80ms"},
		{"maintain-every", "3h0m0s"},
		{"keep-days", "91"},
		{"ahead-days", "22"},
		{"search-attributes", "true"},
	} {
		r := o.scheduling("--" + next[0] + "=" + next[1])
		changes := slices.Concat(r.Changes, r.Maintenance.Changes)
		require.Len(t, changes, 1, "%v", next)
		require.Equal(t, next[0], changes[0].Setting)
		require.Equal(t, next[1], changes[0].New)
		for _, g := range given {
			if g[0] == next[0] {
				require.Equal(t, g[1], changes[0].Old)
			}
		}
		r = o.scheduling()
		require.Empty(t, slices.Concat(r.Changes, r.Maintenance.Changes), "%v", next)
	}
	require.True(t, o.scheduling().SearchAttributes)
	require.Contains(t, o.starter("schedule", "--slots", "9"), "\n  slots: 8 → 9\n")
}

func TestSchedule_LowersRetentionOnlyIfThatIsConfirmed(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	o.starter("schedule", "--every", "1h", "--maintain-every", "1h", "--keep-days", "90")
	lower := []string{"schedule", "--keep-days", "30", "--slots", "8"}
	r := o.command(lower...)
	require.Equal(t, 2, r.status, r.err)
	require.Contains(t, r.err, "more than 30 days ago, not 90 as before: set retention to 30 days? There is no terminal to ask on: add --yes; nothing was changed")
	tty := o.onTerminal(nil, lower...)
	tty.says("set retention to 30 days? [y/N] ")
	tty.answer("n")
	require.Equal(t, 1, tty.ends().status)
	s := o.scheduling()
	require.Equal(t, 90, s.Maintenance.KeepDays)
	require.Zero(t, input[workflows.RelayInput](o, o.queue).Slots, "nothing was changed before the answer")

	tty = o.onTerminal(nil, lower...)
	tty.says("set retention to 30 days? [y/N] ")
	tty.answer("y")
	end := tty.ends()
	require.Zero(t, end.status, end.out)
	require.Contains(t, end.out, "keep-days: 90 → 30")
	require.Contains(t, end.out, "slots: default (16) → 8")
	require.Zero(t, o.command("schedule", "--keep-days", "29", "--yes").status)
	require.Zero(t, o.command("schedule", "--keep-days", "60").status, "more is no question")
	require.Equal(t, 60, o.scheduling().Maintenance.KeepDays)
}

func TestSchedule_LeavesMaintenanceOffUntilItIsTurnedOn(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	id := o.queue + "-maintenance"
	o.starter("schedule", "--every", "1h", "--keep-days", "90")
	r := o.scheduling("--maintain-every", "0")
	require.True(t, r.Maintenance.Off)

	// This made the schedule anew, with seven days.
	r = o.scheduling()
	require.Equal(t, "unchanged", r.Maintenance.Action)
	require.True(t, r.Maintenance.Off)
	require.False(t, r.Maintenance.Paused)
	require.Equal(t, 90, r.Maintenance.KeepDays)
	c := testenv.Temporal(t)
	h := c.ScheduleClient().GetHandle(t.Context(), id)
	d, err := h.Describe(t.Context())
	require.NoError(t, err)
	require.True(t, d.Schedule.State.Paused, "it runs nothing, and Temporal does not delete it")
	require.Contains(t, o.starter("schedule"), "maintenance is off")
	require.Equal(t, 2, o.command("schedule", "--maintain-every", "1h", "--keep-days", "7").status, "fewer days than before")
	require.True(t, o.scheduling().Maintenance.Off)

	r = o.scheduling("--maintain-every", "1h")
	require.False(t, r.Maintenance.Off)
	require.Equal(t, 90, r.Maintenance.KeepDays)
	d, err = h.Describe(t.Context())
	require.NoError(t, err)
	require.False(t, d.Schedule.State.Paused)

	// A pause of an operator is something else, and outlasts both.
	require.NoError(t, h.Pause(t.Context(), client.SchedulePauseOptions{Note: "ada: the disk is full"}))
	r = o.scheduling()
	require.True(t, r.Maintenance.Paused && !r.Maintenance.Off)
	o.scheduling("--maintain-every", "0")
	r = o.scheduling("--maintain-every", "1h")
	require.True(t, r.Maintenance.Paused && !r.Maintenance.Off)
	require.Equal(t, "ada: the disk is full", r.Maintenance.Note)
}

// A version before deleted the schedule when maintenance was turned off.
func TestSchedule_DoesNotBringBackMaintenanceThatAnEarlierVersionDeleted(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	o.starter("schedule", "--every", "1h")
	h := testenv.Temporal(t).ScheduleClient().GetHandle(t.Context(), o.queue+"-maintenance")
	require.NoError(t, h.Delete(t.Context()))
	require.Contains(t, o.starter("schedule"), "-maintenance absent; this command does not create it")
	require.Equal(t, "absent", o.scheduling().Maintenance.Action)
	require.Equal(t, 2, o.command("schedule", "--keep-days", "30").status)
	require.Equal(t, 2, o.command("schedule", "--maintain-every", "1h").status, "nobody has said for how many days")
	require.Equal(t, "absent", o.scheduling().Maintenance.Action)
	require.Equal(t, "created", o.scheduling("--maintain-every", "1h", "--keep-days", "30").Maintenance.Action)
	require.Equal(t, 30, o.scheduling().Maintenance.KeepDays)
}

// The server overwrites what others have changed meanwhile, unless it is told not to.
func TestSchedule_ByManyAtOnceLosesNoSetting(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	o.starter("schedule", "--every", "1h")
	for round := range 3 {
		flags := [][]string{{"--slots"}, {"--concurrency"}, {"--linger", "s"}, {"--run-for", "s"}, {"--keep-days"}, {"--ahead-days"}}
		var all sync.WaitGroup
		for _, f := range flags {
			unit := ""
			if len(f) > 1 {
				unit = f[1]
			}
			all.Go(func() {
				out, err := o.tryStarter("schedule", f[0], string(rune('1'+round))+"0"+unit)
				if err != nil {
					t.Errorf("%v: %v\n%s", f, err, out)
				}
			})
		}
		all.Wait()
		n := (round + 1) * 10
		relay := input[workflows.RelayInput](o, o.queue)
		require.Equal(t, []int{n, n}, []int{relay.Slots, relay.Concurrency})
		require.Equal(t, []float64{float64(n), float64(n)}, []float64{relay.Linger.Seconds(), relay.RunFor.Seconds()})
		require.Equal(t, workflows.MaintenanceInput{KeepDays: n, AheadDays: n}, input[workflows.MaintenanceInput](o, o.queue+"-maintenance"))
	}
}

// The version before made its schedules with the SDK, and stored every flag.
func TestSchedule_KeepsTheSettingsThatAnEarlierVersionStored(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	c := testenv.Temporal(t)
	for id, action := range map[string]*client.ScheduleWorkflowAction{
		o.queue: {
			Workflow: workflows.Relay, Args: []any{workflows.RelayInput{Slots: 7, SearchAttributes: true}}, WorkflowRunTimeout: workflows.RunTimeout,
			StaticSummary: "publishes the outbox's pending events", StaticDetails: "of an earlier version",
		},
		o.queue + "-maintenance": {
			Workflow: workflows.Maintenance, Args: []any{workflows.MaintenanceInput{KeepDays: 90, AheadDays: 14}}, WorkflowRunTimeout: workflows.MaintenanceTimeout,
			StaticSummary: "looks after the outbox's partitions", StaticDetails: workflows.MaintenanceDescription,
		},
	} {
		action.ID, action.TaskQueue = id, o.queue
		_, err := c.ScheduleClient().Create(t.Context(), client.ScheduleOptions{
			ID: id, Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}}, Action: action,
			Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: workflows.CatchUp, Paused: true, Note: "ada",
		})
		require.NoError(t, err)
	}
	r := o.scheduling()
	require.Equal(t, "updated", r.Action, "its details and its policy are of the new version")
	require.Empty(t, r.Changes)
	require.Equal(t, "ada", r.Note)
	require.Equal(t, workflows.RelayInput{Slots: 7, SearchAttributes: true}, input[workflows.RelayInput](o, o.queue))
	require.Equal(t, "unchanged", r.Maintenance.Action)
	require.Equal(t, 90, r.Maintenance.KeepDays)
	d, err := c.ScheduleClient().GetHandle(t.Context(), o.queue).Describe(t.Context())
	require.NoError(t, err)
	require.Equal(t, workflows.RelayDescription, d.Schedule.Action.(*client.ScheduleWorkflowAction).StaticDetails)
	require.Equal(t, "unchanged", o.scheduling().Action)
}

// As after a change of the data converter, or an edit in Temporal's UI.
func TestSchedule_StoresUnreadableSettingsAnewAndKeepsThePause(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.unscheduled()
	o.starter("schedule", "--every", "1h", "--maintain-every", "2h")
	c := testenv.Temporal(t)
	for _, id := range []string{o.queue, o.queue + "-maintenance"} {
		h := c.ScheduleClient().GetHandle(t.Context(), id)
		require.NoError(t, h.Pause(t.Context(), client.SchedulePauseOptions{Note: "ada"}))
		require.NoError(t, h.Update(t.Context(), client.ScheduleUpdateOptions{
			DoUpdate: func(u client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
				s := u.Description.Schedule
				s.Action.(*client.ScheduleWorkflowAction).Args = []any{[]byte("of another converter")}
				s.Spec.Jitter = time.Minute
				s.Spec.Intervals[0].Offset = 50 * time.Minute
				return &client.ScheduleUpdate{Schedule: &s}, nil
			},
		}))
	}
	maintenance := []string{"schedule", "--keep-days", "30", "--ahead-days", "21", "--yes", "--maintain-every", "20m"}
	r := o.command("schedule")
	require.Equal(t, 1, r.status, r.err)
	require.Contains(t, r.err, "give --keep-days, --ahead-days as well")
	r = o.command(maintenance...)
	require.Equal(t, 1, r.status, r.err)
	require.Contains(t, r.err, "give --run-for, --slots, --concurrency, --linger, --search-attributes as well")
	r = o.command("schedule", "--run-for", "1m", "--slots", "7", "--concurrency", "2", "--linger", "0", "--search-attributes=false")
	require.Zero(t, r.status, r.err)

	s := o.scheduling()
	require.True(t, s.Paused && s.Maintenance.Paused)
	require.Equal(t, "ada", s.Maintenance.Note)
	require.Equal(t, workflows.RelayInput{RunFor: 6e10, Slots: 7, Concurrency: 2}, input[workflows.RelayInput](o, o.queue))
	require.Equal(t, workflows.MaintenanceInput{KeepDays: 30, AheadDays: 21}, input[workflows.MaintenanceInput](o, o.queue+"-maintenance"))
	d, err := c.ScheduleClient().GetHandle(t.Context(), o.queue+"-maintenance").Describe(t.Context())
	require.NoError(t, err)
	require.Equal(t, time.Minute, d.Schedule.Spec.Jitter)
	require.Equal(t, []client.ScheduleIntervalSpec{{Every: 20 * time.Minute, Offset: 10 * time.Minute}}, d.Schedule.Spec.Intervals)
}
