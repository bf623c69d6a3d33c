package postgres

import (
	"context"
	"fmt"
	"time"
)

// pauseTopicSQL lets recovery have a topic for a while, and never for less than it
// had already. An operator's pause is in other columns and stays as it is.
const pauseTopicSQL = `
INSERT INTO outbox.topic AS t (topic, recovery_paused_until, recovery_workflow_id)
VALUES ($1, now() + $2::interval, $3)
ON CONFLICT (topic) DO UPDATE
SET recovery_paused_until = greatest(t.recovery_paused_until, excluded.recovery_paused_until), recovery_workflow_id = excluded.recovery_workflow_id`

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

const resumeTopicSQL = `
UPDATE outbox.topic SET recovery_paused_until = NULL, recovery_workflow_id = NULL
WHERE topic = $1 AND recovery_workflow_id = $2`

// ResumeTopic lifts the pause of that recovery, and no other.
func (s *Store) ResumeTopic(ctx context.Context, topic, workflowID string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, resumeTopicSQL, topic, workflowID); err != nil {
		return fmt.Errorf("resume topic: %w", err)
	}
	return nil
}
