package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// goesOnSQL locks an operation, so that no other attempt takes it before the move is counted. The
// timeouts, timing.MoveStall, end the transaction of a worker that freezes: otherwise the lanes would stay locked until
// the worker continues.
const goesOnSQL = `
SELECT finished_at IS NULL, ` + sameSQL + `,
       set_config('idle_in_transaction_session_timeout', $5, true) || set_config('lock_timeout', $5, true)
FROM outbox.operation WHERE id = $1 FOR UPDATE`

// milliseconds is a duration as PostgreSQL reads it in a setting.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// idle is true of lanes that cannot have requests in flight: free lanes, lanes with an expired
// lease, and lanes that wait for the next attempt of their batch, because its last attempt has ended.
// It is false while an earlier attempt may still be sending, and of lanes that belong to the holder of
// their share.
const idle = `topic = $1 AND lane = ANY ($2::smallint[])
  AND (leased_until IS NULL OR leased_until < now() OR retrying)
  AND (quiet_at IS NULL OR quiet_at < now()) AND ` + mayClaim + ``

const anyIdleSQL = `SELECT EXISTS (SELECT FROM outbox.lane l WHERE ` + idle + `)`

// idleSQL locks lanes. If a lane is neither apart nor claimed, it also keeps workers from taking its share
// until the transaction ends.
const idleSQL = `
WITH locked AS MATERIALIZED (
    SELECT l.lane, l.apart OR l.claim_id IS NOT NULL AS is_batches FROM outbox.lane l
    WHERE ` + idle + `
    ORDER BY topic, lane
    FOR NO KEY UPDATE)
SELECT lane FROM locked WHERE is_batches OR outbox.share_is_free(lane) ORDER BY lane`

// countedSQL counts the dead letters that a statement has moved (gone). It notes in took which
// operations had moved them before, because these can no longer report their outcome. If a worker of
// the previous version made the dead letter, or if it is older than the column, that operation is
// unknown: any redrive that began before the event died may have moved it. For these, took has the
// latest time of death as one negative number, of seconds since 1970: see deliveredSQL. A time of
// death that is infinite counts as now.
const countedSQL = `
    UPDATE outbox.operation o
    SET done = done + (SELECT count(*) FROM gone), marked = marked + (SELECT count(*) FROM gone),
        took = ARRAY(SELECT t FROM unnest(o.took) t WHERE t > 0 UNION
                     SELECT coalesce(nullif(gone.operation, 0), gone.replay) FROM gone
                     WHERE gone.operation > 0 OR gone.replay > 0 UNION
                     SELECT min(t) FROM (
                         SELECT t FROM unnest(o.took) t WHERE t < 0 UNION ALL
                         SELECT -ceil(extract(epoch FROM CASE WHEN isfinite(dead_at) THEN dead_at ELSE now() END))::bigint
                         FROM gone WHERE operation IS NULL) died
                     HAVING min(t) IS NOT NULL ORDER BY 1)
    WHERE id = $1`

// redriveSQL makes dead letters pending again, together with the events that were blocked behind
// them. It is a statement of its own after idleSQL, so that it sees the result of the lanes' last
// batch. It ignores an event that has died again since it was chosen. It fails if a pending event
// has the id of a dead letter: a sequence that was set back gives ids again.
const redriveSQL = `
WITH wanted AS (
    SELECT d.lane, d.id, d.replay, d.key
    FROM unnest($3::smallint[], $4::bigint[], $5::bigint[], $7::timestamptz[]) AS w(lane, id, replay, created_at)
    CROSS JOIN LATERAL (
        SELECT * FROM outbox.dead_letter d
        WHERE d.topic = $2 AND d.lane = w.lane AND d.id = w.id AND d.replay = w.replay AND d.created_at = w.created_at
          AND (d.dead_at < $6 OR d.dead_at > now()) LIMIT 1) d),
chosen AS (
    SELECT lane, id, replay FROM wanted
    UNION
    SELECT behind.lane, behind.id, behind.replay
    FROM (SELECT key, replay, min(id) AS id FROM wanted WHERE key <> '' GROUP BY key, replay) head
    CROSS JOIN LATERAL (
        SELECT * FROM outbox.dead_letter d
        WHERE d.topic = $2 AND d.key = head.key AND d.key <> '' AND d.replay = head.replay AND d.id > head.id AND d.code = '` + relay.CodeBlocked + `') behind),
gone AS (
    DELETE FROM outbox.dead_letter
    WHERE ctid = ANY (ARRAY(
        SELECT found.ctid FROM chosen CROSS JOIN LATERAL (
            SELECT d.ctid FROM outbox.dead_letter d
            WHERE d.topic = $2 AND d.lane = chosen.lane AND d.id = chosen.id AND d.replay = chosen.replay
            LIMIT 1) found))
    RETURNING lane, id, created_at, bytes, replay, operation, dead_at),
back AS (
    INSERT INTO outbox.pending (topic, lane, id, created_at, bytes, replay, operation)
    SELECT $2, lane, id, created_at, bytes, replay, $1 FROM gone),
counted AS (` + countedSQL + `)
SELECT lane, min(id), count(*) FROM gone GROUP BY lane`

// discardSQL drops dead letters and records them in outbox.discarded. A dead letter stays if the
// record of an older event has its id: without a record of its own, a replay would publish it.
const discardSQL = `
WITH gone AS (
    DELETE FROM outbox.dead_letter
    WHERE ctid = ANY (ARRAY(
        SELECT found.ctid
        FROM unnest($3::smallint[], $4::bigint[], $5::bigint[], $7::timestamptz[]) AS w(lane, id, replay, created_at)
        CROSS JOIN LATERAL (
            SELECT d.ctid FROM outbox.dead_letter d
            WHERE d.topic = $2 AND d.lane = w.lane AND d.id = w.id AND d.replay = w.replay AND d.created_at = w.created_at
              AND (d.dead_at < $6 OR d.dead_at > now())
              AND NOT EXISTS (SELECT FROM outbox.discarded x
                              WHERE x.topic = $2 AND x.lane = d.lane AND x.id = d.id AND x.replay = d.replay AND x.created_at <> d.created_at)
            LIMIT 1) found))
    RETURNING *),
kept AS (
    INSERT INTO outbox.discarded (topic, lane, id, created_at, replay, code, message, dead_at, operation)
    SELECT topic, lane, id, created_at, replay, code, message, dead_at, $1 FROM gone
    ON CONFLICT DO NOTHING),
counted AS (` + countedSQL + `)
SELECT lane, 0::bigint, count(*) FROM gone GROUP BY lane`

// takenSQL finds the first dead letter that stayed because a record has its id.
const takenSQL = `
SELECT coalesce(min(d.id), 0)
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS w(lane, id, replay, created_at)
CROSS JOIN LATERAL (
    SELECT d.id FROM outbox.dead_letter d
    JOIN outbox.discarded x ON x.topic = d.topic AND x.lane = d.lane AND x.id = d.id AND x.replay = d.replay AND x.created_at <> d.created_at
    WHERE d.topic = $1 AND d.lane = w.lane AND d.id = w.id AND d.replay = w.replay AND d.created_at = w.created_at LIMIT 1) d`

// replaySQL makes published events pending under the operation's own number, and notes the progress
// in each lane. It omits events up to the noted progress.
const replaySQL = `
WITH made AS (
    INSERT INTO outbox.pending (topic, lane, id, created_at, bytes, replay)
    SELECT $2, e.lane, e.id, e.created_at,
           octet_length(e.payload) + octet_length(e.type) + octet_length(e.content_type)
           + CASE e.attributes WHEN '{}' THEN 0 ELSE octet_length(e.attributes::text) END, $1
    FROM unnest($3::smallint[], $4::bigint[], $5::timestamptz[]) AS w(lane, id, created_at)
    CROSS JOIN LATERAL (
        SELECT * FROM outbox.event e WHERE e.id = w.id AND e.created_at = w.created_at LIMIT 1) e
    WHERE w.id > (SELECT o.lanes_after[w.lane + 1] FROM outbox.operation o WHERE o.id = $1)
    ON CONFLICT DO NOTHING
    RETURNING lane, id),
counted AS (
    UPDATE outbox.operation o
    SET done = done + (SELECT count(*) FROM made),
        lanes_after = ARRAY(SELECT greatest(o.lanes_after[n + 1], (SELECT max(made.id) FROM made WHERE made.lane = n))
                            FROM generate_series(0, 15) n ORDER BY n)
    WHERE id = $1)
SELECT lane, min(id), count(*) FROM made GROUP BY lane`

// lowerSQL lowers the low watermarks to the events that were put into the lanes, and ends the
// reservation. It ends a claim whose lease has expired, as if another claim had taken its lanes: an
// attempt that wakes up late must not continue with the events that it has read. A claim that waits
// for its next attempt stays, even if its lease has expired: no attempt of it has events. (The new
// holder belongs to no attempt. It shows the next claim that the lane was not given back: see
// claimLanesSQL.)
const lowerSQL = `
UPDATE outbox.lane l
SET low_id = least(l.low_id, nullif(low.id, 0)), seen_id = least(l.seen_id, nullif(low.id, 0)), reserved_until = NULL,
    claim_id     = CASE WHEN l.retrying THEN l.claim_id END,
    holder       = CASE WHEN l.retrying THEN l.holder WHEN l.holder IS NOT NULL THEN gen_random_uuid() END,
    claimed_by   = CASE WHEN l.retrying THEN l.claimed_by END,
    leased_until = CASE WHEN l.retrying THEN l.leased_until END
FROM unnest($2::smallint[], $3::bigint[]) AS low(lane, id)
WHERE l.topic = $1 AND l.lane = low.lane`

const uniqueViolation = "23505"

// Move does a part of a step: the moves in lanes that cannot have requests in flight. It returns
// these lanes and the number of moved events. The caller adds that number to u.Done. It returns
// relay.ErrOperationOver if the operation has been ended, and relay.ErrOperationElsewhere if the
// record differs from u. If it cannot discard a dead letter because a record has its id, it discards
// the others and returns an error that names the event.
func (s *Store) Move(ctx context.Context, u relay.OperationState, moves []relay.Move) (lanes []int16, moved int, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	var free bool // checked first without a lock, because an operation may wait long
	err = s.pool.QueryRow(ctx, anyIdleSQL, u.Topic, relay.LanesOf(moves)).Scan(&free)
	if err == nil && !free {
		err = s.Security(ctx)
	}
	var taken int64
	if err == nil && free {
		err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if err := s.patient(ctx, tx); err != nil {
				return err
			}
			if lanes, moved, err = move(ctx, tx, u, moves); err != nil {
				return err
			}
			if u.Kind == relay.Discard {
				if taken, err = left(ctx, tx, u.Topic, moves); err != nil {
					return err
				}
			}
			return security(ctx, tx, false) // hidden rows were not moved
		})
	}
	if err == nil && taken != 0 {
		return nil, moved, fmt.Errorf("event %d of the topic %s stays a dead letter, because the record of an older event that was discarded has its id: "+
			"redrive it with %q", taken, u.Topic, program.Starter("dead"))
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == uniqueViolation {
		err = fmt.Errorf("an event that is pending has the id of a dead letter; redrive the dead letter after that event is published: %s: %w", pgErr.Detail, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s events: %w", u.Kind, err)
	}
	return lanes, moved, nil
}

// left returns the first of the events that could not be discarded, or 0.
func left(ctx context.Context, tx pgx.Tx, topic string, moves []relay.Move) (id int64, err error) {
	refs := make([]relay.Ref, len(moves))
	for i, m := range moves {
		refs[i] = m.Ref
	}
	c := refColumns(refs)
	err = tx.QueryRow(ctx, takenSQL, topic, c.lanes, c.ids, c.replays, c.created).Scan(&id)
	return id, err
}

func move(ctx context.Context, tx pgx.Tx, u relay.OperationState, moves []relay.Move) (lanes []int16, moved int, err error) {
	var goesOn bool
	var settings string
	var isThere bool
	if err := tx.QueryRow(ctx, goesOnSQL, u.ID, u.Holder, u.Done, u.Noted, milliseconds(timing.MoveStall)).Scan(&goesOn, &isThere, &settings); err != nil {
		return nil, 0, err
	}
	switch {
	case !goesOn:
		return nil, 0, relay.ErrOperationOver
	case !isThere:
		return nil, 0, relay.ErrOperationElsewhere
	}
	rows, err := tx.Query(ctx, idleSQL, u.Topic, relay.LanesOf(moves))
	if err != nil {
		return nil, 0, err
	}
	lanes, err = pgx.CollectRows(rows, pgx.RowTo[int16])
	if err != nil || len(lanes) == 0 {
		return nil, 0, err
	}
	sql, args := moveStatement(u, moves, lanes)
	rows, err = tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, 0, err
	}
	lows := make([]int64, len(lanes)) // 0: the low watermark stays
	var lane int16
	var low int64
	var n int
	_, err = pgx.ForEachRow(rows, []any{&lane, &low, &n}, func() error {
		lows[slices.Index(lanes, lane)] = low
		moved += n
		return nil
	})
	if err == nil {
		_, err = tx.Exec(ctx, lowerSQL, u.Topic, lanes, lows)
	}
	return lanes, moved, err
}

// moveStatement returns the statement that moves the events of a step that are in some lanes.
func moveStatement(u relay.OperationState, moves []relay.Move, lanes []int16) (sql string, args []any) {
	var refs []relay.Ref
	for _, m := range moves {
		if slices.Contains(lanes, m.Lane) {
			refs = append(refs, m.Ref)
		}
	}
	c := refColumns(refs)
	switch u.Kind {
	case relay.Redrive:
		return redriveSQL, []any{u.ID, u.Topic, c.lanes, c.ids, c.replays, u.At, c.created}
	case relay.Discard:
		return discardSQL, []any{u.ID, u.Topic, c.lanes, c.ids, c.replays, u.At, c.created}
	default:
		return replaySQL, []any{u.ID, u.Topic, c.lanes, c.ids, c.created}
	}
}
