package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestTakeOver_FencesOffTheEarlierAttempt(t *testing.T) {
	o := open(t)
	o.write("orders", 50)
	batch, zombie := o.claimOne()
	current, err := o.TakeOver(t.Context(), batch)
	require.NoError(t, err)

	require.ErrorIs(t, o.Renew(t.Context(), zombie, batch.Lanes), relay.ErrClaimLost)
	next := map[int16]int64{}
	for _, n := range batch.Lanes {
		next[n] = 1 << 40
	}
	require.NoError(t, o.Release(t.Context(), zombie, relay.Read{Next: next}))
	require.Empty(t, o.claim(), "the zombie's release freed nothing")
	require.NoError(t, o.Renew(t.Context(), current, batch.Lanes))
	require.Len(t, o.drain(current), 50, "and raised no low watermark")
}

func TestTakeOver_OfAClaimThatWasClaimedAgainIsLost(t *testing.T) {
	o := open(t)
	o.write("orders", 50)
	batch, _ := o.claimOne()
	o.expireLeases()
	require.Len(t, o.claim(), 1)
	_, err := o.TakeOver(t.Context(), batch)
	require.ErrorIs(t, err, relay.ErrClaimLost)
}

func TestTakeOver_OfAnExpiredClaimThatNobodyTookIsGood(t *testing.T) {
	o := open(t)
	o.write("orders", 50)
	batch, _ := o.claimOne()
	o.expireLeases()
	lease, err := o.TakeOver(t.Context(), batch)
	require.NoError(t, err)
	require.Len(t, lease.LowID, len(batch.Lanes))
	require.Empty(t, o.claim(), "it is leased again")
}

func TestTakeOver_LeavesOutALaneLostToAnotherClaim(t *testing.T) {
	o := open(t)
	o.write("orders", 400)
	batches := o.claim()
	require.Len(t, batches, 1)
	o.exec(`UPDATE outbox.lane SET claim_id = gen_random_uuid() WHERE lane = 3`)
	lease, err := o.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	require.Len(t, lease.LowID, relay.Lanes-1)
	require.NotContains(t, lease.LowID, int16(3))
	require.ErrorIs(t, o.Renew(t.Context(), lease, []int16{2, 3}), relay.ErrClaimLost)
}

func TestReleaseUnbegun_ReleasesOnlyClaimsThatNobodyBegan(t *testing.T) {
	o := open(t)
	o.write("begun", 5)
	batch, lease := o.claimOne()
	o.write("unbegun", 5)
	require.NoError(t, o.Sweep(t.Context()))
	require.Equal(t, 5, events(o.claim()))

	require.NoError(t, o.ReleaseUnbegun(t.Context()))
	require.NoError(t, o.Renew(t.Context(), lease, batch.Lanes))
	batches := o.claim()
	require.Len(t, batches, 1)
	require.Equal(t, "unbegun", batches[0].Topic)
}

func TestReleaseUnbegun_LeavesClaimsThatAnotherProcessHasBegun(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	batches := o.claim()
	other, err := Open(t.Context(), Config{URL: o.pool.Config().ConnString()})
	require.NoError(t, err)
	defer other.Close()
	lease, err := other.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)

	require.NoError(t, o.ReleaseUnbegun(t.Context()))
	require.NoError(t, other.Renew(t.Context(), lease, batches[0].Lanes))
}

func TestReleaseClaim_FreesItAtOnce(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	batch, _ := o.claimOne()
	require.NoError(t, o.ReleaseClaim(t.Context(), batch))
	require.Equal(t, 5, events(o.claim()))
	require.NoError(t, o.ReleaseClaim(t.Context(), batch), "and releasing it again frees nobody else's")
	require.Empty(t, o.claim())
}
