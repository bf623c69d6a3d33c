package postgres

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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

// The worker that died may have acknowledgements to settle.
func TestClaim_OfALaneOfADeadWorkersShareSettlesOnce(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	c.take(allLanes()...)
	require.NoError(t, c.GiveBackShares(t.Context(), c.id, []int16{0}))
	o.exec(`UPDATE outbox.share SET renewed_at = renewed_at - interval '1 minute', leased_until = leased_until - interval '1 minute'`)
	settling := func() (n int) {
		t.Helper()
		for _, b := range o.claim() {
			if b.Settling {
				n += len(b.Lanes)
			}
			l, err := o.TakeOver(t.Context(), b)
			require.NoError(t, err)
			require.NoError(t, o.Release(t.Context(), l, relay.Read{Next: l.LowID}))
		}
		return n
	}
	require.Equal(t, relay.Lanes, settling(), "a batch settles if one of its lanes does")
	require.Equal(t, relay.Lanes-1, query[int](o, `SELECT count(*) FROM outbox.lane WHERE quiet_at > now()`), "not the one that was given back")
	o.exec(`UPDATE outbox.lane SET quiet_at = NULL`)
	require.Zero(t, settling(), "the last holder is that batch")
	require.Empty(t, c.attend(allLanes()...).Mine)
	require.True(t, query[bool](o, `SELECT bool_and(leased_until = '-infinity') FROM outbox.share WHERE lane > 0`), "the lease ended for good")
	o.exec(`UPDATE outbox.share SET leased_until = now() + interval '1 hour' WHERE lane = 1`) // as if the clock was set back
	require.Equal(t, []int16{1}, c.attend(allLanes()...).Mine)
}

// The clock was an hour ahead when a batch took lanes of a share whose lease had ended by that clock.
func TestAttend_RenewsNoShareOfWhichABatchTookALane(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	c.take(allLanes()...)
	o.exec(`UPDATE outbox.share SET leased_until = leased_until - interval '1 hour', renewed_at = renewed_at - interval '1 hour'`)
	require.NotEmpty(t, o.claim())
	o.exec(`UPDATE outbox.share SET leased_until = leased_until + interval '1 hour', renewed_at = renewed_at + interval '1 hour'`)
	require.Empty(t, c.attend(allLanes()...).Mine)
}

func TestClaim_LeavesAShareToTheNextWorkerForAMoment(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	a, b := o.carrier(), o.carrier()
	a.take(allLanes()...)
	b.attend()
	require.NoError(t, a.GiveBackShares(t.Context(), a.id, allLanes()))
	require.Empty(t, o.claim(), "another worker takes them")
	o.exec(`UPDATE outbox.share SET leased_until = now() - $1::interval`, timing.ShareFirst)
	batches := o.claim()
	require.NotEmpty(t, batches, "it had a moment")
	for _, batch := range batches {
		require.NoError(t, o.ReleaseClaim(t.Context(), batch))
	}
	b.take(allLanes()...)
	require.NoError(t, b.Leave(t.Context(), b.id))
	require.NotEmpty(t, o.claim(), "there is no other worker")
}

// A worker that holds shares claims twelve times a second, and mostly finds nothing.
func TestClaim_SearchesFewLanesWhileWorkersHoldAllShares(t *testing.T) {
	o := open(t)
	o.manyTopics(500)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	r := request("a")
	r.Carries = true
	claimed := func() []relay.Batch {
		t.Helper()
		batches, err := o.Claim(t.Context(), r)
		require.NoError(t, err)
		return batches
	}
	may := func() bool {
		t.Helper()
		o.searched.Store(time.Now().UnixNano())
		may, err := o.mayWait(t.Context(), r)
		require.NoError(t, err)
		return may
	}
	c := o.carrier()
	require.True(t, may(), "no worker holds a share")
	c.take(allLanes()...)
	require.True(t, may(), "lanes may have claims from before")
	c.attend(allLanes()...)
	o.write("orders", 100)
	require.False(t, may())
	require.Empty(t, claimed())
	pages := pagesOf(o, mayWaitSQL, timing.ShareFirst, relay.Lanes)
	t.Logf("pages read beside 500 topics: %d", pages)
	require.Less(t, pages, 50)

	lane := relay.TopicLane{Topic: "orders", Lane: query[int16](o, `SELECT min(lane) FROM outbox.pending`)}
	c.setApart("refused", lane)
	require.True(t, may())
	for name, stop := range map[string]string{
		"an operator":  `INSERT INTO outbox.topic (topic, paused_at, paused_by) VALUES ('orders', now(), 'ada')`,
		"a recovery":   `INSERT INTO outbox.topic (topic, recovery_paused_until) VALUES ('orders', now() + interval '1 minute')`,
		"an operation": `UPDATE outbox.lane SET reserved_until = now() + interval '1 minute' WHERE apart`,
	} {
		o.exec(stop)
		require.False(t, may(), "it waits for %s, perhaps for days", name)
		o.exec(`DELETE FROM outbox.topic`)
		o.exec(`UPDATE outbox.lane SET reserved_until = NULL WHERE apart`)
		require.True(t, may(), name)
	}
	require.Len(t, claimed(), 1)
	require.False(t, may(), "it is leased")
	o.exec(`UPDATE outbox.share SET leased_until = now() - interval '1 minute' WHERE lane <> $1`, lane.Lane)
	require.True(t, may())
	require.NotEmpty(t, claimed())

	o.searched.Store(time.Now().Add(-2 * searchEvery).UnixNano())
	c.take(allLanes()...)
	got, err := o.mayWait(t.Context(), r)
	require.NoError(t, err)
	require.True(t, got, "all lanes are searched from time to time")
}

func TestClaim_LeavesLanesToWorkersThatWereJustOfferedSeats(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	o.write("bills", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	_, err := o.Attend(t.Context(), relay.Attendance{Worker: c.id, Name: "worker"})
	require.NoError(t, err)
	offered, err := o.Offer(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, offered)
	require.Empty(t, o.claim(), "its shares are about to be taken")
	c.attend()
	require.Empty(t, o.claim(), "it has a seat, and takes them now")

	o.exec(`UPDATE outbox.lane SET apart = true WHERE topic = 'bills'`)
	for _, b := range o.claim() {
		require.Equal(t, "bills", b.Topic, "nobody takes these lanes as shares")
		require.NoError(t, o.ReleaseClaim(t.Context(), b))
	}
	o.exec(`UPDATE outbox.lane SET quiet_at = NULL`)
	o.exec(`UPDATE outbox.worker SET offered_at = offered_at - $1::interval`, timing.ShareFirst)
	require.Len(t, topicsOf(o.claim()), 2, "the seats did not lead to shares in time")
}

func TestClaim_GoesOnDuringAnOfferWhileOtherBatchesPublish(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	require.NotEmpty(t, o.claim())
	o.write("bills", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	_, err := o.Attend(t.Context(), relay.Attendance{Worker: c.id, Name: "worker"})
	require.NoError(t, err)
	offered, err := o.Offer(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, offered)
	require.Equal(t, map[string]bool{"bills": true}, topicsOf(o.claim()), "a worker of another version may have the seat")
}

func topicsOf(batches []relay.Batch) map[string]bool {
	topics := make(map[string]bool)
	for _, b := range batches {
		topics[b.Topic] = true
	}
	return topics
}

func TestBorrow_LeavesLanesThatBelongToAWorker(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	c.take(1, 2, 3)
	claims, err := o.lease(t.Context(), "x", [][]lane{{{topic: "orders", lane: 0}}})
	require.NoError(t, err)
	l, err := o.TakeOver(t.Context(), claims[0])
	require.NoError(t, err)
	c.setApart("refused", relay.TopicLane{Topic: "orders", Lane: 2})
	o.exec(`UPDATE outbox.share SET leased_until = now() - interval '1 hour' WHERE lane = 3`)
	borrowed, err := o.Borrow(t.Context(), claims[0], l)
	require.NoError(t, err)
	require.Len(t, borrowed, relay.Lanes-3)
	require.NotContains(t, borrowed, int16(1), "it belongs to the worker")
	require.Contains(t, borrowed, int16(2), "it is apart")
	require.NotContains(t, borrowed, int16(3), "its worker has not given it back")
}

func TestMove_LeavesLanesThatBelongToAWorker(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	_, lease := o.claimOne()
	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay-1", refusedAs("Poison", o.load(lease)...)))
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: lease.LowID}))
	c := o.carrier()
	c.take(allLanes()...)
	idle := func() int {
		t.Helper()
		tx, err := o.db.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		rows, err := tx.Query(t.Context(), idleSQL, "orders", allLanes())
		require.NoError(t, err)
		lanes, err := pgx.CollectRows(rows, pgx.RowTo[int16])
		require.NoError(t, err)
		require.Equal(t, len(lanes) > 0, query[bool](o, anyIdleSQL, "orders", allLanes()))
		require.NoError(t, c.GiveBackShares(t.Context(), c.id, []int16{9}))
		if len(lanes) > 1 {
			require.Empty(t, o.carrier().take(9), "the operation is not over")
		}
		return len(lanes)
	}
	require.Zero(t, idle())
	require.Equal(t, []relay.TakenShare{{Lane: 9}}, c.take(9))
	c.setApart("an operation wants it", relay.TopicLane{Topic: "orders", Lane: 4})
	require.Equal(t, 1, idle())
	require.NoError(t, c.Leave(t.Context(), c.id))
	require.Equal(t, relay.Lanes, idle())
	require.Equal(t, 100, o.operate(relay.Redrive, relay.Selection{}, 10))
}

// lowerSQL is the last statement of a move by a worker of version 0.1.0 as well, which knows no shares.
func TestMove_OfAnEarlierVersionReservesLanesThatBelongToAWorker(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	c := o.carrier()
	c.take(1, 2, 3, 4)
	c.attend(1, 2, 3, 4) // no share is mixed from then on
	c.setApart("a recovery has it", relay.TopicLane{Topic: "orders", Lane: 2})
	c.attend(1, 2, 3, 4)
	o.exec(`UPDATE outbox.share SET leased_until = now() - interval '1 second' WHERE lane = 3`)
	require.NoError(t, o.Reserve(t.Context(), "orders", []int16{0, 1, 2, 3}, time.Minute))
	o.exec(lowerSQL, "orders", []int16{0, 1, 2, 3}, []int64{7, 7, 7, 7})
	require.Equal(t, []int16{1}, query[[]int16](o, `SELECT array_agg(lane ORDER BY lane) FROM outbox.lane WHERE reserved_until IS NOT NULL`),
		"share 0 is free, lane 2 apart, and share 3 lost")
	require.True(t, query[bool](o, `SELECT reserved_until BETWEEN now() + interval '1 second' AND now() + interval '3 seconds' FROM outbox.lane WHERE lane = 1`))
	// Without a reservation before, too: such a worker moves first, and reserves if lanes are not free.
	o.exec(lowerSQL, "orders", []int16{4}, []int64{7})
	reserved := slices.DeleteFunc(c.attend(1, 4).Exceptions, func(e relay.LaneException) bool { return !e.Reserved })
	require.Equal(t, []relay.LaneException{
		{TopicLane: relay.TopicLane{Topic: "orders", Lane: 1}, Reserved: true, LowID: reserved[0].LowID},
		{TopicLane: relay.TopicLane{Topic: "orders", Lane: 4}, Reserved: true, LowID: reserved[1].LowID},
	}, reserved, "the holder sets them apart")
}

// A worker that takes a share reads its lanes after the move, or finds them reserved.
func TestMove_OfAnEarlierVersionKeepsWorkersFromTakingAShareUntilItsEnd(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	moving, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer moving.Rollback(t.Context())
	_, err = moving.Exec(t.Context(), lowerSQL, "orders", []int16{1}, []int64{7})
	require.NoError(t, err)
	c := o.carrier()
	require.Equal(t, []relay.TakenShare{{Lane: 2}}, c.take(1, 2), "the move has share 1")
	require.NoError(t, moving.Commit(t.Context()))
	require.Equal(t, []relay.TakenShare{{Lane: 1}}, c.take(1))

	taking, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer taking.Rollback(t.Context())
	_, err = taking.Exec(t.Context(), `SELECT FROM outbox.share WHERE lane = 3 FOR UPDATE`)
	require.NoError(t, err)
	o.exec(lowerSQL, "orders", []int16{3}, []int64{7})
	require.True(t, query[bool](o, `SELECT reserved_until > now() FROM outbox.lane WHERE lane = 3`), "a worker is taking share 3")
}

func TestLeavesOut_CountsNoTopicThatAWorkerHas(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	c.take(allLanes()...)
	leaves, err := o.LeavesOut(t.Context(), []string{"audit"})
	require.NoError(t, err)
	require.False(t, leaves)
	c.setApart("no route", relay.TopicLane{Topic: "orders", Lane: 4})
	leaves, err = o.LeavesOut(t.Context(), []string{"audit"})
	require.NoError(t, err)
	require.True(t, leaves)
}

func TestStatus_ShowsWhoHoldsWhichLanes(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	c.take(1, 2, 3)
	c.attend(1, 2, 3)
	c.setApart("refused", relay.TopicLane{Topic: "orders", Lane: 3})
	topics, err := o.Status(t.Context())
	require.NoError(t, err)
	require.Zero(t, topics[0].Leased, "a share says nothing about one topic")
	require.Equal(t, []any{1, "refused", 0}, []any{topics[0].Apart, topics[0].ApartCause, topics[0].Retrying})
	batch, lease := o.claimOne()
	require.NotContains(t, batch.Lanes, int16(1))
	require.NotContains(t, batch.Lanes, int16(2))
	o.exec(`UPDATE outbox.lane SET retrying = true WHERE lane = $1`, batch.Lanes[0])
	topics, err = o.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{len(batch.Lanes), 1}, []int{topics[0].Leased, topics[0].Retrying})
	require.NotZero(t, lease.Holder)
	idle := o.carrier()
	idle.attend()
	listed, err := o.Workers(t.Context())
	require.NoError(t, err)
	require.Len(t, listed, 2)
	require.Equal(t, []any{c.id, "worker", []int16{1, 2, 3}, true}, []any{listed[0].ID, listed[0].Name, listed[0].Lanes, listed[0].Seated})
	require.InDelta(t, 0, listed[0].SeenAge, 30)
	require.Equal(t, []any{idle.id, []int16{}}, []any{listed[1].ID, listed[1].Lanes})
	o.expireShares()
	o.exec(`UPDATE outbox.worker SET seen_at = now() - interval '2 minutes'`)
	listed, err = o.Workers(t.Context())
	require.NoError(t, err)
	require.Empty(t, listed, "they are gone")
	c.attend()
	o.exec(`UPDATE outbox.share SET leased_until = now() + interval '4 seconds' WHERE worker IS NOT NULL`)
	workers := make(map[int16]string)
	lives, err := o.ByKey(t.Context(), "orders", "k1", 5, nil)
	require.NoError(t, err)
	for _, n := range []int16{0, 1, 3} {
		life := lives[0]
		life.Lane = n
		require.NoError(t, o.fillLife(t.Context(), &life))
		workers[n] = life.Worker
	}
	require.Equal(t, map[int16]string{0: "", 1: "worker", 3: ""}, workers)
}

func TestTopicStatus_HasAProblemIfAPersonShouldLook(t *testing.T) {
	for name, c := range map[string]struct {
		topic TopicStatus
		want  bool
	}{
		"it flows":                      {TopicStatus{Pending: 100, OldestAge: 2}, false},
		"its batches publish it always": {TopicStatus{Apart: 16, ApartCause: "a limit", Leased: 16}, false},
		"it is late":                    {TopicStatus{Pending: 1, OldestAge: 31}, true},
		"an operator paused it":         {TopicStatus{PausedBy: "ada"}, true},
		"it is in recovery":             {TopicStatus{Recovery: "outbox-recovery/orders"}, true},
		"a batch waits":                 {TopicStatus{Retrying: 1}, true},
		"it has dead letters":           {TopicStatus{Dead: 1}, true},
	} {
		require.Equal(t, c.want, c.topic.HasProblem(), name)
	}
}

func TestShares_AreHeldNoLongerThanALeaseThoughTheClockWasAhead(t *testing.T) {
	o := open(t)
	a, b := o.carrier(), o.carrier()
	a.take(1)
	a.attend(1)
	o.exec(`UPDATE outbox.share SET leased_until = leased_until + interval '1 hour', renewed_at = renewed_at + interval '1 hour' WHERE lane = 1`)
	o.exec(`UPDATE outbox.worker SET seen_at = seen_at + interval '1 hour'`)
	require.Len(t, b.attend().Workers, 1, "nobody knows whether it lives")
	require.NoError(t, o.Sweep(t.Context()))
	require.Len(t, b.attend().Workers, 2)
	require.Empty(t, b.take(1), "its worker may live")
	require.True(t, query[bool](o, `SELECT leased_until <= now() + $1::interval AND renewed_at <= now() FROM outbox.share WHERE lane = 1`, timing.ShareLease))
	require.Equal(t, []int16{1}, a.attend(1).Mine)
}

func TestSweep_ForgetsWorkersThatAreGoneForADay(t *testing.T) {
	o := open(t)
	a, b := o.carrier(), o.carrier()
	a.attend()
	b.attend()
	o.exec(`UPDATE outbox.worker SET seen_at = now() - interval '25 hours' WHERE id = $1::uuid`, a.id)
	require.NoError(t, o.look(t.Context()))
	require.Equal(t, b.id, query[string](o, `SELECT string_agg(id::text, ',') FROM outbox.worker`))
}

// A standby may have been promoted that lacks the last second.
func TestAttend_AfterAFailoverFindsItsSharesLost(t *testing.T) {
	o := open(t)
	a, b := o.carrier(), o.carrier()
	a.take(1, 2, 3)
	a.attend(1, 2, 3)
	o.exec(`DELETE FROM outbox.worker`)
	o.exec(`UPDATE outbox.share SET worker = NULL, leased_until = NULL WHERE lane = 1`)
	o.exec(`UPDATE outbox.share SET worker = $1::uuid WHERE lane = 2`, b.id)
	o.exec(`DELETE FROM outbox.share WHERE lane = 4`)
	seen := a.attend(1, 2, 3, 4)
	require.Equal(t, []int16{3}, seen.Mine)
	require.Equal(t, b.id, seen.Holders[2])
	require.Len(t, seen.Workers, 1)
	require.Equal(t, []relay.TakenShare{{Lane: 1}}, a.take(1, 2, 4), "a share without a row cannot be held")
	require.ErrorContains(t, o.State(t.Context()), "outbox.share has lost its row")
}

func TestAttend_WritesRowsOfSharesAndOneOfTheWorkerHoweverManyTopics(t *testing.T) {
	o := open(t)
	o.manyTopics(300)
	c := o.carrier()
	c.take(allLanes()...)
	c.attend(allLanes()...)
	o.exec(`CREATE TABLE public.written (name text)`)
	o.exec(`CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.written VALUES (TG_TABLE_NAME); RETURN NULL; END $$`)
	o.exec(`DO $$ DECLARE t text; BEGIN
	    FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'outbox' AND tablename !~ '^(event|receipt)_' LOOP
	        EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON outbox.%I FOR EACH ROW EXECUTE FUNCTION public.note()', t);
	    END LOOP; END $$`)
	require.Len(t, c.attend(allLanes()...).Mine, relay.Lanes)
	require.Equal(t, "16 share, 1 worker", query[string](o, `SELECT string_agg(n || ' ' || name, ', ' ORDER BY name)
	    FROM (SELECT name, count(*) AS n FROM public.written GROUP BY name) w`))
}

func (o testOutbox) manyTopics(n int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT 'topic-' || to_char(i, 'FM0000'), lane
	        FROM generate_series(1, $1::int) i CROSS JOIN generate_series(0, 15) lane`, n)
	o.exec(`VACUUM ANALYZE outbox.lane`)
}

// Twice a second, each worker reads nothing of topics that have no exception.
func TestAttend_ReadsNothingOfTopicsWithoutAnException(t *testing.T) {
	pages := make(map[int]int)
	for _, topics := range []int{10, 500} {
		o := open(t)
		o.manyTopics(topics)
		c := o.carrier()
		c.take(allLanes()...)
		c.attend(allLanes()...)
		c.setApart("x", relay.TopicLane{Topic: "topic-0001", Lane: 3})
		pages[topics] = pagesOf(o, attendSQL, c.id, "w", true, allLanes(), timing.ShareLease, timing.WorkerGone, timing.ClockMargin, timing.BatchSlow)
	}
	t.Logf("pages read beside 10 and 500 topics: %v", pages)
	require.Less(t, pages[500], pages[10]+30)
}

// A recovery may keep its lanes for hours. All lanes of the share must not be read twice a second for so long.
func TestAttend_ReadsFewLanesBesideABatchFromBefore(t *testing.T) {
	o := open(t)
	o.manyTopics(500)
	o.write("orders", 100)
	_, lease := o.claimOne()
	c := o.carrier()
	c.take(allLanes()...)
	seen := c.attend(allLanes()...)
	require.Len(t, seen.Exceptions, relay.Lanes)
	require.False(t, seen.Exceptions[0].Apart, "it may end at once, and then its lanes are the worker's")
	require.True(t, query[bool](o, `SELECT bool_and(mixed) FROM outbox.share`))

	o.exec(`UPDATE outbox.lane SET claimed_at = now() - $1::interval - interval '1 second' WHERE topic = 'orders'`, timing.BatchSlow)
	c.attend(allLanes()...)
	seen = c.attend(allLanes()...)
	require.Len(t, seen.Exceptions, relay.Lanes)
	require.True(t, seen.Exceptions[0].Apart)
	require.True(t, seen.Exceptions[0].Claimed)
	require.False(t, query[bool](o, `SELECT bool_or(mixed) FROM outbox.share`))
	pages := pagesOf(o, attendSQL, c.id, "w", true, allLanes(), timing.ShareLease, timing.WorkerGone, timing.ClockMargin, timing.BatchSlow)
	t.Logf("pages read beside 500 topics and a batch from before: %d", pages)
	require.Less(t, pages, 250)

	require.Empty(t, c.rejoin(relay.TopicLane{Topic: "orders", Lane: 3}), "its batch has it")
	require.Len(t, o.drain(lease), 100)
	require.Len(t, c.rejoin(relay.TopicLane{Topic: "orders", Lane: 3}), 1)
}

func TestAttend_WhileRowsAreHiddenIsAnError(t *testing.T) {
	for _, table := range []string{"share", "worker", "lane", "topic"} {
		o := open(t)
		require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
		s := testOutbox{o.asRelay(), t, o.db}
		c := s.carrier()
		c.take(1)
		c.attend(1)
		o.exec(`ALTER TABLE outbox.` + table + ` ENABLE ROW LEVEL SECURITY`)
		if table == "worker" { // which it must write
			o.exec(`CREATE POLICY mine ON outbox.worker USING (name = 'w')`)
		}
		_, err := s.Attend(t.Context(), relay.Attendance{Worker: c.id, Name: "w", Lanes: []int16{1}})
		require.Error(t, err, table)
		if table != "worker" {
			require.ErrorContains(t, err, "row level security can hide rows of outbox."+table)
		}
		if table == "lane" {
			_, err = s.Exceptions(t.Context(), []int16{1})
			require.ErrorContains(t, err, "row level security")
		}
	}
}

// A worker that died gives nothing back. A batch of a topic that is apart gets no other lane of the topic: it
// would end the lease of the share for good, and the claims would take the lanes of all topics in it.
func TestClaim_OfLanesApartLeavesTheSharesOfTheDeadToTheNextWorker(t *testing.T) {
	o := open(t)
	topics := []string{"bills", "orders"}
	for _, topic := range topics {
		o.write(topic, 100)
	}
	require.NoError(t, o.Sweep(t.Context()))
	dead, next := o.carrier(), o.carrier()
	dead.take(allLanes()...)
	next.attend()
	apart := relay.TopicLane{Topic: "bills", Lane: query[int16](o, `SELECT min(lane) FROM outbox.pending WHERE topic = 'bills'`)}
	require.Len(t, dead.setApart("refused", apart), 1)
	o.exec(`UPDATE outbox.share SET leased_until = now() - $1::interval`, timing.ShareFirst/2)
	batches := o.claim()
	require.Len(t, batches, 1)
	require.Equal(t, apart.Topic, batches[0].Topic)
	require.Equal(t, []int16{apart.Lane}, batches[0].Lanes)
	require.Empty(t, o.claim(), "the shares have not ended for good")
	require.Len(t, next.take(allLanes()...), relay.Lanes)
}

func TestClaim_OfLanesApartLeavesTheOthersToWorkersThatWereJustOfferedSeats(t *testing.T) {
	o := open(t)
	o.write("bills", 100)
	require.NoError(t, o.Sweep(t.Context()))
	c := o.carrier()
	_, err := o.Attend(t.Context(), relay.Attendance{Worker: c.id, Name: "worker"})
	require.NoError(t, err)
	offered, err := o.Offer(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, offered)
	lane := query[int16](o, `SELECT min(lane) FROM outbox.pending`)
	o.exec(`UPDATE outbox.lane SET apart = true WHERE lane = $1`, lane)
	batches := o.claim()
	require.Len(t, batches, 1)
	require.Equal(t, []int16{lane}, batches[0].Lanes)
}
