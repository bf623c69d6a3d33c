package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

func (o testOutbox) topics() map[string]relay.TopicState {
	o.t.Helper()
	list, err := o.Topics(o.t.Context())
	require.NoError(o.t, err)
	topics := make(map[string]relay.TopicState, len(list))
	for _, t := range list {
		topics[t.Topic] = t
	}
	return topics
}

func TestTopics_DescribesEachWithTheRightsOfTheRelayRole(t *testing.T) {
	o := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	none, err := limited.Topics(t.Context())
	require.NoError(t, err)
	require.Empty(t, none)

	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders", "rests"}))
	o.write("orders", 40)
	o.exec(`UPDATE outbox.pending SET created_at = created_at - interval '1 minute' WHERE id = (SELECT min(id) FROM outbox.pending)`)
	_, lease := o.claimOne()
	require.NoError(t, o.Keep(t.Context(), lease, []int16{1, 2, 3}))
	o.exec(`INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
	        SELECT t, 0, i, now(), 1, CASE i WHEN 1 THEN 'A rare one' ELSE 'Poison' END, 'm', 1, 'w' FROM unnest('{audit,orders}'::text[]) t, generate_series(1, 3) i`)
	o.exec(`INSERT INTO outbox.topic (topic, paused_at, paused_by, pause_reason) VALUES ('billing', now(), 'ada', repeat('x', 1000))`)
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "outbox-recovery/orders", time.Minute))
	require.NoError(t, o.HoldForRecovery(t.Context(), "rests", "over", 0))

	o.t, o.Store = t, limited
	got := o.topics()
	require.InDelta(t, time.Minute, got["orders"].Oldest, float64(10*time.Second))
	orders := got["orders"]
	orders.Oldest = 0
	require.Equal(t, relay.TopicState{Topic: "orders", Pending: 40, Dead: 3, DeadCode: "Poison", Retrying: 1, Recovery: "outbox-recovery/orders"}, orders)
	require.Equal(t, relay.TopicState{Topic: "audit", Dead: 3, DeadCode: "Poison"}, got["audit"])
	require.Equal(t, relay.TopicState{Topic: "rests"}, got["rests"], "a pause that expired is none")
	require.Equal(t, "ada", got["billing"].PausedBy)
	require.Len(t, got["billing"].PauseReason, 200)
	require.Len(t, got, 4)
}

func TestTopics_CountsNoFurtherThanItSays(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders", "one-key"}))
	o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
	        SELECT 'orders', i % 16, i, now(), 1 FROM generate_series(1, 150000) i`)
	o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
	        SELECT 'one-key', 3, i, now(), 1 FROM generate_series(1, 99999) i`)
	got := o.topics()
	require.Equal(t, int64(relay.CountMost), got["orders"].Pending)
	require.True(t, got["orders"].Capped)
	require.Equal(t, int64(99_999), got["one-key"].Pending)
	require.False(t, got["one-key"].Capped)
}

// As for a claim: a snapshot that somebody holds keeps what was settled in place.
func TestTopics_ReadsNoSettledRowsUnderAHeldSnapshot(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	holder, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer holder.Rollback(t.Context())
	_, err = holder.Exec(t.Context(), `SELECT count(*) FROM outbox.pending`)
	require.NoError(t, err)
	o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
	        SELECT 'orders', i % 16, i, now(), 1 FROM generate_series(1, 30000) i`)
	o.exec(`DELETE FROM outbox.pending`)
	o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
	        SELECT 'orders', i % 16, i, now(), 1 FROM generate_series(30001, 30100) i`)
	unbounded := pagesOf(o, topicsSQL, relay.CountMost, timing.FailureStale)
	o.exec(`UPDATE outbox.lane SET low_id = 30001`)
	bounded := pagesOf(o, topicsSQL, relay.CountMost, timing.FailureStale)
	t.Logf("pages read by a sample: %d, without low watermarks %d", bounded, unbounded)
	require.Greater(t, unbounded, 20*bounded)
	require.Equal(t, int64(100), o.topics()["orders"].Pending)
}

// pagesOfSample is the number of pages that a sample of all topics reads, planned as Topics plans it.
func (o testOutbox) pagesOfSample() int {
	o.t.Helper()
	tx, err := o.db.Begin(o.t.Context())
	require.NoError(o.t, err)
	defer tx.Rollback(o.t.Context())
	_, err = tx.Exec(o.t.Context(), sampleSettingsSQL)
	require.NoError(o.t, err)
	var p plan
	require.NoError(o.t, tx.QueryRow(o.t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+topicsSQL, relay.CountMost, timing.FailureStale).Scan(&p))
	return p[0].Plan.Hit + p[0].Plan.Read
}

// Statistics are renewed once a minute at most, and a deployment may bring hundreds of topics at once.
func TestTopics_ReadsNoMoreWithStatisticsFromBeforeMostTopics(t *testing.T) {
	o := open(t)
	o.exec(`ALTER TABLE outbox.lane SET (autovacuum_enabled = off)`)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.exec(`ANALYZE outbox.lane`)
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT 'topic-' || t, n FROM generate_series(1, 300) t, generate_series(0, 15) n`)
	stale := o.pagesOfSample()
	o.exec(`ANALYZE outbox.lane`)
	renewed := o.pagesOfSample()
	t.Logf("pages read by a sample of 301 topics: %d, with renewed statistics %d", stale, renewed)
	require.Less(t, stale, 2*renewed)
}

// As with the lanes: the last statistics know one topic with dead letters.
func TestTopics_ReadsNoMoreWithStatisticsFromBeforeMostDeadLetters(t *testing.T) {
	o := open(t)
	o.exec(`ALTER TABLE outbox.dead_letter SET (autovacuum_enabled = off)`)
	fill := func(topics int) {
		o.exec(`INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
		        SELECT 'topic-' || t, i % 16, i, now(), 1, 'C', 'm', 1, 'w' FROM generate_series(1, $1::int) t, generate_series(1, 50) i
		        ON CONFLICT DO NOTHING`, topics)
	}
	fill(1)
	o.exec(`ANALYZE outbox.dead_letter`)
	fill(300)
	stale := o.pagesOfSample()
	o.exec(`ANALYZE outbox.dead_letter`)
	renewed := o.pagesOfSample()
	t.Logf("pages read by a sample of 300 topics: %d, with renewed statistics %d", stale, renewed)
	require.Less(t, stale, 2*renewed)
}

func BenchmarkTopics(b *testing.B) {
	for _, c := range []struct{ topics, events int }{{1, 0}, {50, 0}, {1, 1_000_000}, {50, 1_000_000}, {200, 2000}} {
		b.Run(fmt.Sprintf("%d topics, %d pending", c.topics, c.events), func(b *testing.B) {
			o := open(b)
			o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT 'topic-' || t, n FROM generate_series(1, $1::int) t, generate_series(0, 15) n`, c.topics)
			o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
			        SELECT 'topic-' || 1 + i % $1::int, i / $1::int % 16, i, now(), 512 FROM generate_series(1, $2::int) i`, c.topics, c.events)
			for b.Loop() {
				_, err := o.Topics(b.Context())
				require.NoError(b, err)
			}
		})
	}
}
