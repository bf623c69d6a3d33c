package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/temporal-outbox/relay/internal/relay"
)

// deadStepSQL reads the next selected dead letters, together with all selected dead letters of the same
// keys: a key moves as a whole, because otherwise its pending events would overtake its remaining dead
// letters.
const deadStepSQL = `
WITH page AS MATERIALIZED (
    SELECT d.lane, d.id, d.replay, d.created_at, d.key FROM outbox.dead_letter d
    WHERE (d.lane, d.id, d.replay) > ($8::smallint, $9::bigint, $10::bigint) AND ` + deadFits + `
    ORDER BY d.lane, d.id, d.replay LIMIT $11)
SELECT lane, id, replay, created_at, key, true AS of_page FROM page
UNION ALL
SELECT d.lane, d.id, d.replay, d.created_at, d.key, false FROM outbox.dead_letter d
WHERE d.key <> '' AND d.key = ANY (ARRAY(SELECT key FROM page)) AND ` + deadFits + `
  AND (d.lane, d.id, d.replay) > (SELECT lane, id, replay FROM page ORDER BY lane DESC, id DESC, replay DESC LIMIT 1)
ORDER BY lane, id, replay`

// replayStepSQL reads the next selected published events, without those that an interrupted step has
// moved.
const replayStepSQL = `
SELECT e.lane, e.id, $7::bigint, e.created_at, ''
FROM outbox.event e
WHERE e.id > $8 AND e.id <= $9 AND e.id > ($10::bigint[])[e.lane + 1] AND ` + publishedFits + `
ORDER BY e.id LIMIT $11`

// NextStep reads the events that an operation moves next, from a place on: about most events.
func (s *Store) NextStep(ctx context.Context, u relay.OperationState, from relay.Cursor, most int) (step relay.Step, err error) {
	ctx, cancel := s.long(ctx)
	defer cancel()
	sp, err := spanOf(u.Selection, u.At)
	if err != nil {
		return step, err
	}
	err = unhidden(ctx, s.pool, func() (err error) {
		if u.Kind == relay.Replay {
			step, err = s.replayStep(ctx, u, sp, from, most)
		} else {
			step, err = s.deadStep(ctx, u, sp, from, most)
		}
		return err
	})
	if err != nil {
		return relay.Step{}, fmt.Errorf("read the events to %s: %w", u.Kind, err)
	}
	return step, nil
}

func (s *Store) deadStep(ctx context.Context, u relay.OperationState, sp span, from relay.Cursor, most int) (step relay.Step, err error) {
	args := append(deadArguments(u.Topic, u.Selection, sp), from.Lane, from.ID, from.Replay, most)
	type move struct {
		relay.Move
		ofPage bool
	}
	found, err := collect(ctx, s, func(row pgx.CollectableRow) (m move, err error) {
		var created pgtype.Timestamptz
		err = row.Scan(&m.Lane, &m.ID, &m.Replay, &created, &m.Key, &m.ofPage)
		m.At = microseconds(created)
		return m, err
	}, deadStepSQL, args...)
	step.Next = from
	n := 0
	for _, m := range found {
		step.Moves = append(step.Moves, m.Move)
		if m.ofPage {
			step.Next = relay.Cursor{Lane: m.Lane, ID: m.ID, Replay: m.Replay}
			n++
		}
	}
	step.Over = n < most
	return step, err
}

func (s *Store) replayStep(ctx context.Context, u relay.OperationState, sp span, from relay.Cursor, most int) (step relay.Step, err error) {
	last := min(from.ID+window, u.Last)
	args := append(eventArguments(u.Topic, u.Selection, sp), u.ID, from.ID, last, u.Lanes, most)
	step.Moves, err = collect(ctx, s, func(row pgx.CollectableRow) (m relay.Move, err error) {
		var created pgtype.Timestamptz
		err = row.Scan(&m.Lane, &m.ID, &m.Replay, &created, &m.Key)
		m.At = microseconds(created)
		return m, err
	}, replayStepSQL, args...)
	if n := len(step.Moves); n == most {
		last = step.Moves[n-1].ID
	}
	step.Next = relay.Cursor{ID: last}
	step.Over = last >= u.Last
	return step, err
}

// reserveSQL keeps new claims away from lanes for a while. Batches under way on these lanes continue.
const reserveSQL = `
WITH wanted AS (
    SELECT topic, lane FROM outbox.lane WHERE topic = $1 AND lane = ANY ($2::smallint[])
    ORDER BY topic, lane FOR NO KEY UPDATE)
UPDATE outbox.lane l SET reserved_until = now() + $3::interval
FROM wanted WHERE l.topic = wanted.topic AND l.lane = wanted.lane`

// Reserve keeps new claims away from lanes for the time d, so that their batches end and an operation
// can take them. Move ends the reservation.
func (s *Store) Reserve(ctx context.Context, topic string, lanes []int16, d time.Duration) error {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if _, err := s.pool.Exec(ctx, reserveSQL, topic, lanes, d); err != nil {
		return fmt.Errorf("reserve lanes: %w", err)
	}
	return nil
}

const advanceSQL = `UPDATE outbox.operation SET next_after = $5 WHERE id = $1 AND ` + sameSQL

// Advance records that a replay is done up to a place, and returns the operation as recorded. It
// returns relay.ErrOperationElsewhere if the record differed from u.
func (s *Store) Advance(ctx context.Context, u relay.OperationState, to relay.Cursor) (relay.OperationState, error) {
	if u.Kind != relay.Replay {
		return u, nil // a moved event is no dead letter any more
	}
	ctx, cancel := s.limit(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, advanceSQL, u.ID, u.Holder, u.Done, u.Noted, to.ID)
	if err == nil && tag.RowsAffected() == 0 {
		err = relay.ErrOperationElsewhere
	}
	if err != nil {
		return u, fmt.Errorf("advance operation %d: %w", u.ID, err)
	}
	u.Noted = to.ID
	return u, nil
}
