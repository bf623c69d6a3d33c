package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

const operatorPauseSQL = `
INSERT INTO outbox.topic AS t (topic, paused_at, paused_by, pause_reason)
VALUES ($1, now(), $2, $3)
ON CONFLICT (topic) DO UPDATE
SET paused_at = coalesce(t.paused_at, excluded.paused_at), paused_by = excluded.paused_by, pause_reason = excluded.pause_reason
WHERE (t.paused_by, t.pause_reason) IS DISTINCT FROM (excluded.paused_by, excluded.pause_reason)`

const operatorResumeSQL = `
UPDATE outbox.topic SET paused_at = NULL, paused_by = NULL, pause_reason = NULL
WHERE topic = $1 AND paused_at IS NOT NULL`

const isPausedSQL = `SELECT EXISTS (SELECT FROM outbox.topic WHERE topic = $1 AND paused_at IS NOT NULL)`

const recordSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, workflow_id, run_id, finished_at, outcome)
VALUES ($1, $2, $3, $4, $5, $6, now(), 'done')`

// Pause keeps claims away from a topic until an operator resumes it. Batches under way end within
// seconds; batches that wait for another attempt end with that attempt. Pause reports whether it
// changed anything. It does not touch the hold of a recovery. If a workflow asks for it, another attempt
// of its run changes nothing and gets the result of the first attempt; the error wraps
// relay.ErrUndone if the topic is not paused any more.
func (s *Store) Pause(ctx context.Context, o relay.Operation) (changed bool, err error) {
	return s.operate(ctx, relay.Pause, o, operatorPauseSQL, o.Topic, s.text(o.By), s.text(o.Reason))
}

// Resume lifts an operator's pause. It reports whether the topic was paused. Another attempt of a
// workflow's run gets the result of the first attempt; the error wraps relay.ErrUndone if the topic
// is paused again.
func (s *Store) Resume(ctx context.Context, o relay.Operation) (changed bool, err error) {
	return s.operate(ctx, relay.Resume, o, operatorResumeSQL, o.Topic)
}

// operate runs a statement on a known topic, and records the operation if the statement changed a
// row.
func (s *Store) operate(ctx context.Context, kind string, o relay.Operation, sql string, args ...any) (changed bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	err = s.record(ctx, func(tx pgx.Tx) error {
		if o.RunID != "" {
			id, sameRun, err := askedBy(ctx, tx, o)
			if err != nil {
				return err
			}
			if changed = id != 0 && sameRun; changed {
				return stillSo(ctx, tx, kind, o.Topic)
			}
		}
		if err := known(ctx, tx, o.Topic); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return err
		}
		if changed = tag.RowsAffected() > 0; !changed {
			return nil
		}
		_, err = tx.Exec(ctx, recordSQL, kind, o.Topic, s.text(o.By), s.text(o.Reason), o.WorkflowID, o.RunID)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("%s topic: %w", kind, err)
	}
	return changed, nil
}

// stillSo returns relay.ErrUndone if a paused topic is no longer paused, or if a resumed topic is
// paused again.
func stillSo(ctx context.Context, tx pgx.Tx, kind, topic string) error {
	var isPaused bool
	err := tx.QueryRow(ctx, isPausedSQL, topic).Scan(&isPaused)
	if err == nil && isPaused != (kind == relay.Pause) {
		err = relay.ErrUndone
	}
	return err
}
