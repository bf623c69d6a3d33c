package workflows_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

func (e *env) maintain(in workflows.MaintenanceInput, made, dropped relay.Partitions, h relay.Health) (r workflows.MaintenanceResult) {
	e.t.Helper()
	e.RegisterWorkflow(workflows.Maintenance)
	var asked []int
	note := func(p relay.Partitions) func(context.Context, activities.PartitionsRequest) (relay.Partitions, error) {
		return func(_ context.Context, r activities.PartitionsRequest) (relay.Partitions, error) {
			asked = append(asked, r.Days)
			return p, nil
		}
	}
	e.OnActivity(act.EnsurePartitions, mock.Anything, mock.Anything).Return(note(made))
	e.OnActivity(act.DropExpiredPartitions, mock.Anything, mock.Anything).Return(note(dropped))
	e.OnActivity(act.OutboxStats, mock.Anything).Return(h, nil)
	e.ExecuteWorkflow(workflows.Maintenance, in)
	require.NoError(e.t, e.GetWorkflowError())
	require.NoError(e.t, e.GetWorkflowResult(&r))
	want := []int{workflows.DefaultAheadDays, workflows.DefaultKeepDays}
	if in.KeepDays > 0 {
		want = []int{in.AheadDays, in.KeepDays}
	}
	require.Equal(e.t, want, asked)
	return r
}

func TestMaintenance_ReportsItsChangesWithoutWarningIfAllIsWell(t *testing.T) {
	r := newEnv(t).maintain(workflows.MaintenanceInput{},
		relay.Partitions{Made: []string{"2026-12-08"}}, relay.Partitions{Dropped: []string{"2026-11-15"}, Deleted: 3}, relay.Health{Ahead: 14, HeldXIDs: 10})
	require.Equal(t, workflows.MaintenanceResult{
		Partitions: relay.Partitions{Made: []string{"2026-12-08"}, Dropped: []string{"2026-11-15"}, Deleted: 3},
		Health:     relay.Health{Ahead: 14, HeldXIDs: 10},
	}, r)
}

func TestMaintenance_WarnsOfEachProblemByName(t *testing.T) {
	r := newEnv(t).maintain(workflows.MaintenanceInput{KeepDays: 3, AheadDays: 10},
		relay.Partitions{}, relay.Partitions{Needed: []string{"2026-11-10", "2026-11-11"}, Left: []string{"2026-11-12 is not dropped: session 4711"}},
		relay.Health{Ahead: 2, Caught: 5, HeldXIDs: 2_000_000, HeldBy: "replication slot cdc", NotEnqueued: "the trigger is disabled"})
	require.Len(t, r.Warnings, 6)
	for i, text := range []string{"the trigger is disabled", "2 expired days are kept, the oldest is 2026-11-10", "session 4711", "5 events are in the default partition", "for 2 days only", "replication slot cdc"} {
		require.Contains(t, r.Warnings[i], text)
	}
}

func TestMaintenance_NamesADayWithoutAPartitionAndThatPublishingContinues(t *testing.T) {
	r := newEnv(t).maintain(workflows.MaintenanceInput{},
		relay.Partitions{Made: []string{"2026-12-08"}, Later: []string{"2026-12-07"}}, relay.Partitions{}, relay.Health{Ahead: 0, Caught: 20_000})
	require.Len(t, r.Warnings, 2)
	require.Contains(t, r.Warnings[0], "1 days have no partition, the first is 2026-12-07")
	require.Contains(t, r.Warnings[0], "Publishing is not affected")
	require.Contains(t, r.Warnings[0], "20000 events")
}
