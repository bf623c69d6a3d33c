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
	Leased      int        `json:"leasedLanes"` // of 16: by batches of the topic
	PausedBy    string     `json:"pausedBy,omitempty"`
	PauseReason string     `json:"pauseReason,omitempty"`
	PausedAt    *time.Time `json:"pausedAt,omitempty"`
	// Recovery is the id of the workflow that holds the topic because its destination is
	// broken.
	Recovery string `json:"recovery,omitempty"`
	// Failure is the reason: the last refusal, if an attempt of that workflow has recorded it.
	Failure *relay.Failure `json:"failure,omitempty"`
	// Apart is of how many lanes, of 16, batches of the topic have to publish the events, although workers
	// hold the shares. ApartCause is the reason, of one of these lanes.
	Apart      int    `json:"apartLanes"`
	ApartCause string `json:"apartCause,omitempty"`
	// Retrying is how many batches of the topic wait for another attempt. Temporal knows when it begins.
	Retrying int `json:"retryingBatches"`
}

// HasProblem reports whether a person should look at the topic: an operator or a recovery has stopped it,
// it has dead letters, a batch of it waits for another attempt, or an event has waited for relay.Late. A
// topic whose lanes are apart for good, for example because of its limit of messages per second, has none.
func (t TopicStatus) HasProblem() bool {
	switch {
	case t.PausedBy != "", t.Recovery != "":
		return true
	case t.Dead > 0, t.Retrying > 0:
		return true
	default:
		return t.OldestAge >= relay.Late.Seconds()
	}
}

// WorkerStatus is a worker process that can hold shares, which are lane numbers of all topics.
type WorkerStatus struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Lanes are the shares that it holds, ascending.
	Lanes []int16 `json:"lanes"`
	// Seated says that an activity of Temporal lets it hold shares. After the end of that activity it
	// keeps them for timing.SeatGrace.
	Seated bool `json:"seated"`
	// SeenAge is the time since its last sign of life, which it gives every timing.ShareEvery.
	SeenAge float64 `json:"seenSecondsAgo"`
}

// workersSQL lists workers that were seen in the last minute or that hold a share. A killed worker is thus
// still listed when its shares have another holder.
const workersSQL = `
SELECT w.id::text, w.name, coalesce(held.lanes, '{}'), w.seated,
       greatest(0, extract(epoch FROM now() - w.seen_at))::float8
FROM outbox.worker w
LEFT JOIN (SELECT worker, array_agg(lane ORDER BY lane) AS lanes FROM outbox.share
           WHERE leased_until >= now() GROUP BY worker) held ON held.worker = w.id
WHERE held.lanes IS NOT NULL OR w.seen_at >= now() - interval '1 minute'
ORDER BY held.lanes, w.name, w.id`

// Workers lists the workers that hold shares or were seen in the last minute, by their lanes and names. It
// is empty if no worker can hold shares (OUTBOX_BATCHES=topics).
func (s *Store) Workers(ctx context.Context) ([]WorkerStatus, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	workers, err := returned(ctx, s, pgx.RowToStructByPos[WorkerStatus], workersSQL)
	if err != nil {
		return nil, fmt.Errorf("read the workers and their shares: %w", err)
	}
	return workers, nil
}

const statusSQL = `
WITH pending AS (
    SELECT topic, count(*) AS events, ` + safeAgeFrom + `min(created_at)` + safeAgeTo + ` AS oldest
    FROM outbox.pending GROUP BY topic),
dead AS (SELECT topic, count(*) AS events FROM outbox.dead_letter GROUP BY topic),
leased AS (
    SELECT topic, count(*) FILTER (WHERE leased_until > now()) AS lanes, count(*) FILTER (WHERE apart) AS apart,
           coalesce(max(apart_cause) FILTER (WHERE apart), '') AS cause,
           count(DISTINCT claim_id) FILTER (WHERE retrying AND leased_until > now()) AS retrying
    FROM outbox.lane GROUP BY topic)
SELECT topic, coalesce(pending.events, 0) AS pending, coalesce(pending.oldest, 0),
       coalesce(dead.events, 0), coalesce(leased.lanes, 0)::int,
       coalesce(t.paused_by, ''), coalesce(t.pause_reason, ''), t.paused_at,
       ` + recoveryOf + `, ` + failureFrom + `1` + wholeFailure + `,
       coalesce(leased.apart, 0)::int, coalesce(leased.cause, ''), coalesce(leased.retrying, 0)::int
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
			&t.PausedBy, &t.PauseReason, &t.PausedAt, &t.Recovery, &t.Failure, &t.Apart, &t.ApartCause, &t.Retrying)
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
