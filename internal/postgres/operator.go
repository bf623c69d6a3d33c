package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrUnknownTopic says that no event of a topic was ever written and no worker
// routes it.
var ErrUnknownTopic = errors.New("unknown topic")

// Operation is what an operator asks for a topic: who, and why.
type Operation struct {
	Topic, By, Reason string
}

const knownSQL = `
SELECT EXISTS (SELECT FROM outbox.lane WHERE topic = $1) OR EXISTS (SELECT FROM outbox.pending WHERE topic = $1),
       ARRAY(SELECT DISTINCT topic FROM outbox.lane ORDER BY 1 LIMIT 20)`

const operatorPauseSQL = `
INSERT INTO outbox.topic AS t (topic, paused_at, paused_by, pause_reason)
VALUES ($1, now(), $2, $3)
ON CONFLICT (topic) DO UPDATE
SET paused_at = coalesce(t.paused_at, excluded.paused_at), paused_by = excluded.paused_by, pause_reason = excluded.pause_reason
WHERE (t.paused_by, t.pause_reason) IS DISTINCT FROM (excluded.paused_by, excluded.pause_reason)`

const operatorResumeSQL = `
UPDATE outbox.topic SET paused_at = NULL, paused_by = NULL, pause_reason = NULL
WHERE topic = $1 AND paused_at IS NOT NULL`

const recordSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason) VALUES ($1, $2, $3, $4)`

// Pause keeps claims away from a topic until an operator resumes it. Batches under
// way end within seconds. It reports whether anything was different before. A
// recovery's pause is another matter, and stays as it is.
func (s *Store) Pause(ctx context.Context, o Operation) (changed bool, err error) {
	return s.operate(ctx, "pause", o, operatorPauseSQL, o.Topic, o.By, o.Reason)
}

// Resume lifts an operator's pause. It reports whether there was one.
func (s *Store) Resume(ctx context.Context, o Operation) (changed bool, err error) {
	return s.operate(ctx, "resume", o, operatorResumeSQL, o.Topic)
}

// operate runs a statement on a topic that is known, and records it if it changed
// something.
func (s *Store) operate(ctx context.Context, kind string, o Operation, sql string, args ...any) (changed bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var known bool
		var topics []string
		if err := tx.QueryRow(ctx, knownSQL, o.Topic).Scan(&known, &topics); err != nil {
			return err
		}
		if !known {
			return fmt.Errorf("%w %q: there are %s", ErrUnknownTopic, o.Topic, strings.Join(topics, ", "))
		}
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return err
		}
		if changed = tag.RowsAffected() > 0; !changed {
			return nil
		}
		_, err = tx.Exec(ctx, recordSQL, kind, o.Topic, o.By, o.Reason)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("%s topic: %w", kind, err)
	}
	return changed, nil
}
