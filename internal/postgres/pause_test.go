package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestPause_KeepsClaimsAwayUntilItIsLiftedAndIsOnRecord(t *testing.T) {
	o := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	require.NoError(t, limited.EnsureLanes(t.Context(), []string{"orders", "audit"}))
	o.write("orders", 5)
	pause := relay.Operation{Topic: "orders", By: "ada", Reason: "billing is broken"}
	changed, err := limited.Pause(t.Context(), pause)
	require.NoError(t, err)
	require.True(t, changed)
	changed, err = limited.Pause(t.Context(), pause)
	require.NoError(t, err)
	require.False(t, changed, "again changes nothing")
	require.Empty(t, o.claims())

	// A recovery's pause and its end leave the operator's alone, and the other way round.
	require.NoError(t, limited.HoldForRecovery(t.Context(), "orders", "recovery", time.Minute))
	changed, err = limited.Resume(t.Context(), relay.Operation{Topic: "orders", By: "bob", Reason: "mended"})
	require.NoError(t, err)
	require.True(t, changed)
	require.Empty(t, o.claims(), "its recovery still has it")
	require.NoError(t, limited.EndRecoveryHold(t.Context(), "orders", "recovery"))
	require.NotEmpty(t, o.claims())
	changed, err = limited.Resume(t.Context(), relay.Operation{Topic: "orders", By: "bob"})
	require.NoError(t, err)
	require.False(t, changed)

	require.Equal(t, []string{"pause orders by ada: billing is broken", "resume orders by bob: mended"},
		query[[]string](o, `SELECT array_agg(kind || ' ' || topic || ' by ' || by || ': ' || reason ORDER BY id) FROM outbox.operation`))
	_, err = limited.pool.Exec(t.Context(), `UPDATE outbox.operation SET by = 'nobody'`)
	require.ErrorContains(t, err, "permission denied", "the record is not rewritten")
}

func (o testOutbox) claims() []relay.Batch {
	o.t.Helper()
	batches, err := o.Claim(o.t.Context(), relay.ClaimRequest{By: "test", Batches: 4, PerTopic: 4})
	require.NoError(o.t, err)
	return batches
}

func TestPause_OfAnUnknownTopicNamesItAndChangesNothing(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders", "audit"}))
	for _, operate := range []func() (bool, error){
		func() (bool, error) {
			return o.Pause(t.Context(), relay.Operation{Topic: "odrers", By: "ada", Reason: "x"})
		},
		func() (bool, error) { return o.Resume(t.Context(), relay.Operation{Topic: "odrers", By: "ada"}) },
	} {
		_, err := operate()
		require.ErrorIs(t, err, ErrUnknownTopic)
		require.ErrorContains(t, err, `"odrers": known topics are audit, orders`)
	}
	require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.topic`)+query[int](o, `SELECT count(*) FROM outbox.operation`))
}
