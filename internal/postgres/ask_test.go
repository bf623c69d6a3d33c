package postgres

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestWhatIsAskedOfARecoveryIsOnRecordBeforeItIsDoneAndWhoAskedTheSameToo(t *testing.T) {
	o := open(t)
	ask := relay.Operation{
		Kind: relay.RecoverPark, Topic: "orders", By: "ada", Reason: "gone", Matched: 120, WorkflowID: "outbox-recovery/orders",
		Selection: relay.Selection{Recovery: "run 1"},
	}
	first, joined, err := o.Ask(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined)
	u, err := o.Operation(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, ask.WorkflowID, u.WorkflowID)
	require.EqualValues(t, 120, u.Matched)
	require.Nil(t, u.Finished)

	ask.By = "bob"
	again, joined, err := o.Ask(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, joined)
	require.Equal(t, first, again)
	require.Equal(t, []string{"ada ", fmt.Sprint("bob joined operation ", first)}, query[[]string](o, `SELECT array_agg(by || ' ' || outcome ORDER BY id) FROM outbox.operation`))
	ask.Kind = relay.RecoverNow
	_, joined, err = o.Ask(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined, "that is something else")
	ask.Kind, ask.Selection.Recovery = relay.RecoverPark, "run 2"
	_, joined, err = o.Ask(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined, "that is another recovery, whatever became of the first")

	require.NoError(t, o.EndOperation(t.Context(), first, "parked: 20 published, 100 dead letters", 100))
	require.NoError(t, o.EndOperation(t.Context(), first, "nothing to park", 0))
	u, err = o.Operation(t.Context(), first)
	require.NoError(t, err)
	require.EqualValues(t, 100, u.Done)
	require.Equal(t, "parked: 20 published, 100 dead letters", u.Outcome)
	require.NotNil(t, u.Finished)
}

func TestTheRelayRoleMayAskAndPark(t *testing.T) {
	o := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	o.write("orders", 3)
	batches := o.claim()
	lease, err := limited.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	_, err = limited.Highest(t.Context(), lease)
	require.NoError(t, err)
	_, _, err = limited.Waits(t.Context(), batches[0])
	require.NoError(t, err)
	ask := relay.Operation{Kind: relay.RecoverNow, Topic: "orders", By: "ada", Reason: "x"}
	first, _, err := limited.Ask(t.Context(), ask)
	require.NoError(t, err)
	again, joined, err := limited.Ask(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, joined)
	require.Equal(t, first, again)
	require.NoError(t, limited.EndOperation(t.Context(), first, "done", 1))
}
