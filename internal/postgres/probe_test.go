package postgres

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/outbox"
)

// probed are the ids that a probe answers with, and where the next one begins.
func (o testOutbox) probed(l relay.Lease, inHand []relay.Ref, p relay.Probe) (ids []int64, next int64) {
	o.t.Helper()
	got, err := o.Probe(o.t.Context(), l, inHand, p)
	require.NoError(o.t, err)
	for _, e := range got.Events {
		require.NotEmpty(o.t, e.EventID, "it is loaded")
		ids = append(ids, e.ID)
	}
	return ids, got.Next
}

func upTo(first, last int64) (ids []int64) {
	for id := first; id <= last; id++ {
		ids = append(ids, id)
	}
	return ids
}

// refs are events of a page, to be in hand.
func refs(events []relay.Event) (refs []relay.Ref) {
	for _, e := range events {
		refs = append(refs, e.Ref)
	}
	return refs
}

func TestProbe_ReadsOnInTheOrderOfIDsOverAllLanes(t *testing.T) {
	o := open(t)
	o.write("orders", 50)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	inHand := refs(page.Events)
	var seen []int64
	for after := int64(0); ; {
		ids, next := o.probed(lease, inHand, relay.Probe{After: after, Events: 15})
		require.LessOrEqual(t, len(ids), 15)
		require.True(t, slices.IsSorted(ids))
		seen = append(seen, ids...)
		if after = next; next == 0 {
			break
		}
	}
	for _, r := range inHand {
		require.NotContains(t, seen, r.ID)
		seen = append(seen, r.ID)
	}
	slices.Sort(seen)
	require.Equal(t, upTo(1, 50), seen)
}

func TestProbe_ReadsTheNewestEventsWhereAskedTo(t *testing.T) {
	o := open(t)
	o.write("orders", 50)
	_, lease := o.claimOne()
	ids, _ := o.probed(lease, nil, relay.Probe{Newest: true, Events: 15})
	require.Equal(t, upTo(36, 50), ids)
}

func TestProbe_OvertakesNoEarlierEventOfAKeyWhereOrderCounts(t *testing.T) {
	o := open(t)
	o.write("orders", 20)          // keys k1 to k20
	o.writeKey("orders", "k7", 5)  // 21 to 25: behind 7
	o.writeKey("orders", "new", 3) // 26 to 28: nothing is before them
	o.writeKey("orders", "", 2)    // 29 and 30: no order is asked for
	o.writeKey("orders", "k3", 1)  // 31: behind 3, which is settled below
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 100)
	require.NoError(t, err)
	var inHand []relay.Ref
	for _, e := range page.Events {
		switch {
		case e.ID == 3:
			require.NoError(t, o.Settle(t.Context(), "orders", []relay.Ref{e.Ref}))
		case e.ID <= 20:
			inHand = append(inHand, e.Ref)
		}
	}
	ids, _ := o.probed(lease, inHand, relay.Probe{Ordered: true, Events: 100})
	require.Equal(t, upTo(26, 31), ids)
	ids, _ = o.probed(lease, inHand, relay.Probe{Ordered: true, Newest: true, Events: 5})
	require.Equal(t, upTo(29, 31), ids, "26 is before 27 and 28, and pending")
	ids, _ = o.probed(lease, inHand, relay.Probe{Events: 100})
	require.Equal(t, upTo(21, 31), ids)
}

// Its partition may be about to be attached: the key of such an event is not known.
func TestProbe_LeavesALaneOutThatHasAnEventThatIsNotFound(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	o.writeKey("orders", "a", 1)
	o.writeKey("orders", "b", 1)
	o.exec(`DELETE FROM outbox.event WHERE id = 1`)
	o.exec(`UPDATE outbox.pending SET lane = (SELECT lane FROM outbox.pending WHERE id = 2)`)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 1)
	require.NoError(t, err)
	ids, _ := o.probed(lease, refs(page.Events), relay.Probe{Ordered: true, Events: 10})
	require.Empty(t, ids)
	ids, _ = o.probed(lease, refs(page.Events), relay.Probe{Events: 10})
	require.Equal(t, upTo(2, 3), ids)
}

func TestProbe_LeavesOutWhatNoDestinationAccepts(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', repeat('x', 9 << 20))`)
	o.writeKey("orders", "k", 2)
	_, lease := o.claimOne()
	ids, next := o.probed(lease, nil, relay.Probe{Events: 10})
	require.Equal(t, upTo(2, 3), ids)
	require.Zero(t, next)
}

func TestProbe_IsCutByBytesAndGoesOnFromThere(t *testing.T) {
	o := open(t)
	for range 5 {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', repeat('x', $1))`, relay.ProbeBytes*2/5)
	}
	_, lease := o.claimOne()
	ids, next := o.probed(lease, nil, relay.Probe{Events: 10})
	require.Equal(t, upTo(1, 2), ids)
	require.EqualValues(t, 2, next)
}

func TestBorrow_TakesFreeLanesOnlyAndTheyAreReleasedLikeItsOwn(t *testing.T) {
	o := open(t)
	o.write("orders", 200)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	batches, err := o.Claim(t.Context(), relay.ClaimRequest{By: "x", Batches: 16, PerTopic: 4})
	require.NoError(t, err)
	require.Len(t, batches, 1)
	own := batches[0]
	own.Lanes = own.Lanes[:2]
	lease, err := o.TakeOver(t.Context(), own)
	require.NoError(t, err)
	low, err := o.Borrow(t.Context(), own, lease)
	require.NoError(t, err)
	require.Empty(t, low, "the others are leased")

	o.exec(`UPDATE outbox.lane SET leased_until = NULL, claim_id = NULL WHERE NOT lane = ANY ($1)`, own.Lanes)
	o.exec(`UPDATE outbox.lane SET reserved_until = now() + interval '1 minute' WHERE lane = 15`)
	low, err = o.Borrow(t.Context(), own, lease)
	require.NoError(t, err)
	require.Len(t, low, 13)
	require.NotContains(t, low, int16(15), "an operation has it")
	lanes := slices.Collect(func(yield func(int16) bool) {
		for lane := range low {
			if !yield(lane) {
				return
			}
		}
	})
	require.NoError(t, o.Renew(t.Context(), lease, lanes))
	other, err := o.Claim(t.Context(), request("another"))
	require.NoError(t, err)
	require.Empty(t, other, "nobody else gets them")

	// An attempt that takes the batch over has its own lanes and no others.
	next, err := o.TakeOver(t.Context(), own)
	require.NoError(t, err)
	require.Len(t, next.LowID, 2)
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: low}))
	require.Equal(t, 2, query[int](o, `SELECT count(*)::int FROM outbox.lane WHERE leased_until IS NOT NULL`))
}

func TestProbe_IsQuickBehindAsManyEventsAsItLooksThrough(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT 'orders', 'k' || i % 20000, 'T', 'p' FROM generate_series(1, 40000) i`)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'new', 'T', 'p')`)
	r := request("x")
	r.PerTopic = 1
	batches, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	lease, err := o.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	began := time.Now()
	ids, _ := o.probed(lease, nil, relay.Probe{Ordered: true, Newest: true, Events: 100})
	t.Logf("looked through 40,000 in %v", time.Since(began).Round(time.Millisecond))
	require.Equal(t, upTo(40001, 40001), ids)
}

// Their worker may live, and have acknowledgements of them to settle.
func TestBorrow_TakesNoLaneThatWasNotGivenBack(t *testing.T) {
	o := open(t)
	o.write("orders", 200)
	batches := o.claim()
	require.Len(t, batches, 1)
	l, err := o.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	o.expireLeases() // all lanes, with a holder
	mine := relay.Batch{Topic: "orders", ClaimID: outbox.NewID().String(), Lanes: []int16{0}}
	borrowed, err := o.Borrow(t.Context(), mine, relay.Lease{Topic: "orders", Holder: outbox.NewID().String()})
	require.NoError(t, err)
	require.Empty(t, borrowed)

	// Nor does a probe send from lanes that the attempt does not hold.
	probed, err := o.Probe(t.Context(), relay.Lease{Topic: "orders", Holder: outbox.NewID().String(), LowID: l.LowID}, nil, relay.Probe{Events: 100})
	require.NoError(t, err)
	require.Empty(t, probed.Events)
}
