package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ErrUnknownTopic says that no event of a topic was ever written, and that no worker has a route for
// it.
var ErrUnknownTopic = relay.ErrUnknownTopic

const knownSQL = `
SELECT EXISTS (SELECT FROM outbox.lane WHERE topic = $1) OR EXISTS (SELECT FROM outbox.pending WHERE topic = $1),
       ARRAY(SELECT DISTINCT topic FROM outbox.lane ORDER BY 1 LIMIT 20)`

// Known returns ErrUnknownTopic, with the names of known topics, unless an event of the topic was
// written or a worker has a route for it.
func (s *Store) Known(ctx context.Context, topic string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	return known(ctx, s.pool, topic)
}

// known returns an error with the names of known topics if the topic is unknown.
func known(ctx context.Context, db querier, topic string) error {
	var is bool
	var topics []string
	if err := db.QueryRow(ctx, knownSQL, topic).Scan(&is, &topics); err != nil {
		return fmt.Errorf("look for the topic: %w", err)
	}
	switch {
	case is:
		return nil
	case len(topics) == 0:
		if err := security(ctx, db, false); err != nil {
			return err
		}
		return fmt.Errorf("%w %q: no topic has had an event yet", ErrUnknownTopic, topic)
	}
	return fmt.Errorf("%w %q: known topics are %s", ErrUnknownTopic, topic, strings.Join(topics, ", "))
}

// querier is a pool, a connection or a transaction.
type querier interface {
	queryer
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// beginOperationSQL returns no row if the same operation is under way.
const beginOperationSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, selection, matched, at, workflow_id, run_id)
VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()), $8, $9)
ON CONFLICT (topic, kind, md5(selection::text)) WHERE finished_at IS NULL DO NOTHING
RETURNING id`

const nameOperationSQL = `UPDATE outbox.operation SET workflow_id = $2 || id WHERE id = $1`

const sameOperationSQL = `
SELECT id FROM outbox.operation
WHERE kind = $1 AND topic = $2 AND selection = $3 AND finished_at IS NULL`

func orNow(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return at
}

// SameUnderWay returns the recorded operation of the same selection of the topic that has not
// ended, or false.
func (s *Store) SameUnderWay(ctx context.Context, kind, topic string, chosen relay.Selection) (u relay.OperationState, found bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	var id int64
	err = s.pool.QueryRow(ctx, sameOperationSQL, kind, topic, chosen).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return u, false, nil
	}
	if err != nil {
		return u, false, fmt.Errorf("look for the same operation: %w", err)
	}
	u, err = s.Operation(ctx, id)
	return u, err == nil, err
}

// BeginOperation records an operation and returns its number. If an operation of the same selection
// of the topic is under way already, it returns the number of that one, and true: two equal commands
// make one operation. o.WorkflowID is the prefix of the workflow's id, before the number. BeginAsked
// is for a workflow that runs already.
func (s *Store) BeginOperation(ctx context.Context, o relay.Operation) (id int64, joined bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	o.By, o.Reason = s.text(o.By), s.text(o.Reason)
	for err = pgx.ErrNoRows; errors.Is(err, pgx.ErrNoRows); { // the operation under way has just ended
		err = s.record(ctx, func(tx pgx.Tx) error {
			id, joined, err = beginOperation(ctx, tx, o)
			return err
		})
	}
	if err != nil {
		return 0, false, fmt.Errorf("record the operation: %w", err)
	}
	return id, joined, nil
}

// record runs a transaction that records an operation. The number of an operation is the microsecond
// in which it begins. If another operation has that number, record runs the transaction again, which
// draws another number.
func (s *Store) record(ctx context.Context, do func(tx pgx.Tx) error) error {
	for {
		err := pgx.BeginFunc(ctx, s.pool, do)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != uniqueViolation || pgErr.ConstraintName != "operation_pkey" {
			return err
		}
	}
}

func beginOperation(ctx context.Context, tx pgx.Tx, o relay.Operation) (id int64, joined bool, err error) {
	workflowID := ""
	if o.RunID != "" {
		workflowID = o.WorkflowID
	}
	err = tx.QueryRow(ctx, beginOperationSQL, o.Kind, o.Topic, o.By, o.Reason, o.Selection, o.Matched, orNow(o.At), workflowID, o.RunID).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = tx.QueryRow(ctx, sameOperationSQL, o.Kind, o.Topic, o.Selection).Scan(&id)
		return id, true, err
	}
	if err == nil && o.RunID == "" {
		_, err = tx.Exec(ctx, nameOperationSQL, id, o.WorkflowID)
	}
	return id, false, err
}

// operationColumns are the columns of an operation. If its beginning is ahead of the clock, it began
// now: it ignores events that die from now on.
const operationColumns = `id, least(at, now()), clock_timestamp() - at, kind, topic, by, reason, selection, coalesce(matched, 0), workflow_id,
    done, finished_at, outcome, next_after, lanes_after, coalesce(holder::text, '')`

const operationSQL = `SELECT ` + operationColumns + ` FROM outbox.operation WHERE id = $1`

// Operation reads an operation with its progress. It returns relay.ErrUnknownOperation if no
// operation has that number.
func (s *Store) Operation(ctx context.Context, id int64) (relay.OperationState, error) {
	u, err := s.readOperation(ctx, operationSQL, id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = relay.ErrUnknownOperation
	}
	if err != nil {
		return u, fmt.Errorf("read operation %d: %w", id, err)
	}
	return u, nil
}

func (s *Store) readOperation(ctx context.Context, sql string, id int64) (u relay.OperationState, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	err = s.pool.QueryRow(ctx, sql, id).Scan(&u.ID, &u.At, &u.Age, &u.Kind, &u.Topic, &u.By, &u.Reason, &u.Selection,
		&u.Matched, &u.WorkflowID, &u.Done, &u.Finished, &u.Outcome, &u.Noted, &u.Lanes, &u.Holder)
	u.From.ID = u.Noted
	return u, err
}

// takeOperationSQL makes an attempt the holder of an operation, with a new id that no other history
// of the database has. Only the holder writes under this id, and each move increases the count, so
// the holder and the count together identify a state of the record (see sameSQL).
const takeOperationSQL = `
UPDATE outbox.operation SET holder = gen_random_uuid() WHERE id = $1 AND finished_at IS NULL RETURNING ` + operationColumns

// TakeOperation makes the caller the holder of an operation, and returns it with its progress. An
// earlier holder can move no events any more. TakeOperation returns relay.ErrOperationOver if the
// operation has been ended, and relay.ErrUnknownOperation if no operation has that number.
func (s *Store) TakeOperation(ctx context.Context, id int64) (relay.OperationState, error) {
	u, err := s.readOperation(ctx, takeOperationSQL, id)
	if errors.Is(err, pgx.ErrNoRows) {
		if u, err = s.Operation(ctx, id); err == nil {
			err = relay.ErrOperationOver
		}
	}
	if err != nil {
		return u, fmt.Errorf("take operation %d: %w", id, err)
	}
	return u, nil
}

// sameSQL is true if the record is as an attempt has left it: no other attempt has taken the
// operation, and no failover or restore has put the database back to an earlier state.
const sameSQL = `coalesce(holder::text, '') = $2 AND done = $3 AND next_after = $4`

const endOperationSQL = `
UPDATE outbox.operation SET finished_at = now(), outcome = $2, done = greatest(done, $3)
WHERE id = $1 AND finished_at IS NULL`

// completeOperationSQL ends an operation only if its record is as its holder left it. A worker of an
// earlier version names no holder: then the record must have all moved events.
const completeOperationSQL = endOperationSQL + `
  AND CASE WHEN $4 = '' THEN done >= $3 ELSE done = $3 AND coalesce(holder::text, '') = $4 END`

func (s *Store) endOperation(ctx context.Context, sql string, id int64, args ...any) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, sql, append([]any{id}, args...)...); err != nil {
		return fmt.Errorf("end operation %d: %w", id, err)
	}
	return nil
}

// EndOperation records the outcome of an operation and the number of moved events, unless the record
// has a higher number already. The first outcome stays.
func (s *Store) EndOperation(ctx context.Context, id int64, outcome string, done int64) error {
	return s.endOperation(ctx, endOperationSQL, id, s.text(outcome), done)
}

// CompleteOperation records that an operation is done, if its record is as the holder left it when
// moved events were moved. Otherwise a failover or a restore may have lost some of them, and the
// operation stays under way. With holder "", the record must have at least moved events.
func (s *Store) CompleteOperation(ctx context.Context, id int64, holder string, moved int64) error {
	return s.endOperation(ctx, completeOperationSQL, id, "done", moved, holder)
}
