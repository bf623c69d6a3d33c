package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// restore replaces the events of the database by none, as the promotion of a standby does
// that has received none of them: it gives their ids again.
func (o testOutbox) restore() {
	o.t.Helper()
	o.exec(`DELETE FROM outbox.pending`)
	o.exec(`DELETE FROM outbox.event`)
	o.exec(`ALTER SEQUENCE outbox.event_id_seq RESTART`)
}

// loaded are the first n events of a topic as an attempt has them in hand.
func (o testOutbox) loaded(topic string, n int) (relay.Lease, []relay.Ref) {
	o.t.Helper()
	o.writeKey(topic, "k", n)
	_, lease := o.claimOne()
	refs := o.load(lease)
	require.Len(o.t, refs, n)
	return lease, refs
}

func TestSettle_LeavesAnotherEventOfTheSameIDAlone(t *testing.T) {
	o := open(t)
	_, refs := o.loaded("orders", 60)
	o.restore()
	o.writeKey("orders", "k", 60)
	require.Equal(t, refs[59].ID, query[int64](o, `SELECT max(id) FROM outbox.pending`), "the ids come again")
	require.NoError(t, o.Settle(t.Context(), "orders", refs))
	require.Equal(t, 60, o.pending())
}

func TestDeadLetter_LeavesAnotherEventOfTheSameIDAlone(t *testing.T) {
	o := open(t)
	lease, refs := o.loaded("orders", 3)
	o.restore()
	o.writeKey("orders", "k", 3)
	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay", refusedAs("Poison", refs...)))
	require.Equal(t, 3, o.pending())
	require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.dead_letter`))
}

func TestLoad_LeavesOutWhatIsInHandAndNoOtherEventOfItsID(t *testing.T) {
	o := open(t)
	lease, refs := o.loaded("orders", 3)
	o.restore()
	o.writeKey("orders", "k", 3)
	page, err := o.Load(t.Context(), lease, refs, 10)
	require.NoError(t, err)
	require.Len(t, page.Events, 3)
}

// After a failover the lease may never have been. What is loaded without it, another
// claim may have in hand.
func TestLoad_IsLostWithTheLease(t *testing.T) {
	o := open(t)
	lease, _ := o.loaded("orders", 3)
	o.exec(`UPDATE outbox.lane SET holder = NULL, claim_id = NULL, leased_until = NULL WHERE lane = 7`)
	_, err := o.Load(t.Context(), lease, nil, 10)
	require.ErrorIs(t, err, relay.ErrClaimLost)
}

func TestRefuse_CountsAnotherEventOfTheSameIDAnew(t *testing.T) {
	o := open(t)
	lease, refs := o.loaded("orders", 1)
	for range 3 {
		_, err := o.Refuse(t.Context(), "orders", refusedAs("InternalError", refs...))
		require.NoError(t, err)
	}
	o.exec(`UPDATE outbox.refusal SET first_at = first_at - interval '1 hour'`)
	o.restore()
	o.writeKey("orders", "k", 1)
	others := o.load(lease)
	require.Equal(t, refs[0].ID, others[0].ID)
	known, err := o.Refuse(t.Context(), "orders", refusedAs("InternalError", others...))
	require.NoError(t, err)
	require.Equal(t, others[0], known[0].Ref)
	require.Zero(t, known[0].For)
	require.Equal(t, 1, query[int](o, `SELECT attempts FROM outbox.refusal`))
}

func TestHighest_BoundsNoLaterEventOfALowerID(t *testing.T) {
	o := open(t)
	lease, _ := o.loaded("orders", 3)
	bound, err := o.Highest(t.Context(), lease)
	require.NoError(t, err)
	require.Equal(t, int64(3), bound.ID)
	o.restore()
	o.writeKey("orders", "k", 3)
	lease.UpTo = bound
	require.Empty(t, o.load(lease), "nobody has given these up")
}

func TestMove_LeavesAnotherDeadLetterOfTheSameIDAlone(t *testing.T) {
	for _, kind := range []string{relay.Redrive, relay.Discard} {
		o := open(t)
		o.writeKey("orders", "k", 3)
		o.bury("Poison")
		u := o.begin(kind, relay.Selection{})
		step, err := o.NextStep(t.Context(), u, u.From, 10)
		require.NoError(t, err)
		require.Len(t, step.Moves, 3)
		// The same ids become dead letters of other events.
		o.exec(`UPDATE outbox.dead_letter SET created_at = created_at + interval '1 second'`)
		_, moved, err := o.Move(t.Context(), u, step.Moves)
		require.NoError(t, err)
		require.Zero(t, moved, kind)
		require.Equal(t, 3, query[int](o, `SELECT count(*)::int FROM outbox.dead_letter`))
	}
}

// A replay that knows more than the record, because the record is from before, must not
// go on where it was: what lies between would never be replayed.
func TestReplay_GoesOnOnlyFromThePlaceOnRecord(t *testing.T) {
	o := open(t)
	o.write("orders", 40)
	o.publishAll()
	u := o.begin(relay.Replay, relay.Selection{})
	moved, left, _ := o.step(&u, 10)
	require.Equal(t, 10, moved)
	require.Empty(t, left)
	step, err := o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	o.exec(`UPDATE outbox.operation SET next_after = 0, lanes_after = array_fill(0::bigint, ARRAY[16])`)
	_, _, err = o.Move(t.Context(), u, step.Moves)
	require.ErrorIs(t, err, relay.ErrOperationElsewhere)
	_, err = o.Advance(t.Context(), u, step.Next)
	require.ErrorIs(t, err, relay.ErrOperationElsewhere)

	// Nor if only moves of an interrupted step are lost.
	u = o.underWay(u.ID)
	o.exec(`UPDATE outbox.operation SET done = done - 7`)
	_, _, err = o.Move(t.Context(), u, step.Moves)
	require.ErrorIs(t, err, relay.ErrOperationElsewhere)
}

func TestOperation_NumbersDoNotComeAgain(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	before := query[int64](o, `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`)
	u := o.begin(relay.Replay, relay.Selection{})
	require.NoError(t, o.EndOperation(t.Context(), u.ID, "done", 0))
	require.GreaterOrEqual(t, u.ID, before, "a time, which no other history has")
	o.exec(`DELETE FROM outbox.operation`)
	require.Greater(t, o.begin(relay.Replay, relay.Selection{}).ID, u.ID)
}
