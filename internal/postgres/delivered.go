package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// deliveredSQL looks for the rows that an operation has moved. A redrive has put its number on
// them, and a replay made rows of its own number. All of it is one snapshot: between two
// of them, an event could go from pending to the dead letters and be in neither.
//
// Of a redrive nothing is known of rows that a worker of the version before has moved, and of
// dead letters that such a worker has made since: it does not carry the number over. If
// another operation has moved some of those, the first number of its took is negative, and
// says when the last of them died: it may have been one of these. No
// index has the number, because each insert of an event would pay for it.
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

// Delivered looks for what became of the events that a redrive or a replay has made
// pending, after it has ended and said that it has moved so many. It reads all that is
// pending and dead of the topic. It returns relay.ErrUnknownOperation if there is no
// operation of that number.
func (s *Store) Delivered(ctx context.Context, operation, moved int64) (d relay.Delivered, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	var codes, messages []string
	var events []int64
	err = s.readRow(ctx, []any{&d.Moved, &d.UnderWay, &d.Pending, &d.Dead, &d.NotKnown, &codes, &messages, &events, &d.Taken, &d.Why},
		deliveredSQL, operation, relay.MostCauses)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err = relay.ErrUnknownOperation
	case err == nil:
		err = s.Security(ctx)
	}
	if err != nil {
		return relay.Delivered{}, fmt.Errorf("look for what became of operation %d: %w", operation, err)
	}
	for i, code := range codes {
		d.Causes = append(d.Causes, relay.Cause{Code: code, Message: messages[i], Events: events[i]})
	}
	// Dead letters without a number need not be of this operation.
	d.NotKnown = max(0, min(d.NotKnown, d.Moved-d.Pending-d.Dead))
	d.Published = max(0, d.Moved-d.Pending-d.Dead-d.NotKnown)
	d.Lost = max(0, moved-d.Moved)
	if d.Pending == 0 {
		d.Why = ""
	}
	return d, nil
}
