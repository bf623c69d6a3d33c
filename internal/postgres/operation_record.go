package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// recordRequestSQL records a request to a recovery. It returns no row if the same request to the same recovery is still open.
const recordRequestSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, selection, matched, workflow_id)
VALUES ($1, $2, $3, $4, $5, nullif($6::bigint, 0), $7)
ON CONFLICT (topic, kind, md5(selection::text)) WHERE finished_at IS NULL DO NOTHING
RETURNING id`

// recordJoinedRequestSQL records another operator's request that joins the open one. It has ended at once.
const recordJoinedRequestSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, selection, matched, workflow_id, finished_at, outcome)
VALUES ($1, $2, $3, $4, $5, nullif($6::bigint, 0), $7, now(), 'joined operation ' || $8::bigint)`

// RecordRecoveryRequest records a request to a recovery before the request is sent: the answer may be
// late, and the record must name the operator. EndOperation ends the record. If the same request to the
// same recovery is already open, RecordRecoveryRequest records the second operator too, and returns the
// number of the first request.
func (s *Store) RecordRecoveryRequest(ctx context.Context, o relay.Operation) (id int64, joined bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	args := []any{o.Kind, o.Topic, s.text(o.By), s.text(o.Reason), o.Selection, o.Matched, o.WorkflowID}
	err = s.record(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, recordRequestSQL, args...).Scan(&id)
		if joined = errors.Is(err, pgx.ErrNoRows); !joined {
			return err
		}
		if err := tx.QueryRow(ctx, sameOperationSQL, o.Kind, o.Topic, o.Selection).Scan(&id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, recordJoinedRequestSQL, append(args, id)...)
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("record the request: %w", err)
	}
	return id, joined, nil
}

// lockWorkflowSQL lets only one attempt of a workflow record an operation at a time, until the transaction
// ends: the second attempt finds the record of the first.
const lockWorkflowSQL = `SELECT pg_advisory_xact_lock(hashtextextended('outbox/operation/' || $1, 0))`

// operationOfWorkflowSQL finds the operations of a workflow id. Those of the same run come first.
const operationOfWorkflowSQL = `
SELECT id, run_id FROM outbox.operation
WHERE workflow_id = $1 AND run_id <> ''
ORDER BY run_id <> $2, id DESC LIMIT 1`

// askedBy returns the number of the operation that the workflow of o has asked for, 0 if there is
// none, and whether the same run asked. It makes other attempts of the workflow wait.
func askedBy(ctx context.Context, tx pgx.Tx, o relay.Operation) (id int64, sameRun bool, err error) {
	if _, err := tx.Exec(ctx, lockWorkflowSQL, o.WorkflowID); err != nil {
		return 0, false, err
	}
	var run string
	err = tx.QueryRow(ctx, operationOfWorkflowSQL, o.WorkflowID, o.RunID).Scan(&id, &run)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return id, run == o.RunID, err
}

// AskedBy returns the operation that a workflow with a form has asked for, if it has: another
// attempt of the workflow then continues with that operation. The error wraps
// relay.ErrAskedBefore if an earlier workflow of the same id asked.
func (s *Store) AskedBy(ctx context.Context, o relay.Operation) (u relay.OperationState, found bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var id int64
	var sameRun bool
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		id, sameRun, err = askedBy(ctx, tx, o)
		return err
	})
	if err != nil || id == 0 {
		return u, false, err
	}
	if u, err = s.Operation(ctx, id); err == nil && !sameRun {
		err = relay.ErrAskedBefore
	}
	return u, true, err
}

// BeginAsked records the operation of a workflow with a form, and returns it. Another attempt of
// the workflow, and a run to which it was reset, get the same operation with its progress. The
// error wraps relay.ErrAskedBefore if an earlier workflow of the same id has asked for an
// operation. It wraps relay.ErrSameUnderWay if another workflow already runs the same operation;
// BeginAsked then returns that operation.
func (s *Store) BeginAsked(ctx context.Context, o relay.Operation) (relay.OperationState, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	o.By, o.Reason = s.text(o.By), s.text(o.Reason)
	var id int64
	var joined, sameRun bool
	err := pgx.ErrNoRows
	for errors.Is(err, pgx.ErrNoRows) { // the operation under way has just ended
		err = s.record(ctx, func(tx pgx.Tx) (err error) {
			if id, sameRun, err = askedBy(ctx, tx, o); err != nil || id != 0 {
				return err
			}
			sameRun = true
			id, joined, err = beginOperation(ctx, tx, o)
			return err
		})
	}
	if err != nil {
		return relay.OperationState{}, fmt.Errorf("record the operation: %w", err)
	}
	u, err := s.Operation(ctx, id)
	switch {
	case err != nil:
		return u, err
	case !sameRun:
		return u, relay.ErrAskedBefore
	case joined:
		return u, relay.ErrSameUnderWay
	}
	return u, nil
}
