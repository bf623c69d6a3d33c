package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ErrUnknownTopic says that no event of a topic was ever written and no worker
// routes it.
var ErrUnknownTopic = errors.New("unknown topic")

const knownSQL = `
SELECT EXISTS (SELECT FROM outbox.lane WHERE topic = $1) OR EXISTS (SELECT FROM outbox.pending WHERE topic = $1),
       ARRAY(SELECT DISTINCT topic FROM outbox.lane ORDER BY 1 LIMIT 20)`

// Known returns ErrUnknownTopic, with the names of those there are, unless an event of
// the topic was written or a worker routes it.
func (s *Store) Known(ctx context.Context, topic string) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	return known(ctx, s.pool, topic)
}

// known returns an error that names the topics there are, if the topic is none.
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
		return fmt.Errorf("%w %q: there is none yet", ErrUnknownTopic, topic)
	}
	return fmt.Errorf("%w %q: there are %s", ErrUnknownTopic, topic, strings.Join(topics, ", "))
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// beginOperationSQL gives nothing if the same is under way.
const beginOperationSQL = `
INSERT INTO outbox.operation (kind, topic, by, reason, selection, matched, at)
VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()))
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

// SameUnderWay returns the operation that is on record for the same selection of the
// topic and has not ended, or false.
func (s *Store) SameUnderWay(ctx context.Context, kind, topic string, chosen relay.Selection) (u relay.UnderWay, found bool, err error) {
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

// BeginOperation puts an operation on record and returns its number. If the same
// selection of the topic is under way already, it returns that one's, and true: the
// same command given twice does a thing once. o.WorkflowID is what the workflow's id
// begins with, before that number.
func (s *Store) BeginOperation(ctx context.Context, o relay.Operation) (id int64, joined bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	o.By, o.Reason = s.text(o.By), s.text(o.Reason)
	for err = pgx.ErrNoRows; errors.Is(err, pgx.ErrNoRows); { // what was under way has just ended
		err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			id, joined, err = beginOperation(ctx, tx, o)
			return err
		})
	}
	if err != nil {
		return 0, false, fmt.Errorf("put the operation on record: %w", err)
	}
	return id, joined, nil
}

func beginOperation(ctx context.Context, tx pgx.Tx, o relay.Operation) (id int64, joined bool, err error) {
	err = tx.QueryRow(ctx, beginOperationSQL, o.Kind, o.Topic, o.By, o.Reason, o.Selection, o.Matched, orNow(o.At)).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = tx.QueryRow(ctx, sameOperationSQL, o.Kind, o.Topic, o.Selection).Scan(&id)
		return id, true, err
	}
	if err == nil {
		_, err = tx.Exec(ctx, nameOperationSQL, id, o.WorkflowID)
	}
	return id, false, err
}

// operationSQL reads an operation. One that began ahead of the clock has begun now at the
// latest: it leaves alone what dies from then on.
const operationSQL = `
SELECT id, least(at, now()), clock_timestamp() - at, kind, topic, by, reason, selection, coalesce(matched, 0), workflow_id,
       done, finished_at, outcome, next_after, lanes_after
FROM outbox.operation WHERE id = $1`

// Operation reads an operation and how far it is; relay.ErrUnknownOperation if there
// is none of that number.
func (s *Store) Operation(ctx context.Context, id int64) (u relay.UnderWay, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	err = s.pool.QueryRow(ctx, operationSQL, id).Scan(&u.ID, &u.At, &u.Age, &u.Kind, &u.Topic, &u.By, &u.Reason, &u.Selection,
		&u.Matched, &u.WorkflowID, &u.Done, &u.Finished, &u.Outcome, &u.Noted, &u.Lanes)
	u.From.ID = u.Noted
	if errors.Is(err, pgx.ErrNoRows) {
		err = relay.ErrUnknownOperation
	}
	if err != nil {
		return u, fmt.Errorf("read operation %d: %w", id, err)
	}
	return u, nil
}

// endOperationSQL leaves an operation under way of which fewer than $4 events are on record.
const endOperationSQL = `
UPDATE outbox.operation SET finished_at = now(), outcome = $2, done = greatest(done, $3)
WHERE id = $1 AND finished_at IS NULL AND done >= $4`

func (s *Store) endOperation(ctx context.Context, id int64, outcome string, done, least int64) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, endOperationSQL, id, s.text(outcome), done, least); err != nil {
		return fmt.Errorf("end operation %d: %w", id, err)
	}
	return nil
}

// EndOperation notes how an operation ended, and how many events were moved, unless more
// are on record already. The first outcome stays.
func (s *Store) EndOperation(ctx context.Context, id int64, outcome string, done int64) error {
	return s.endOperation(ctx, id, outcome, done, 0)
}

// CompleteOperation notes that an operation is done, unless fewer events are on record than
// were moved: a failover or a restore has lost the others, and the operation stays under way.
func (s *Store) CompleteOperation(ctx context.Context, id, moved int64) error {
	return s.endOperation(ctx, id, "done", moved, moved)
}
