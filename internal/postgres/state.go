package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/program"
)

// A copy of a database may have the events, but lack other state that the relay needs: logical
// replication copies no sequence, and a restore of some tables leaves others empty.

// lastIDSQL reads the last id that the sequence gave. Sequences have no snapshot: the sequence gave
// every id before, if the same statement finds that id in a table.
const lastIDSQL = `
SELECT s.last_id, used.id
FROM (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS last_id FROM outbox.event_id_seq) s
CROSS JOIN (SELECT greatest((SELECT max(id) FROM outbox.event),
                            (SELECT max(greatest(low_id, mark_id)) - 1 FROM outbox.lane), 0) AS id) used
WHERE s.last_id < used.id`

// farAway is an id that no sequence reaches. A sequence that is set to a higher id may have no ids
// left, and then every INSERT fails.
const farAway = 1 << 62

// sequenceIsBehind returns an error if the sequence is about to give ids that events have already, or
// ids below a low watermark.
func sequenceIsBehind(ctx context.Context, db querier) error {
	var last, used int64
	switch err := db.QueryRow(ctx, lastIDSQL).Scan(&last, &used); {
	case errors.Is(err, pgx.ErrNoRows), hasState(err, insufficientPrivilege): // see sequenceWarning
		return nil
	case err != nil:
		return fmt.Errorf("look at the sequence of outbox.event.id: %w", err)
	}
	if used > farAway {
		return fmt.Errorf("outbox.event or outbox.lane has the id %d, which the sequence of outbox.event.id (at %d) cannot have given: "+
			"delete that event if you do not need it, or set the sequence with setval if you use ids of this size", used, last)
	}
	return fmt.Errorf("the sequence of outbox.event.id is at %d, and the outbox has the id %d already, so new events get ids of old events or lower ones, and are published before pending events of their keys: "+
		"run \"SELECT setval('outbox.event_id_seq', %d)\" as the owner", last, used, used)
}

// insufficientPrivilege is the SQLSTATE of a right that a role lacks.
const insufficientPrivilege = "42501"

const oneRowsSQL = `
SELECT array_remove(ARRAY[CASE WHEN NOT EXISTS (SELECT FROM outbox.round) THEN 'outbox.round' END,
                          CASE WHEN NOT EXISTS (SELECT FROM outbox.sample) THEN 'outbox.sample' END,
                          CASE WHEN (SELECT count(*) FROM outbox.share) < 16 THEN 'outbox.share' END], NULL)`

// rowsAreMissing returns an error if a table has lost a row that it must have.
func rowsAreMissing(ctx context.Context, db querier) error {
	var empty []string
	if err := db.QueryRow(ctx, oneRowsSQL).Scan(&empty); err != nil {
		return fmt.Errorf("look for the relay's own rows: %w", err)
	}
	var all []error
	for _, table := range empty {
		all = append(all, rowError(table))
	}
	return errors.Join(all...)
}

func rowError(table string) error {
	return fmt.Errorf("%s has lost its row: run %q, which puts it back", table, program.Starter("migrate"))
}

// orRow returns an error with the remedy if err says that a table has lost its one row.
func orRow(err error, table string) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return rowError(table)
	}
	return err
}

// State checks that the sequence of ids is not behind the events, and that the relay's own rows exist.
// Its errors name the remedy.
func (s *Store) State(ctx context.Context) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	return state(ctx, s.pool)
}

func state(ctx context.Context, db querier) error {
	return errors.Join(sequenceIsBehind(ctx, db), rowsAreMissing(ctx, db))
}
