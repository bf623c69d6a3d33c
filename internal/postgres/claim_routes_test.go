package postgres

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// topicsOf are the topics that a claim of a worker with a route for orders got.
func (o testOutbox) topicsOf(r relay.ClaimRequest) (topics []string) {
	o.t.Helper()
	batches, err := o.Claim(o.t.Context(), r)
	require.NoError(o.t, err)
	for _, b := range batches {
		topics = append(topics, b.Topic)
	}
	slices.Sort(topics)
	return topics
}

func (o testOutbox) writeUnrouted(n int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'topic-' || to_char(i, 'FM0000'), 'k', 'T', 'x' FROM generate_series(1, $1::int) i`, n)
}

func TestClaim_TakesAFewTopicsWithoutARouteAndAllThatHaveOne(t *testing.T) {
	all := open(t)
	all.writeUnrouted(10)
	all.write("orders", 1)
	require.Len(t, all.topicsOf(relay.ClaimRequest{By: "x", Batches: 16, PerTopic: 4}), 11, "whoever has no list claims all")

	o := open(t)
	o.writeUnrouted(10)
	o.write("orders", 1)
	r := relay.ClaimRequest{By: "x", Batches: 16, PerTopic: 4, Routed: []string{"orders", "orders", "audit"}, Unrouted: 3}
	require.Equal(t, []string{"orders", "topic-0001", "topic-0002", "topic-0003"}, o.topicsOf(r))
	o.writeUnrouted(1)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'audit', 'k', 'T', 'x'`)
	require.NoError(t, o.Sweep(t.Context()))
	require.Equal(t, []string{"audit"}, o.topicsOf(r), "three are under way")

	// Their recoveries hold them, also between two attempts.
	for _, topic := range []string{"topic-0001", "topic-0002", "topic-0003"} {
		require.NoError(t, o.HoldForRecovery(t.Context(), topic, "r-"+topic, time.Minute))
	}
	o.expireLeases()
	require.Equal(t, []string{"audit", "orders"}, o.topicsOf(r))
	require.NoError(t, o.EndRecoveryHold(t.Context(), "topic-0002", "r-topic-0002"))
	require.Equal(t, []string{"topic-0004"}, o.topicsOf(r), "the one that was claimed longest ago")
	require.Empty(t, o.topicsOf(r))

	// A worker of the next version has a route for one of them.
	r.Routed = append(r.Routed, "topic-0007")
	require.Equal(t, []string{"topic-0007"}, o.topicsOf(r))
	r.Routed, r.Unrouted = []string{}, 0
	require.Empty(t, o.topicsOf(r))
}

func TestClaim_ReadsNothingOfTopicsWithoutARouteOnceAFewAreHeld(t *testing.T) {
	o := open(t)
	const topics = 300
	o.writeUnrouted(topics)
	require.NoError(t, o.Sweep(t.Context()))
	o.exec(`VACUUM (ANALYZE) outbox.lane`)
	for i := range 3 {
		require.NoError(t, o.HoldForRecovery(t.Context(), fmt.Sprintf("topic-%04d", i+1), "r", time.Minute))
	}
	unbounded := pagesOf(o, waitingLanesSQL, 4, []string{}, []int{}, []string(nil), 0, timing.ShareFirst)
	bounded := pagesOf(o, waitingLanesSQL, 4, []string{}, []int{}, []string{"orders"}, 3, timing.ShareFirst)
	t.Logf("pages read by a claim beside %d topics without a route: %d, of those that tell no route %d", topics, bounded, unbounded)
	require.Greater(t, unbounded, topics*relay.Lanes)
	require.Less(t, bounded, topics*relay.Lanes/10)
}

func TestLeavesOut_SaysWhetherAnotherWorkerMayHaveSomethingToDo(t *testing.T) {
	o := open(t)
	leaves := func(routed ...string) bool {
		t.Helper()
		is, err := o.LeavesOut(t.Context(), routed)
		require.NoError(t, err)
		return is
	}
	o.write("orders", 3)
	o.writeUnrouted(1)
	require.NoError(t, o.Sweep(t.Context()))
	require.True(t, leaves("orders"))
	require.False(t, leaves("orders", "topic-0001"))
	require.True(t, leaves())
	require.NoError(t, o.HoldForRecovery(t.Context(), "topic-0001", "r", time.Minute))
	require.False(t, leaves("orders"), "its recovery tries it on all workers")
	require.NoError(t, o.EndRecoveryHold(t.Context(), "topic-0001", "r"))
	require.True(t, leaves("orders"))
	require.Len(t, o.claim(), 2)
	require.False(t, leaves("orders"))
}
