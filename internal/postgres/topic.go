package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// pauseTopicSQL lets recovery have a topic for a while, and never for less than it
// had already. An operator's pause is in other columns and stays as it is.
// After a pause that had expired the failure begins anew: the topic may have been published
// meanwhile.
const pauseTopicSQL = `
INSERT INTO outbox.topic AS t (topic, recovery_paused_until, recovery_workflow_id)
VALUES ($1, now() + $2::interval, $3)
ON CONFLICT (topic) DO UPDATE
SET recovery_paused_until = greatest(t.recovery_paused_until, excluded.recovery_paused_until), recovery_workflow_id = excluded.recovery_workflow_id,
    failing_since = CASE WHEN t.recovery_paused_until > now() THEN t.failing_since END`

// PauseTopic keeps claims away from a topic until it is resumed, but not for longer
// than the given time: whoever recovers it renews the pause as long as it lives.
func (s *Store) PauseTopic(ctx context.Context, topic, workflowID string, pause time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, pauseTopicSQL, topic, pause, workflowID); err != nil {
		return fmt.Errorf("pause topic: %w", err)
	}
	return nil
}

const noteFailureSQL = `
UPDATE outbox.topic
SET failure_code = $3, failure_message = $4, failure_destination = $5,
    failing_since = coalesce(failing_since, now()), next_attempt_at = now() + $6::interval
WHERE topic = $1 AND recovery_workflow_id = $2`

// NoteFailure keeps with a topic why it is paused by that recovery, whose next attempt
// follows after the given time. A Failure's own times are not read. If the topic is no
// longer paused in that recovery's name, nothing is kept.
func (s *Store) NoteFailure(ctx context.Context, topic, workflowID string, f relay.Failure, next time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, noteFailureSQL, topic, workflowID, s.text(f.Code), s.text(f.Message), s.text(f.Destination), next); err != nil {
		return fmt.Errorf("note why a topic is paused: %w", err)
	}
	return nil
}

// recoveryOf is the workflow that keeps the topic t paused, in a statement.
const recoveryOf = `CASE WHEN t.recovery_paused_until > now() THEN t.recovery_workflow_id ELSE '' END`

// wholeFailure is why, as relay.Failure, or null; shortFailure is the same for the board of all
// topics. A failure whose next attempt has been due for longer than an attempt takes is not the
// last: a worker of an earlier version, which notes none, may have the recovery.
const (
	wholeFailure = failureFrom + `1100` + failureTo
	shortFailure = failureFrom + `200` + failureTo

	failureFrom = `CASE WHEN t.recovery_paused_until > now() AND t.failing_since IS NOT NULL AND t.next_attempt_at > now() - interval '5 minutes' THEN
           json_build_object('code', t.failure_code, 'message', left(t.failure_message, `
	failureTo = `), 'destination', t.failure_destination, 'since', t.failing_since, 'nextAttemptAt', t.next_attempt_at) END`
)

const resumeTopicSQL = `
UPDATE outbox.topic
SET recovery_paused_until = NULL, recovery_workflow_id = NULL,
    failure_code = NULL, failure_message = NULL, failure_destination = NULL, failing_since = NULL, next_attempt_at = NULL
WHERE topic = $1 AND recovery_workflow_id = $2`

// ResumeTopic lifts the pause of that recovery, and no other, and forgets its failure.
func (s *Store) ResumeTopic(ctx context.Context, topic, workflowID string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, resumeTopicSQL, topic, workflowID); err != nil {
		return fmt.Errorf("resume topic: %w", err)
	}
	return nil
}
