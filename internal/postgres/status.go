package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// TopicStatus is a topic as an operator sees it.
type TopicStatus struct {
	Topic       string     `json:"topic"`
	Pending     int64      `json:"pending"`
	OldestAge   float64    `json:"oldestAgeSeconds"` // 0 if nothing is pending
	Dead        int64      `json:"dead"`
	Leased      int        `json:"leasedLanes"` // of 16: by a batch, or by a worker that holds the lane's share
	PausedBy    string     `json:"pausedBy,omitempty"`
	PauseReason string     `json:"pauseReason,omitempty"`
	PausedAt    *time.Time `json:"pausedAt,omitempty"`
	// Recovery is the id of the workflow that holds the topic because its destination is
	// broken.
	Recovery string `json:"recovery,omitempty"`
	// Failure is the reason: the last refusal, if an attempt of that workflow has recorded it.
	Failure *relay.Failure `json:"failure,omitempty"`
}

const statusSQL = `
WITH pending AS (
    SELECT topic, count(*) AS events, ` + safeAgeFrom + `min(created_at)` + safeAgeTo + ` AS oldest
    FROM outbox.pending GROUP BY topic),
dead AS (SELECT topic, count(*) AS events FROM outbox.dead_letter GROUP BY topic),
leased AS (
    SELECT topic, count(*) FILTER (WHERE leased_until > now() OR NOT ` + mayClaim + `) AS lanes
    FROM outbox.lane l GROUP BY topic)
SELECT topic, coalesce(pending.events, 0) AS pending, coalesce(pending.oldest, 0),
       coalesce(dead.events, 0), coalesce(leased.lanes, 0)::int,
       coalesce(t.paused_by, ''), coalesce(t.pause_reason, ''), t.paused_at,
       ` + recoveryOf + `, ` + failureFrom + `1` + wholeFailure + `
FROM pending
FULL JOIN dead USING (topic)
FULL JOIN leased USING (topic)
FULL JOIN outbox.topic t USING (topic)
ORDER BY topic`

// Status describes every topic that the outbox has seen. It counts exactly, so it reads all pending
// events.
func (s *Store) Status(ctx context.Context) ([]TopicStatus, error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	// It would report hidden rows as absent.
	if err := s.Security(ctx); err != nil {
		return nil, err
	}
	topics, err := collect(ctx, s, func(row pgx.CollectableRow) (t TopicStatus, err error) {
		err = row.Scan(&t.Topic, &t.Pending, &t.OldestAge, &t.Dead, &t.Leased,
			&t.PausedBy, &t.PauseReason, &t.PausedAt, &t.Recovery, &t.Failure)
		t.Topic = readableTopic(t.Topic)
		return t, err
	}, statusSQL, timing.FailureStale)
	if unconvertible(err) {
		return nil, fmt.Errorf("read status: the name of a topic cannot be read as UTF-8: start a worker, which makes dead letters of its events: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return topics, nil
}
