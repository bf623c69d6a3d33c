package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/program"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// deadLetterSQL moves pending events into the dead letters. Unlike Settle, it works only for the
// holder of their lanes: a later attempt may be sending an event that a stale attempt could not
// send. So it locks the lanes first, and the check of the holder stays true until the move is done;
// without the lock, a stale holder could move events. An event stays pending if another event's
// dead letter has its id, because a sequence that was set back gives ids again. At the end it says
// whether an event was not found, so that its dead letter has no key, and whether a policy may hide
// rows.
const deadLetterSQL = `
WITH mine AS (
    SELECT lane FROM outbox.lane
    WHERE topic = $1 AND lane = ANY ($2::smallint[]) AND holder = $3
    ORDER BY topic, lane
    FOR NO KEY UPDATE),
asked AS (
    SELECT d.* FROM mine
    JOIN unnest($2::smallint[], $4::bigint[], $5::bigint[], $9::timestamptz[], $6::text[], $7::text[])
         AS d(lane, id, replay, created_at, code, message) USING (lane)),
taken AS (
    SELECT asked.lane, asked.id, asked.replay FROM asked CROSS JOIN LATERAL (
        SELECT FROM outbox.dead_letter d
        WHERE d.topic = $1 AND d.lane = asked.lane AND d.id = asked.id AND d.replay = asked.replay AND d.created_at <> asked.created_at
        LIMIT 1) other),
dead AS (SELECT * FROM asked WHERE (lane, id, replay) NOT IN (SELECT * FROM taken)),
gone AS (
    DELETE FROM outbox.pending
    WHERE ctid = ANY (ARRAY(
        SELECT found.ctid FROM dead CROSS JOIN LATERAL (
            SELECT p.ctid FROM outbox.pending p
            WHERE p.topic = $1 AND p.lane = dead.lane AND p.id = dead.id AND p.replay = dead.replay AND p.created_at = dead.created_at
            LIMIT 1) found))
    RETURNING lane, id, replay, created_at, bytes, operation),
forgotten AS (
    DELETE FROM outbox.refusal r USING dead
    WHERE r.topic = $1 AND r.lane = dead.lane AND r.id = dead.id AND r.replay = dead.replay
    RETURNING r.lane, r.id, r.replay, CASE WHEN coalesce(r.created_at, dead.created_at) = dead.created_at THEN r.attempts END AS attempts),
keyed AS MATERIALIZED (
    SELECT gone.*, (SELECT e.key FROM outbox.event e
                    WHERE e.id = gone.id AND e.created_at = gone.created_at AND e.id <> ALL ($10::bigint[])) AS key
    FROM gone),
moved AS (
    INSERT INTO outbox.dead_letter
        (topic, lane, id, created_at, bytes, replay, key, code, message, attempts, workflow_id, operation)
    SELECT $1, lane, id, gone.created_at, bytes, replay, coalesce(gone.key, ''),
           dead.code, dead.message, coalesce(forgotten.attempts, 0) + 1, $8, coalesce(operation, 0)
    FROM keyed gone JOIN dead USING (lane, id, replay) LEFT JOIN forgotten USING (lane, id, replay)
    WHERE NOT EXISTS (SELECT FROM outbox.dead_letter d WHERE d.topic = $1 AND d.lane = gone.lane AND d.id = gone.id AND d.replay = gone.replay))
SELECT (SELECT count(*) FROM mine), (SELECT coalesce(min(id), 0) FROM taken),
       EXISTS (SELECT FROM keyed WHERE key IS NULL AND id <> ALL ($10::bigint[])), ` + filtered

// DeadLetter makes dead letters of events that l's attempt holds and that their destination
// refuses, with the reason. It moves all events or none: it returns relay.ErrClaimLost if another
// claim has one of their lanes. It ignores events that are no longer pending. If an event has to
// stay because a dead letter has its id, it moves the others and returns an error that names the
// event.
func (s *Store) DeadLetter(ctx context.Context, l relay.Lease, workflowID string, dead []relay.Outcome) error {
	if len(dead) == 0 {
		return nil
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	c := outcomeColumns(dead)
	held := slices.Compact(slices.Sorted(slices.Values(c.lanes)))
	keyless, err := s.unreadableKeys(ctx, dead)
	if err != nil {
		return fmt.Errorf("read the keys of dead letters: %w", err)
	}
	var taken int64
	// An event that is not found may have moved while the statement waited: see lookAgain.
	errMissing := errors.New("an event is missing")
	move := func(mayMiss bool) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var mine int
			var misses, isFiltered bool
			err := tx.QueryRow(ctx, deadLetterSQL, l.Topic, c.lanes, l.Holder, c.ids, c.replays, s.texts(c.codes), s.texts(c.messages), s.text(workflowID), c.created, append([]int64{}, keyless...)).
				Scan(&mine, &taken, &misses, &isFiltered)
			if err == nil && isFiltered {
				err = security(ctx, tx, false) // no policy changes before the commit: the tables are locked
			}
			switch {
			case err != nil:
			case mine < len(held):
				err = relay.ErrClaimLost
			case misses && !mayMiss:
				err = errMissing
			}
			return err
		})
	}
	if err = move(false); errors.Is(err, errMissing) {
		err = move(true)
	}
	if err == nil && taken != 0 {
		err = fmt.Errorf("event %d of the topic %s stays pending, because the dead letter of an older event has its id: "+
			"redrive or discard that dead letter with %q", taken, l.Topic, program.Starter("dead"))
	}
	if err != nil {
		return fmt.Errorf("move to dead letters: %w", err)
	}
	return nil
}

// refuseSQL counts another refusal of each event, and returns how long the event has been refused.
// Retries are at most timing.RetryPauseMost apart. After timing.RefusalGap without a retry, a pause or an
// outage was the reason, and the time begins again. It also begins again if the row belongs to another
// event that had the same id before a failover, and if the clock was ahead and was set back. (A
// worker of the previous version writes no time.)
const refuseSQL = `
INSERT INTO outbox.refusal AS r (topic, lane, id, replay, created_at, code, message, attempts)
SELECT $1, lane, id, replay, created_at, code, message, 1
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $7::timestamptz[], $5::text[], $6::text[]) AS d(lane, id, replay, created_at, code, message)
ORDER BY lane, id, replay
ON CONFLICT (topic, lane, id, replay) DO UPDATE
SET attempts = CASE WHEN coalesce(r.created_at, excluded.created_at) = excluded.created_at THEN r.attempts ELSE 0 END + 1,
    first_at = CASE WHEN r.last_at >= now() - $8::interval AND coalesce(r.created_at, excluded.created_at) = excluded.created_at
                    THEN least(r.first_at, now()) ELSE now() END,
    last_at = now(), created_at = excluded.created_at, code = excluded.code, message = excluded.message
RETURNING lane, id, replay, created_at, extract(epoch FROM now() - first_at)::float8`

// Refuse records that a destination refused pending events one by one.
func (s *Store) Refuse(ctx context.Context, topic string, refused []relay.Outcome) ([]relay.Refusal, error) {
	if len(refused) == 0 {
		return nil, nil
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	c := outcomeColumns(refused)
	rows, err := s.pool.Query(ctx, refuseSQL, topic, c.lanes, c.ids, c.replays, s.texts(c.codes), s.texts(c.messages), c.created, timing.RefusalGap)
	if err != nil {
		return nil, fmt.Errorf("remember refusals: %w", err)
	}
	known, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r relay.Refusal, err error) {
		var seconds float64
		var created pgtype.Timestamptz
		err = row.Scan(&r.Lane, &r.ID, &r.Replay, &created, &seconds)
		r.At = microseconds(created)
		r.For = time.Duration(seconds * float64(time.Second))
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("remember refusals: %w", err)
	}
	return known, nil
}

// forgetRefusalsSQL deletes the refusals of events that are no longer pending.
const forgetRefusalsSQL = `
DELETE FROM outbox.refusal r
WHERE NOT EXISTS (
    SELECT FROM outbox.pending p
    WHERE p.topic = r.topic AND p.lane = r.lane AND p.id = r.id AND p.replay = r.replay
      AND p.created_at = coalesce(r.created_at, p.created_at))`

func (s *Store) forgetRefusals(ctx context.Context) error {
	if _, err := s.pool.Exec(ctx, forgetRefusalsSQL); err != nil {
		return fmt.Errorf("forget refusals: %w", err)
	}
	return nil
}

// blockedSQL finds the keys of a topic that have a dead letter, and the first dead letter of each
// key. A dead letter of a replay blocks only the rest of that replay, because the first delivery of
// its event had arrived. A row with id 0 says that dead letters may be hidden.
const blockedSQL = `
SELECT key, replay, min(id) FROM outbox.dead_letter
WHERE topic = $1 AND key = ANY ($2) AND key <> '' GROUP BY key, replay
UNION ALL SELECT '', 0, 0 WHERE row_security_active('outbox.dead_letter')`

// Blocked returns the keys that have a dead letter in the topic, with the id of their first dead
// letter. Events of the key behind that id are blocked; an event that is redriven before it is not.
func (s *Store) Blocked(ctx context.Context, topic string, keys []string) (map[relay.Chain]int64, error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	blocked, isFiltered, err := s.blocked(ctx, topic, keys)
	if err == nil && isFiltered {
		err = unhidden(ctx, s.pool, func() (err error) {
			blocked, _, err = s.blocked(ctx, topic, keys)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look for dead letters of keys: %w", err)
	}
	return blocked, nil
}

// blocked also reports whether a policy may hide dead letters.
func (s *Store) blocked(ctx context.Context, topic string, keys []string) (blocked map[relay.Chain]int64, isFiltered bool, err error) {
	rows, err := s.pool.Query(ctx, blockedSQL, topic, keys)
	if err != nil {
		return nil, false, err
	}
	blocked = map[relay.Chain]int64{}
	var c relay.Chain
	var first int64
	_, err = pgx.ForEachRow(rows, []any{&c.Key, &c.Replay, &first}, func() error {
		if first == 0 {
			isFiltered = true
			return nil
		}
		blocked[c] = first
		return nil
	})
	return blocked, isFiltered, err
}

// refusedColumns are outcomes as arrays for unnest.
type refusedColumns struct {
	columnsOfRefs
	codes, messages []string
}

func outcomeColumns(outcomes []relay.Outcome) (c refusedColumns) {
	refs := make([]relay.Ref, len(outcomes))
	for i, o := range outcomes {
		refs[i] = o.Ref
		c.codes = append(c.codes, o.Err.Code)
		c.messages = append(c.messages, o.Err.Message)
	}
	c.columnsOfRefs = refColumns(refs)
	return c
}
