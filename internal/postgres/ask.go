package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// askSQL gives nothing if the same is asked of the same recovery and not answered yet.
const askSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, selection, matched, workflow_id)
VALUES ($1, $2, $3, $4, $5, nullif($6::bigint, 0), $7)
ON CONFLICT (topic, kind, md5(selection::text)) WHERE finished_at IS NULL DO NOTHING
RETURNING id`

const askedTooSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, selection, matched, workflow_id, finished_at, outcome)
VALUES ($1, $2, $3, $4, $5, nullif($6::bigint, 0), $7, now(), 'joined operation ' || $8::bigint)`

// Ask puts on record what is asked of a recovery, before it is: the answer may be late,
// and who asked is to be known. EndOperation ends it. If the same is asked of the same
// recovery already, it notes who asked too, and returns the number of the first.
func (s *Store) Ask(ctx context.Context, o relay.Operation) (id int64, joined bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	args := []any{o.Kind, o.Topic, s.text(o.By), s.text(o.Reason), o.Selection, o.Matched, o.WorkflowID}
	err = s.record(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, askSQL, args...).Scan(&id)
		if joined = errors.Is(err, pgx.ErrNoRows); !joined {
			return err
		}
		if err := tx.QueryRow(ctx, sameOperationSQL, o.Kind, o.Topic, o.Selection).Scan(&id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, askedTooSQL, append(args, id)...)
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("put on record what is asked: %w", err)
	}
	return id, joined, nil
}
