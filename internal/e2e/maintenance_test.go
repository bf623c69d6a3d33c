package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

func TestMaintenance_RunsByItselfWithTheRightsOfTheRelayRole(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.exec(`SELECT outbox.make_partition(current_date - 20)`)
	o.exec(`INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'caught', now() - interval '10 days')`)
	o.work("DATABASE_URL=" + testenv.RoleURL(t, o.db, "outbox_relay"))
	id := o.queue + "-maintenance"
	out := o.starter("schedule", "--every", "1h", "--maintain-every", "1s", "--keep-days", "7", "--ahead-days", "16")
	require.Contains(t, out, id+" created")
	c := testenv.Temporal(t)
	o.unschedule(id)

	require.Eventually(t, func() bool {
		return o.count(`SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.event'::regclass`) == 1+17
	}, 20*time.Second, 50*time.Millisecond, "the default one, today's, and those of 16 days; that of 20 days ago is gone")
	var r workflows.MaintenanceResult
	require.Eventually(t, func() bool {
		d, err := c.ScheduleClient().GetHandle(t.Context(), id).Describe(t.Context())
		if err != nil || len(d.Info.RecentActions) < 2 {
			return false
		}
		last := d.Info.RecentActions[len(d.Info.RecentActions)-2].StartWorkflowResult
		return c.GetWorkflow(t.Context(), last.WorkflowID, last.FirstExecutionRunID).Get(t.Context(), &r) == nil && len(r.Needed) == 1
	}, 20*time.Second, 100*time.Millisecond)
	require.Len(t, r.Warnings, 2, "an event in the default partition is expired, and still pending")
	require.Equal(t, 16, r.Ahead)

	require.Contains(t, o.starter("schedule", "--maintain-every", "0"), "maintain-every: 1s → 0 (off)")
	require.Contains(t, o.starter("schedule"), id+" unchanged; maintenance is off")
	for flag, value := range map[string]string{"--keep-days": "0", "--ahead-days": "-1", "--maintain-every": "10ms"} {
		out, err := o.tryStarter("schedule", flag, value)
		require.Error(t, err)
		require.Contains(t, out, flag)
	}
}
