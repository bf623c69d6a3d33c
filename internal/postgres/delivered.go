package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// deliveredSQL finds the rows that an operation has moved. A redrive writes its number to the
// rows, and a replay makes rows with its own number. One statement reads all of it in one snapshot:
// between two snapshots, an event could move from pending to the dead letters and be in neither.
//
// A worker of the previous version does not write the number of a redrive. So the outcome is
// unknown of rows that such a worker moved, and of dead letters that it made since. If another
// operation has moved such dead letters, the first number of its took is negative: it is the time
// at which the last of them died, which may have been one of this redrive. No index has the number,
// because each insert of an event would pay for it.
const deliveredSQL = `
WITH o AS (
    SELECT id, topic, kind, at, done, finished_at, CASE kind WHEN '` + relay.Replay + `' THEN done ELSE marked END AS marked
    FROM outbox.operation WHERE id = $1),
again AS MATERIALIZED (
    SELECT d.code, d.message, d.dead_at FROM o JOIN outbox.dead_letter d USING (topic)
    WHERE coalesce(nullif(d.operation, 0), d.replay) = o.id),
causes AS (
    SELECT code, (array_agg(message ORDER BY dead_at DESC))[1] AS message, count(*) AS events
    FROM again GROUP BY code ORDER BY events DESC, code LIMIT $2)
SELECT o.done, o.finished_at IS NULL,
       (SELECT count(*) FROM outbox.pending p WHERE p.topic = o.topic AND coalesce(p.operation, p.replay) = o.id),
       (SELECT count(*) FROM again),
       o.done - o.marked + CASE kind WHEN '` + relay.Replay + `' THEN 0 ELSE (
           SELECT count(*) FROM outbox.dead_letter d WHERE d.topic = o.topic AND d.operation IS NULL AND d.dead_at >= o.at) END,
       ARRAY(SELECT code FROM causes), ARRAY(SELECT message FROM causes), ARRAY(SELECT events FROM causes),
       ARRAY(SELECT other.id FROM outbox.operation other
             WHERE o.id = ANY (other.took)
                OR other.topic = o.topic AND other.kind IN ('` + relay.Redrive + `', '` + relay.Discard + `') AND other.id <> o.id
                   AND coalesce(other.finished_at, now()) >= o.at
                   AND (other.done > other.marked OR o.kind = '` + relay.Redrive + `' AND to_timestamp(-other.took[1]) >= o.at)
             ORDER BY other.id LIMIT 5),
       coalesce((SELECT CASE WHEN t.paused_at IS NOT NULL THEN t.paused_by || ' has paused the topic: ' || t.pause_reason
                             WHEN t.recovery_paused_until > now() THEN 'its destination is broken, and ' || t.recovery_workflow_id || ' tries again'
                        END FROM outbox.topic t WHERE t.topic = o.topic), '')
FROM o`

// Delivered counts the outcomes of the events that a redrive or a replay has made pending, after
// the operation has ended; moved is the number of events that the operation reported. It reads all
// pending events and dead letters of the topic. It returns relay.ErrUnknownOperation if no
// operation has that number.
func (s *Store) Delivered(ctx context.Context, operation, moved int64) (d relay.Delivered, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	var codes, messages []string
	var events []int64
	err = unhidden(ctx, s.pool, func() error {
		return s.readRow(ctx, []any{&d.Moved, &d.UnderWay, &d.Pending, &d.Dead, &d.NotKnown, &codes, &messages, &events, &d.Taken, &d.Why},
			deliveredSQL, operation, relay.MostCauses)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = relay.ErrUnknownOperation
	}
	if err != nil {
		return relay.Delivered{}, fmt.Errorf("look for the outcome of operation %d: %w", operation, err)
	}
	for i, code := range codes {
		d.Causes = append(d.Causes, relay.Cause{Code: code, Message: messages[i], Events: events[i]})
	}
	// Dead letters without a number may belong to another operation.
	d.NotKnown = max(0, min(d.NotKnown, d.Moved-d.Pending-d.Dead))
	d.Published = max(0, d.Moved-d.Pending-d.Dead-d.NotKnown)
	d.Lost = max(0, moved-d.Moved)
	if d.Pending == 0 {
		d.Why = ""
	}
	return d, nil
}
