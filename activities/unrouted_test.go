package activities

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func TestClaimBatches_TellsTheStoreWhichTopicsHaveARoute(t *testing.T) {
	e := newEnv(t)
	_, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Nil(t, e.store.asked.Routed, "it does not know")
	e.cfg.Routes = []string{"orders"}
	_, err = e.claim(t, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"orders"}, e.store.asked.Routed)
	require.Equal(t, unroutedMost, e.store.asked.Unrouted)
}

// Another worker, of a version that has just started, may route them.
func TestClaimBatches_EndsItsWaitEarlyOnlyForTopicsWithoutARoute(t *testing.T) {
	for name, c := range map[string]struct {
		routes []string
		leaves bool
		early  bool
	}{
		"nothing waits": {[]string{"orders"}, false, false},
		"some wait":     {[]string{"orders"}, true, true},
		"no list":       {nil, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.cfg.Routes, e.store.leavesOut, e.routeWait = c.routes, c.leaves, 50*time.Millisecond
			began := time.Now()
			_, err := e.claim(t, time.Second)
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
			require.Equal(t, c.early, time.Since(began) < 800*time.Millisecond)
		})
	}
}

func TestSample_NamesAFewTopicsWithoutARouteAndCountsAll(t *testing.T) {
	e := sampling(t, func(int) (topics []relay.TopicState, _ error) {
		for i := range 100 {
			topics = append(topics, relay.TopicState{Topic: fmt.Sprintf("topic-%03d", i), Pending: 1, Oldest: time.Hour, NoRoute: true})
		}
		return append(topics, relay.TopicState{Topic: "audit", Oldest: relay.Late, Pending: 1}, relay.TopicState{Topic: "orders"},
			relay.TopicState{Topic: "old", NoRoute: true}), nil
	})
	e.sampled(t, 1)
	r, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Equal(t, 100, r.Unrouted)
	require.Equal(t, 95, r.MoreTopics)
	var names []string
	for _, s := range r.Topics {
		names = append(names, s.Topic)
	}
	require.Equal(t, []string{"audit", "topic-000", "topic-001", "topic-002", "topic-003", "topic-004", "old", "orders"}, names)
}

// The route comes with another worker, and the recovery notices it within seconds.
func TestRecovery_OfATopicWithoutARouteTriesAgainWithinSeconds(t *testing.T) {
	var pauses []time.Duration
	for without := range 8 {
		e := newEnv(t)
		e.store.fill(1, 1)
		e.publisher.answer = func(int, relay.Event) *relay.PublishError {
			return &relay.PublishError{Code: relay.CodeNoRoute, Class: relay.ClassDestination, Whole: true}
		}
		e.SetHeartbeatDetails(checkpoint{AttemptsWithoutSuccess: without})
		r := request(1)
		r.Recovering = true
		_, err := e.publishAs(t, r)
		pauses = append(pauses, asApplicationError(t, err).NextRetryDelay())
	}
	require.Equal(t, timing.RecoveryPauseFirst, pauses[0])
	require.Equal(t, timing.RouteRetryPauseMost, pauses[7])
}
