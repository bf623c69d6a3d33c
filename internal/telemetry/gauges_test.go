package telemetry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestSample_IsShownByTopicUntilItIsTooOld(t *testing.T) {
	m := newMetrics(t)
	now := time.Now()
	m.now = func() time.Time { return now }
	require.NotContains(t, scrape(t, m), "outbox_topics_sampled")
	m.Topics([]relay.TopicState{
		{Topic: "orders", Pending: relay.CountMost, Capped: true, Oldest: 90 * time.Second, Dead: 4, Retrying: 2, Recovery: "outbox-recovery/orders"},
		{Topic: "audit", PausedBy: "ann", PauseReason: "a secret"},
	})
	text := scrape(t, m)
	for _, want := range []string{
		`outbox_topics_sampled 2`,
		`outbox_pending_events{topic="orders"} 100000`,
		`outbox_pending_events_capped{topic="orders"} 1`,
		`outbox_oldest_pending_age_seconds{topic="orders"} 90`,
		`outbox_dead_letters{topic="orders"} 4`,
		`outbox_retrying_batches{topic="orders"} 2`,
		`outbox_topic_paused{by="recovery",topic="orders"} 1`,
		`outbox_topic_paused{by="operator",topic="orders"} 0`,
		`outbox_pending_events{topic="audit"} 0`,
		`outbox_pending_events_capped{topic="audit"} 0`,
		`outbox_oldest_pending_age_seconds{topic="audit"} 0`,
		`outbox_topic_paused{by="operator",topic="audit"} 1`,
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "ann")
	require.NotContains(t, text, "secret")

	m.Topics([]relay.TopicState{{Topic: "audit"}})
	require.NotContains(t, scrape(t, m), `outbox_pending_events{topic="orders"}`, "a topic that is gone is not shown")
	now = now.Add(topicsLife - time.Second)
	require.Contains(t, scrape(t, m), `outbox_pending_events{topic="audit"} 0`)
	now = now.Add(time.Second)
	text = scrape(t, m)
	for _, gone := range []string{"outbox_pending_events", "outbox_oldest", "outbox_dead_letters", "outbox_topic_paused", "outbox_topics_sampled"} {
		require.NotContains(t, text, gone)
	}
}

func TestUpkeep_IsShownUntilItIsTooOld(t *testing.T) {
	m := newMetrics(t)
	now := time.Now()
	m.now = func() time.Time { return now }
	require.NotContains(t, scrape(t, m), "outbox_partitions_ahead_days")
	m.Health(relay.Health{Ahead: 14, Caught: 3, HeldXIDs: 2_000_000})
	text := scrape(t, m)
	require.Contains(t, text, "outbox_partitions_ahead_days 14")
	require.Contains(t, text, "outbox_default_partition_events 3")
	require.Contains(t, text, "outbox_vacuum_held_transactions 2e+06")
	now = now.Add(healthLife - time.Second)
	require.Contains(t, scrape(t, m), "outbox_partitions_ahead_days 14")
	now = now.Add(time.Second)
	require.NotContains(t, scrape(t, m), "outbox_partitions_ahead_days")
}

func TestUp_ShowsEachDestinationAndEachPartOfTheRelay(t *testing.T) {
	m := newMetrics(t)
	m.Destination("orders", true)
	m.Destination("audit", false)
	m.Relay(map[string]bool{"schedule": false, "relay": true})
	text := scrape(t, m)
	require.Contains(t, text, `outbox_destination_up{topic="orders"} 1`)
	require.Contains(t, text, `outbox_destination_up{topic="audit"} 0`)
	require.Contains(t, text, `outbox_relay_up{part="schedule"} 0`)
	m.Relay(map[string]bool{"relay": true})
	require.NotContains(t, scrape(t, m), `part="schedule"`, "a part of which nothing is known is not shown")
}

func TestShares_AreShownByWorkersThatCanHoldThem(t *testing.T) {
	m := newMetrics(t)
	require.NotContains(t, scrape(t, m), "outbox_shares_held")
	lanes := 8
	m.Sharing(func() (int, bool) { return lanes, lanes > 0 })
	text := scrape(t, m)
	require.Contains(t, text, "outbox_shares_held 8")
	require.Contains(t, text, "outbox_worker_seated 1")
	lanes = 0
	text = scrape(t, m)
	require.Contains(t, text, "outbox_shares_held 0")
	require.Contains(t, text, "outbox_worker_seated 0")
}

func TestUp_ShowsEachDependency(t *testing.T) {
	m := newMetrics(t)
	m.Dependency("database", true)
	m.Dependency("temporal", false)
	text := scrape(t, m)
	require.Contains(t, text, `outbox_dependency_up{dependency="database"} 1`)
	require.Contains(t, text, `outbox_dependency_up{dependency="temporal"} 0`)
}
