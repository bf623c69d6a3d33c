package postgres

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestRecordRecoveryRequest_RecordsAllOperatorsAndJoinsTheSameRequest(t *testing.T) {
	o := open(t)
	ask := relay.Operation{
		Kind: relay.RecoverPark, Topic: "orders", By: "ada", Reason: "gone", Matched: 120, WorkflowID: "outbox-recovery/orders",
		Selection: relay.Selection{Recovery: "run 1"},
	}
	first, joined, err := o.RecordRecoveryRequest(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined)
	u, err := o.Operation(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, ask.WorkflowID, u.WorkflowID)
	require.EqualValues(t, 120, u.Matched)
	require.Nil(t, u.Finished)

	ask.By = "bob"
	again, joined, err := o.RecordRecoveryRequest(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, joined)
	require.Equal(t, first, again)
	require.Equal(t, []string{"ada ", fmt.Sprint("bob joined operation ", first)}, query[[]string](o, `SELECT array_agg(by || ' ' || outcome ORDER BY id) FROM outbox.operation`))
	ask.Kind = relay.RecoverNow
	_, joined, err = o.RecordRecoveryRequest(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined, "that is something else")
	ask.Kind, ask.Selection.Recovery = relay.RecoverPark, "run 2"
	_, joined, err = o.RecordRecoveryRequest(t.Context(), ask)
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

func TestRelayRole_MayAskAndPark(t *testing.T) {
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
	first, _, err := limited.RecordRecoveryRequest(t.Context(), ask)
	require.NoError(t, err)
	again, joined, err := limited.RecordRecoveryRequest(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, joined)
	require.Equal(t, first, again)
	require.NoError(t, limited.EndOperation(t.Context(), first, "done", 1))
}

// byHand is what a workflow asks for that somebody has started by hand.
func byHand(kind, workflowID, runID string) relay.Operation {
	return relay.Operation{Kind: kind, Topic: "orders", By: "ann", Reason: "a test", WorkflowID: workflowID, RunID: runID}
}

// An answer may be lost after the record is there. The next attempt must not do it again.
func TestBeginAsked_GivesAnotherAttemptOfTheRunTheSameRecord(t *testing.T) {
	o := open(t)
	ask := byHand(relay.Replay, "from-the-ui", "run-1")
	_, found, err := o.AskedBy(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, found)
	first, err := o.BeginAsked(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, "from-the-ui", first.WorkflowID)
	require.Equal(t, "ann", first.By)
	for _, ended := range []bool{false, true} {
		again, err := o.BeginAsked(t.Context(), ask)
		require.NoError(t, err)
		require.Equal(t, first.ID, again.ID)
		again, found, err := o.AskedBy(t.Context(), ask)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, first.ID, again.ID)
		require.Equal(t, ended, again.Finished != nil)
		require.NoError(t, o.EndOperation(t.Context(), first.ID, "done", 3))
	}

	// A later workflow of the same id asks for it once more.
	other := byHand(relay.Replay, "from-the-ui", "run-2")
	u, err := o.BeginAsked(t.Context(), other)
	require.ErrorIs(t, err, relay.ErrAskedBefore)
	require.Equal(t, first.ID, u.ID)
	_, _, err = o.AskedBy(t.Context(), other)
	require.ErrorIs(t, err, relay.ErrAskedBefore)
	require.Equal(t, 1, query[int](o, `SELECT count(*)::int FROM outbox.operation`))
}

func TestBeginAsked_DoesNotBeginWhatIsUnderWayInAnotherWorkflow(t *testing.T) {
	o := open(t)
	id, _, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Redrive, Topic: "orders", By: "bob", Reason: "x", WorkflowID: "outbox-redrive/orders/"})
	require.NoError(t, err)
	u, err := o.BeginAsked(t.Context(), byHand(relay.Redrive, "from-the-ui", "run-1"))
	require.ErrorIs(t, err, relay.ErrSameUnderWay)
	require.Equal(t, id, u.ID)
	require.NoError(t, o.EndOperation(t.Context(), id, "done", 0))
	u, err = o.BeginAsked(t.Context(), byHand(relay.Redrive, "from-the-ui", "run-1"))
	require.NoError(t, err)
	require.Greater(t, u.ID, id)

	// The starter joins it.
	joined, isJoined, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Redrive, Topic: "orders", By: "bob", Reason: "x", WorkflowID: "outbox-redrive/orders/"})
	require.NoError(t, err)
	require.True(t, isJoined)
	require.Equal(t, u.ID, joined)
	require.Equal(t, "from-the-ui", o.underWay(joined).WorkflowID)
}

// Two attempts of a run may be under way at once: the first one has not heard yet that it
// is given up.
func TestBeginAsked_OfTwoAttemptsAtOnceIsOneRecord(t *testing.T) {
	o := open(t)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			ask := byHand(relay.Replay, "from-the-ui", "run-1")
			if _, err := o.BeginAsked(t.Context(), ask); err != nil {
				t.Errorf("attempt %d: %v", n, err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, query[int](o, `SELECT count(*)::int FROM outbox.operation`))
}

func TestPause_OfAnotherAttemptOfARunSaysWhatTheFirstDid(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	first := byHand(relay.Pause, "from-the-ui", "run-1")
	for range 2 {
		changed, err := o.Pause(t.Context(), first)
		require.NoError(t, err)
		require.True(t, changed, "it is this run's own pause")
	}
	require.Equal(t, 1, query[int](o, `SELECT count(*)::int FROM outbox.operation`))

	changed, err := o.Resume(t.Context(), byHand(relay.Resume, "another", "run-1"))
	require.NoError(t, err)
	require.True(t, changed)
	_, err = o.Pause(t.Context(), first)
	require.ErrorIs(t, err, relay.ErrUndone, "it must not say that the topic is paused")
	require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.topic WHERE paused_at IS NOT NULL`), "a late attempt does not pause it anew")

	changed, err = o.Pause(t.Context(), byHand(relay.Pause, "from-the-ui", "run-2"))
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, 1, query[int](o, `SELECT count(*)::int FROM outbox.topic WHERE paused_at IS NOT NULL`), "somebody asks for it once more")
	_, err = o.Resume(t.Context(), byHand(relay.Resume, "another", "run-1"))
	require.ErrorIs(t, err, relay.ErrUndone)
	changed, err = o.Pause(t.Context(), byHand(relay.Pause, "from-the-ui", "run-3"))
	require.NoError(t, err)
	require.False(t, changed, "it was paused already")
	require.Equal(t, 3, query[int](o, `SELECT count(*)::int FROM outbox.operation`))
}
