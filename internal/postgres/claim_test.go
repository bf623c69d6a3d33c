package postgres

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestClaim_OfNothingPendingIsEmpty(t *testing.T) {
	o := open(t)
	require.Empty(t, o.claim())
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	require.Empty(t, o.claim())
}

func TestClaim_PutsSmallLanesOfATopicIntoOneBatch(t *testing.T) {
	o := open(t)
	o.write("orders", 400)
	batches := o.claim()
	require.Len(t, batches, 1)
	require.Equal(t, "orders", batches[0].Topic)
	require.Equal(t, 400, batches[0].Events)
	require.Len(t, batches[0].Lanes, relay.Lanes)
	require.True(t, slices.IsSorted(batches[0].Lanes))
}

func TestClaim_SpreadsABacklogOverTheTopicsShareOfBatches(t *testing.T) {
	o := open(t)
	o.write("orders", 8000)
	batches := o.claim()
	require.Len(t, batches, 4)
	require.Len(t, laneNames(batches), relay.Lanes)
	for _, b := range batches {
		require.Len(t, b.Lanes, 4)
		require.Equal(t, relay.PageEvents, b.Events)
	}
}

func TestClaim_GivesNoLaneToTwoClaimersAtOnce(t *testing.T) {
	o := open(t)
	for round := range 5 {
		for i := range 4 {
			o.write(fmt.Sprintf("topic-%d-%d", round, i), 2000)
		}
		require.NoError(t, o.Sweep(t.Context()))
		var mu sync.Mutex
		var all []relay.Batch
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, err := o.Claim(t.Context(), request(t.Name()))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, got...)
			})
		}
		wg.Wait()
		names := laneNames(all)
		require.Len(t, slices.Compact(slices.Clone(names)), len(names), "a lane was claimed twice")
		require.Equal(t, 4*relay.Lanes, len(names), "together they claim everything")
		o.exec(`DELETE FROM outbox.pending`)
	}
}

func TestClaim_LetsTopicsTakeTurnsSoThatABacklogStarvesNone(t *testing.T) {
	o := open(t)
	o.write("audit", 20_000)
	o.write("orders", 1)
	o.write("payments", 600)
	batches, err := o.Claim(t.Context(), relay.ClaimRequest{By: "x", Batches: 4, PerTopic: 4})
	require.NoError(t, err)
	byTopic := map[string]int{}
	for _, b := range batches {
		byTopic[b.Topic]++
	}
	require.Equal(t, map[string]int{"audit": 2, "orders": 1, "payments": 1}, byTopic)
}

func TestClaim_TakesTheLanesServedLongestAgoFirst(t *testing.T) {
	o := open(t)
	for _, topic := range []string{"a", "b", "c"} {
		o.write(topic, 50)
	}
	one := relay.ClaimRequest{By: "x", Batches: 1, PerTopic: 1}
	var served []string
	for range 6 {
		batches, err := o.Claim(t.Context(), one)
		require.NoError(t, err)
		require.Len(t, batches, 1)
		served = append(served, batches[0].Topic)
		require.NoError(t, o.ReleaseClaim(t.Context(), batches[0]))
	}
	require.Equal(t, []string{"a", "b", "c", "a", "b", "c"}, served)
}

func TestClaim_TakesATopicThatHadItsShareOnceAClaimIsReleased(t *testing.T) {
	o := open(t)
	o.write("orders", 8000)
	r := request("x")
	r.PerTopic = 2
	first, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, first, 2)
	o.write("orders", 8000) // whatever waits
	// Lanes that are free again while the claims hold others.
	o.exec(`UPDATE outbox.lane SET leased_until = NULL, claim_id = NULL WHERE lane = ANY ($1)`, first[0].Lanes[1:])
	more, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, more, "two claims are its share")

	require.NoError(t, o.ReleaseClaim(t.Context(), first[0]))
	more, err = o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, more, 1, "one of the two is left")
	o.expireLeases()
	more, err = o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, more, 2, "an expired claim counts no more")
}

func TestClaim_LeavesAPausedTopicAlone(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	o.exec(`INSERT INTO outbox.topic (topic, paused_at, paused_by) VALUES ('orders', now(), 'me')`)
	require.Empty(t, o.claim())
	o.exec(`UPDATE outbox.topic SET paused_at = NULL, paused_by = NULL, recovery_paused_until = now() + interval '1 hour'`)
	require.Empty(t, o.claim(), "recovery pauses apart from the operator")
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = now() - interval '1 second'`)
	require.Equal(t, 5, events(o.claim()), "a recovery that stopped renewing pauses nothing")
}

func TestLinger_WaitsForAPageOrTheAgeOfTheOldestEvent(t *testing.T) {
	o := open(t)
	o.write("orders", 10)
	r := request("x")
	r.Linger = time.Hour
	batches, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, batches)
	o.exec(`UPDATE outbox.pending SET created_at = created_at - interval '2 hours' WHERE id = (SELECT min(id) FROM outbox.pending)`)
	batches, err = o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, 10, events(batches))

	o.write("full", relay.PageEvents)
	require.NoError(t, o.Sweep(t.Context()))
	batches, err = o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, relay.PageEvents, events(batches))
}

func TestClaim_ThatIsRetriedFindsTheBatchesOfTheFirstAttempt(t *testing.T) {
	o := open(t)
	o.write("orders", 3000)
	first, err := o.Claim(t.Context(), request("run/7"))
	require.NoError(t, err)
	require.NotEmpty(t, first)
	again, err := o.Claimed(t.Context(), "run/7")
	require.NoError(t, err)
	require.Equal(t, laneNames(first), laneNames(again))
	require.Len(t, again, len(first))

	other, err := o.Claimed(t.Context(), "run/8")
	require.NoError(t, err)
	require.Empty(t, other, "somebody else's claims are not handed out")

	_, err = o.TakeOver(t.Context(), first[0])
	require.NoError(t, err)
	again, err = o.Claimed(t.Context(), "run/7")
	require.NoError(t, err)
	require.Len(t, again, len(first)-1, "what has begun is not handed out again")
}

func TestClaim_TakesLanesWhoseLeaseHasExpired(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	require.Len(t, o.claim(), 1)
	require.Empty(t, o.claim(), "leased")
	o.expireLeases()
	require.Equal(t, 5, events(o.claim()))
}
