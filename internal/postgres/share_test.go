package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/outbox"
)

// carrier is a worker that holds shares.
type carrier struct {
	testOutbox
	id string
}

func (o testOutbox) carrier() carrier { return carrier{o, outbox.NewID().String()} }

func (c carrier) attend(lanes ...int16) relay.Shares {
	c.t.Helper()
	shares, err := c.Attend(c.t.Context(), relay.Attendance{Worker: c.id, Name: "worker", Seated: true, Lanes: lanes})
	require.NoError(c.t, err)
	return shares
}

func (c carrier) take(lanes ...int16) []relay.TakenShare {
	c.t.Helper()
	taken, err := c.TakeShares(c.t.Context(), c.id, lanes)
	require.NoError(c.t, err)
	return taken
}

func (c carrier) exceptions(lanes ...int16) []relay.LaneException {
	c.t.Helper()
	found, err := c.Exceptions(c.t.Context(), lanes)
	require.NoError(c.t, err)
	return found
}

func (c carrier) setApart(cause string, lanes ...relay.TopicLane) []relay.TopicLane {
	c.t.Helper()
	done, err := c.SetApart(c.t.Context(), c.id, lanes, make([]int64, len(lanes)), cause)
	require.NoError(c.t, err)
	return done
}

func (c carrier) rejoin(lanes ...relay.TopicLane) []relay.LaneException {
	c.t.Helper()
	joined, err := c.Rejoin(c.t.Context(), c.id, lanes)
	require.NoError(c.t, err)
	return joined
}

// expireShares does what time would do.
func (o testOutbox) expireShares() {
	o.t.Helper()
	o.exec(`UPDATE outbox.share SET leased_until = now() - interval '1 second' WHERE worker IS NOT NULL`)
}

func allLanes() (all []int16) {
	for n := range int16(relay.Lanes) {
		all = append(all, n)
	}
	return all
}

func TestShares_AreTakenOnceAndRenewedByTheirHolder(t *testing.T) {
	o := open(t)
	a, b := o.carrier(), o.carrier()
	require.Equal(t, []relay.TakenShare{{Lane: 3}, {Lane: 7}}, a.take(7, 3))
	require.Empty(t, b.take(3, 7))
	require.Equal(t, []relay.TakenShare{{Lane: 8}}, b.take(7, 8))
	seen := a.attend(3, 7, 8)
	require.Equal(t, []int16{3, 7}, seen.Mine)
	require.Equal(t, a.id, seen.Holders[3])
	require.Equal(t, b.id, seen.Holders[8])
	require.Empty(t, seen.Holders[0])
	require.Equal(t, []relay.Worker{{ID: a.id, Seated: true}}, seen.Workers)
	require.Len(t, b.attend().Workers, 2)
	require.Empty(t, b.attend().Mine, "only those that it asks for")

	require.NoError(t, a.GiveBackShares(t.Context(), a.id, []int16{3, 8}))
	require.Equal(t, []relay.TakenShare{{Lane: 3}}, b.take(3, 7), "it does not wait for what was given back")
	require.NoError(t, a.Leave(t.Context(), a.id))
	seen = b.attend(3, 8)
	require.Len(t, seen.Workers, 1)
	require.Equal(t, []int16{3, 8}, seen.Mine)
	require.Equal(t, []relay.TakenShare{{Lane: 7}}, b.take(7))
}

func TestShares_ThatExpiredAreLostAndTheNextHolderWaits(t *testing.T) {
	o := open(t)
	a, b := o.carrier(), o.carrier()
	a.take(1, 2)
	o.expireShares()
	require.Empty(t, a.attend(1, 2).Mine, "nobody took them, but batches may have")
	require.Equal(t, []relay.TakenShare{{Lane: 1}}, a.take(1), "it knows itself what it has in hand")
	require.Equal(t, []relay.TakenShare{{Lane: 2, Settling: true}}, b.take(1, 2))
	require.NoError(t, a.GiveBackShares(t.Context(), a.id, []int16{2}))
	require.Equal(t, []int16{2}, b.attend(2).Mine, "it is not the other's to give back")
}

func TestShares_KeepBatchesAwayUntilALaneIsApart(t *testing.T) {
	o := open(t)
	o.write("orders", 200)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	require.Len(t, c.take(allLanes()...), relay.Lanes)
	require.Empty(t, o.claim())
	require.Empty(t, c.attend(allLanes()...).Exceptions)

	lane := relay.TopicLane{Topic: "orders", Lane: 4}
	require.Equal(t, []relay.TopicLane{lane}, c.setApart("refused", lane))
	require.Equal(t, "refused", query[string](o, `SELECT apart_cause FROM outbox.lane WHERE topic = 'orders' AND lane = 4`))
	require.Equal(t, []relay.LaneException{{TopicLane: lane, Apart: true, Free: true}}, c.attend(allLanes()...).Exceptions)
	batch, lease := o.claimOne()
	require.Equal(t, []int16{4}, batch.Lanes)
	found := c.attend(allLanes()...).Exceptions
	require.Equal(t, []relay.LaneException{{TopicLane: lane, Apart: true, Claimed: true}}, found)
	require.Equal(t, found, c.exceptions(allLanes()...))
	require.Empty(t, c.rejoin(lane), "the batch has it")
	o.drain(lease)
	require.True(t, c.attend(allLanes()...).Exceptions[0].Free)
	require.Equal(t, []relay.LaneException{{TopicLane: lane}}, c.rejoin(lane))
	require.Empty(t, c.attend(allLanes()...).Exceptions)
	o.write("orders", 100)
	require.Empty(t, o.claim())
	require.NoError(t, c.Leave(t.Context(), c.id))
	require.NotEmpty(t, o.claim())
}

func TestShares_LeaveLanesToTheBatchesThatHaveThem(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	_, lease := o.claimOne()
	c := o.carrier()
	c.take(allLanes()...)
	require.Len(t, c.exceptions(allLanes()...), relay.Lanes)
	require.Len(t, c.attend(allLanes()...).Exceptions, relay.Lanes)
	require.True(t, query[bool](o, `SELECT bool_and(mixed) FROM outbox.share`))
	o.drain(lease)
	require.Empty(t, c.attend(allLanes()...).Exceptions, "they are the worker's from then on")
	require.False(t, query[bool](o, `SELECT bool_or(mixed) FROM outbox.share`), "no lane is looked at any more")
	o.write("orders", 100)
	require.Empty(t, o.claim())
}

// A batch that ended otherwise may have acknowledgements to settle, and may even send.
func TestShares_TakeALaneThatWasNotGivenBackAfterAGrace(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	batch, _ := o.claimOne()
	c := o.carrier()
	c.take(allLanes()...)
	require.NoError(t, o.ReleaseClaim(t.Context(), batch), "over the head of its attempt")
	lane := relay.TopicLane{Topic: "orders", Lane: 0}
	require.Equal(t, relay.LaneException{TopicLane: lane, Claimed: true}, c.attend(allLanes()...).Exceptions[0])
	require.Empty(t, c.rejoin(lane))
	o.exec(`UPDATE outbox.lane SET quiet_at = now() - interval '1 second'`)
	require.Equal(t, relay.LaneException{TopicLane: lane, Claimed: true, Free: true}, c.attend(allLanes()...).Exceptions[0])
	require.Empty(t, c.rejoin(lane), "the grace begins")
	require.Equal(t, relay.LaneException{TopicLane: lane, Claimed: true}, c.attend(allLanes()...).Exceptions[0])
	o.exec(`UPDATE outbox.lane SET quiet_at = now() - interval '1 second' WHERE lane = 0`)
	require.Len(t, c.attend(allLanes()...).Exceptions, relay.Lanes-1)
}

// The worker of a batch died while nothing was pending. No claim would ever end its own.
func TestShares_EndAClaimWhoseLeaseHasEnded(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	_, lease := o.claimOne()
	c := o.carrier()
	c.take(allLanes()...)
	lane := relay.TopicLane{Topic: "orders", Lane: 0}
	require.Empty(t, c.rejoin(lane))
	o.expireLeases()
	require.True(t, c.attend(allLanes()...).Exceptions[0].Free)
	require.Empty(t, c.rejoin(lane), "the grace begins")
	require.ErrorIs(t, o.Renew(t.Context(), lease, []int16{0}), relay.ErrClaimLost)
	require.False(t, c.attend(allLanes()...).Exceptions[0].Free)
	o.exec(`UPDATE outbox.lane SET quiet_at = now() - interval '1 second' WHERE lane = 0`)
	require.Len(t, c.attend(allLanes()...).Exceptions, relay.Lanes-1)
}

func TestSetApart_IsOnlyForTheLiveHolder(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	a, b := o.carrier(), o.carrier()
	a.take(1)
	one, two := relay.TopicLane{Topic: "orders", Lane: 1}, relay.TopicLane{Topic: "orders", Lane: 2}
	require.Empty(t, b.setApart("x", one))
	require.Equal(t, []relay.TopicLane{one}, a.setApart("x", one, two))
	require.Empty(t, b.rejoin(one))
	o.expireShares()
	require.Empty(t, a.setApart("x", one))
	require.Empty(t, a.rejoin(one))
	require.True(t, query[bool](o, `SELECT apart FROM outbox.lane WHERE lane = 1`))
}

func TestSetApart_MakesMissingLanesAndRaisesLowWatermarks(t *testing.T) {
	o := open(t)
	c := o.carrier()
	c.take(1)
	lane := relay.TopicLane{Topic: "new", Lane: 1}
	for _, low := range []int64{10, 5, 0} {
		done, err := o.SetApart(t.Context(), c.id, []relay.TopicLane{lane}, []int64{low}, "x")
		require.NoError(t, err)
		require.Equal(t, []relay.TopicLane{lane}, done)
		require.EqualValues(t, 10, query[int64](o, `SELECT low_id FROM outbox.lane`))
	}
	require.EqualValues(t, 10, c.attend(1).Exceptions[0].LowID)
	require.EqualValues(t, 10, c.rejoin(lane)[0].LowID)
}

func TestRejoin_LeavesLanesThatSomethingKeeps(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	c := o.carrier()
	c.take(1)
	lane := relay.TopicLane{Topic: "orders", Lane: 1}
	c.setApart("x", lane)
	for name, keeps := range map[string]struct{ set, unset string }{
		"an operation": {`UPDATE outbox.lane SET reserved_until = now() + interval '1 minute' WHERE lane = 1`, `UPDATE outbox.lane SET reserved_until = NULL`},
		"an attempt":   {`UPDATE outbox.lane SET quiet_at = now() + interval '1 minute' WHERE lane = 1`, `UPDATE outbox.lane SET quiet_at = NULL`},
		"a pause":      {`INSERT INTO outbox.topic (topic, paused_at, paused_by) VALUES ('orders', now(), 'ada')`, `DELETE FROM outbox.topic`},
		"a recovery":   {`INSERT INTO outbox.topic (topic, recovery_paused_until) VALUES ('orders', now() + interval '1 minute')`, `DELETE FROM outbox.topic`},
	} {
		o.exec(keeps.set)
		require.False(t, c.attend(1).Exceptions[0].Free, name)
		require.Empty(t, c.rejoin(lane), name)
		o.exec(keeps.unset)
		require.True(t, c.attend(1).Exceptions[0].Free, name)
	}
	require.Len(t, c.rejoin(lane), 1)
}

func TestAttend_ShowsStoppedTopicsAndReservedLanes(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders", "audit", "mail"}))
	c := o.carrier()
	c.take(1, 2)
	c.attend(1, 2) // no share is mixed from then on
	o.exec(`INSERT INTO outbox.topic (topic, paused_at, paused_by) VALUES ('mail', now(), 'ada')`)
	require.NoError(t, o.HoldForRecovery(t.Context(), "audit", "recovery-1", time.Minute))
	require.NoError(t, o.Reserve(t.Context(), "orders", []int16{2, 3}, time.Minute))
	seen := c.attend(1, 2)
	require.Equal(t, []string{"audit", "mail"}, seen.Stopped)
	require.Equal(t, []relay.LaneException{{TopicLane: relay.TopicLane{Topic: "orders", Lane: 2}, Reserved: true}}, seen.Exceptions)
}

func TestOffer_CountsEachWorkerWithoutAnActivityOnce(t *testing.T) {
	o := open(t)
	offer := func() int {
		n, err := o.Offer(t.Context())
		require.NoError(t, err)
		return n
	}
	seated, a, b := o.carrier(), o.carrier(), o.carrier()
	seated.attend()
	for _, c := range []carrier{a, b} {
		_, err := o.Attend(t.Context(), relay.Attendance{Worker: c.id, Name: "worker"})
		require.NoError(t, err)
	}
	require.Equal(t, 2, offer())
	require.Zero(t, offer())
	a.attend()
	o.exec(`UPDATE outbox.worker SET offered_at = offered_at - $1::interval`, timing.OfferAgain)
	require.Equal(t, 1, offer(), "not the one that has an activity now")
	_, err := o.Attend(t.Context(), relay.Attendance{Worker: a.id, Name: "worker"})
	require.NoError(t, err)
	require.Equal(t, 1, offer(), "its activity has ended")
	o.exec(`UPDATE outbox.worker SET offered_at = NULL, seen_at = now() - $1::interval`, timing.WorkerGone)
	require.Zero(t, offer(), "they are gone")
}
