package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// topicsSQL describes every topic. It counts to at most $1, over all lanes of a topic together, and
// begins in each lane at its low_id. So it reads a bounded part, even if many events are pending, or
// many were settled since the oldest open snapshot. The counts are LATERALs with LIMIT for the same
// reason as the probes of a claim.
const topicsSQL = `
WITH RECURSIVE dead AS (
    (SELECT topic FROM outbox.dead_letter ORDER BY topic LIMIT 1)
    UNION ALL
    SELECT following.topic
    FROM dead CROSS JOIN LATERAL (
        SELECT d.topic FROM outbox.dead_letter d WHERE d.topic > dead.topic ORDER BY d.topic LIMIT 1) following),
known AS (SELECT topic FROM outbox.lane UNION SELECT topic FROM outbox.topic UNION SELECT topic FROM dead)
SELECT k.topic, pending.events, pending.events = $1,
       CASE WHEN lanes.oldest IS NULL THEN 0 ELSE ` + safeAgeFrom + `lanes.oldest` + safeAgeTo + ` END,
       letters.events, letters.code, lanes.retrying,
       coalesce(left(t.paused_by, 100), ''), coalesce(left(t.pause_reason, 200), ''),
       ` + recoveryOf + `, ` + failureFrom + `2` + shortFailure + `
FROM known k
LEFT JOIN outbox.topic t USING (topic)
CROSS JOIN LATERAL (
    SELECT count(*) AS events
    FROM (SELECT FROM outbox.lane l
          CROSS JOIN LATERAL (
              SELECT FROM outbox.pending p
              WHERE p.topic = l.topic AND p.lane = l.lane AND p.id >= l.low_id
              ORDER BY p.id LIMIT $1) event
          WHERE l.topic = k.topic LIMIT $1) counted) pending
CROSS JOIN LATERAL (
    SELECT min(first.created_at) AS oldest,
           (count(DISTINCT l.claim_id) FILTER (WHERE l.retrying AND l.leased_until >= now()))::int AS retrying
    FROM outbox.lane l
    LEFT JOIN LATERAL (
        SELECT p.created_at FROM outbox.pending p
        WHERE p.topic = l.topic AND p.lane = l.lane AND p.id >= l.low_id
        ORDER BY p.id LIMIT 1) first ON true
    WHERE l.topic = k.topic) lanes
CROSS JOIN LATERAL (
    SELECT count(*) AS events, coalesce(mode() WITHIN GROUP (ORDER BY code), '') AS code
    FROM (SELECT d.code FROM outbox.dead_letter d WHERE d.topic = k.topic ORDER BY d.lane, d.id LIMIT $1) counted) letters
ORDER BY k.topic`

// sampleSettingsSQL is for one transaction. To compile the statement takes longer than to run it. If
// the planner expects few rows in a lane, a bitmap scan reads and sorts all of them before the count
// ends. And statistics that are older than most topics make it read the whole table of lanes for each
// topic, which took 8 s for 2,000 topics instead of 0.1 s.
const sampleSettingsSQL = `SELECT set_config('jit', 'off', true), set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true)`

// Topics describes every topic that has lanes, a pause or a dead letter. Unlike Status, it reads a
// bounded part of the pending events, and cuts long names and reasons.
func (s *Store) Topics(ctx context.Context) ([]relay.TopicState, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	topics, err := s.sampleTopics(ctx)
	if unconvertible(err) {
		if err = s.setAside(ctx, ""); err == nil {
			topics, err = s.sampleTopics(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sample topics: %w", err)
	}
	return topics, nil
}

func (s *Store) sampleTopics(ctx context.Context) (topics []relay.TopicState, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sampleSettingsSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, topicsSQL, relay.CountMost, timing.FailureStale)
		if err != nil {
			return err
		}
		topics, err = pgx.CollectRows(rows, scanTopic)
		return err
	})
	return topics, err
}

func scanTopic(row pgx.CollectableRow) (t relay.TopicState, err error) {
	var age float64
	var failure *relay.Failure
	err = row.Scan(&t.Topic, &t.Pending, &t.Capped, &age, &t.Dead, &t.DeadCode, &t.Retrying, &t.PausedBy, &t.PauseReason, &t.Recovery, &failure)
	t.Topic = readableTopic(t.Topic)
	if failure != nil {
		t.Failure = *failure
	}
	t.Oldest = time.Duration(age * float64(time.Second)).Truncate(time.Millisecond)
	return t, err
}
