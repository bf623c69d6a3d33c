package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// recovering has the recovery r hold the topic orders, with all lanes of the topic kept for its next attempt.
func (o testOutbox) recovering() (relay.Batch, relay.Lease, relay.RecoveryHold) {
	o.t.Helper()
	o.writeKey("orders", "k1", 5)
	b, l := o.claimOne()
	require.NoError(o.t, o.HoldForRecovery(o.t.Context(), "orders", "r", timing.RecoveryHold))
	require.NoError(o.t, o.NoteFailure(o.t.Context(), "orders", "r", missing, time.Minute))
	require.NoError(o.t, o.Keep(o.t.Context(), l, b.Lanes))
	holds, err := o.RecoveryHolds(o.t.Context(), timing.HandoverHold)
	require.NoError(o.t, err)
	require.Len(o.t, holds, 1)
	require.Equal(o.t, [2]string{"orders", "r"}, [2]string{holds[0].Topic, holds[0].WorkflowID})
	return b, l, holds[0]
}

func TestRecoveryHolds_AreThoseThatLastForLonger(t *testing.T) {
	o := open(t)
	for topic, left := range map[string]time.Duration{"long": timing.RecoveryHold, "short": timing.HandoverHold, "over": -time.Second} {
		require.NoError(t, o.HoldForRecovery(t.Context(), topic, "r-"+topic, left))
	}
	o.exec(`INSERT INTO outbox.topic (topic, recovery_paused_until, recovery_workflow_id) VALUES ('endless', 'infinity', 'r')`)
	o.exec(`INSERT INTO outbox.topic (topic, paused_at, paused_by) VALUES ('paused', now(), 'ada')`)
	holds, err := o.RecoveryHolds(t.Context(), timing.HandoverHold)
	require.NoError(t, err)
	require.Len(t, holds, 1, "the sweep cuts the one without an end")
	require.Equal(t, "long", holds[0].Topic)
}

func TestAbandonHold_LetsClaimsTakeTheTopicAndTheLanesOfTheRecovery(t *testing.T) {
	o := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	b, l, hold := o.recovering()
	require.Empty(t, o.claims())
	abandoned, err := limited.AbandonHold(t.Context(), hold, b.ClaimID, false)
	require.NoError(t, err)
	require.True(t, abandoned)
	o.noFailure("orders", "")
	batches := o.claims()
	require.Equal(t, 5, events(batches))
	require.False(t, batches[0].Settling, "no attempt has anything to settle")
	require.ErrorIs(t, o.Renew(t.Context(), l, b.Lanes), relay.ErrClaimLost, "another attempt could do nothing")
	abandoned, err = o.AbandonHold(t.Context(), hold, b.ClaimID, false)
	require.NoError(t, err)
	require.False(t, abandoned, "it has ended")
}

func TestAbandonHold_LeavesLanesThatAnAttemptMayHave(t *testing.T) {
	for name, c := range map[string]struct {
		claim     string // "": that of the recovery
		noAttempt bool
		claimed   int
	}{
		"terminated":    {"", false, 0},
		"completed":     {"", true, 5},
		"another claim": {"00000000-0000-0000-0000-000000000000", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			b, _, hold := o.recovering()
			_, err := o.TakeOver(t.Context(), b) // its next attempt is at work
			require.NoError(t, err)
			if c.claim == "" {
				c.claim = b.ClaimID
			}
			abandoned, err := o.AbandonHold(t.Context(), hold, c.claim, c.noAttempt)
			require.NoError(t, err)
			require.True(t, abandoned)
			require.Equal(t, c.claimed, events(o.claims()))
		})
	}
}

// Between the question to Temporal and the end of the hold, another recovery can begin.
func TestAbandonHold_LeavesAHoldThatWasRenewedAndThatOfAnOperator(t *testing.T) {
	o := open(t)
	b, _, hold := o.recovering()
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "r", timing.RecoveryHold))
	abandoned, err := o.AbandonHold(t.Context(), hold, b.ClaimID, true)
	require.NoError(t, err)
	require.False(t, abandoned)
	require.Empty(t, o.claims())
	_, err = o.Pause(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "x"})
	require.NoError(t, err)
	holds, err := o.RecoveryHolds(t.Context(), timing.HandoverHold)
	require.NoError(t, err)
	abandoned, err = o.AbandonHold(t.Context(), holds[0], b.ClaimID, true)
	require.NoError(t, err)
	require.True(t, abandoned)
	require.Empty(t, o.claims(), "the operator's pause stays")
}
