package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// requireSettling claims what must be a single batch.
func (o testOutbox) requireSettling(want bool, why string) relay.Batch {
	o.t.Helper()
	batches := o.claim()
	require.Len(o.t, batches, 1)
	require.Equal(o.t, want, batches[0].Settling, why)
	return batches[0]
}

func TestClaim_TellsOfLanesThatWereNotGivenBack(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	o.requireSettling(false, "never claimed")
	o.expireLeases()
	o.requireSettling(false, "claimed, but no attempt has begun")
	o.expireLeases()
	o.claimOne()
	o.expireLeases()
	o.requireSettling(true, "the attempt's lease expired")

	// The claim goes from hand to hand without an attempt.
	again, err := o.Claimed(t.Context(), t.Name())
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.True(t, again[0].Settling, "the answer to the claim was lost")
	require.NoError(t, o.ReleaseUnbegun(t.Context()))
	b := o.requireSettling(true, "a worker that stopped released it unbegun")

	// The next attempt gives them back in order.
	lease, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: lease.LowID}))
	o.requireSettling(false, "given back")
}

func TestClaim_TellsOfAClaimThatWasReleasedOverItsAttempt(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	require.NoError(t, o.ReleaseClaim(t.Context(), o.requireSettling(false, "never claimed")))
	o.requireSettling(false, "no attempt had begun")
	o.expireLeases()
	b, lease := o.claimOne()
	require.NoError(t, o.ReleaseClaim(t.Context(), b))
	require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.lane WHERE leased_until IS NOT NULL`), "they are free at once")
	require.ErrorIs(t, o.Renew(t.Context(), lease, b.Lanes), relay.ErrClaimLost, "and the attempt is fenced off")
	b = o.requireSettling(true, "the attempt had not ended")
	require.NoError(t, o.ReleaseClaim(t.Context(), b))
	b = o.requireSettling(true, "no attempt has begun since")
	lease, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, o.Keep(t.Context(), lease, b.Lanes))
	require.NoError(t, o.ReleaseClaim(t.Context(), b))
	o.requireSettling(false, "the attempt had ended in order, and waited for the next")
}

// A worker's death is not to cost its topic time at every claim that follows.
func TestClaim_ForgetsAnAttemptThatAnotherHasFollowed(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	b, _ := o.claimOne()
	lease, err := o.TakeOver(t.Context(), b) // Temporal's retry
	require.NoError(t, err)
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: lease.LowID}))
	o.requireSettling(false, "the retry has given them back")
}

func TestClaim_TellsOfALeaseThatAnOperationHasEnded(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	b, lease := o.claimOne()
	o.expireLeases()
	_, err := o.db.Exec(t.Context(), lowerSQL, "orders", b.Lanes, make([]int64, len(b.Lanes)))
	require.NoError(t, err)
	require.ErrorIs(t, o.Renew(t.Context(), lease, b.Lanes), relay.ErrClaimLost)
	o.requireSettling(true, "its worker may live")
}
