package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Scans of pending begin at a lane's low watermark, low_id. An event that is inserted
// below it would be found late, after later events of its key. So a mark, the next low
// watermark, waits until no transaction can insert an event below it any more.
//
// Those that can are known: a transaction holds RowExclusiveLock on outbox.event from
// before it draws an id until its end, however slow its statement is and whether or not it
// has a transaction id yet. Readers hold weaker locks, and writers of other tables none.
// A round collects the marks of about a second, of all workers together. When it is closed,
// the holders are listed, which is after the ids of its marks were read. When all of them
// have ended, so has the round. A mark waits for that fact and for no amount of time.
//
// Both steps are visible in the database, so all workers share the rounds: a statement
// that sees a round ended in its own snapshot also sees all that its writers have
// committed.

// Rounds advance this often while there is something to mark, and less often while a
// writer keeps one open.
const (
	roundEvery = time.Second
	roundMost  = 4 * time.Second
	// raiseLanes is how many lanes are locked at once to raise their low watermark.
	raiseLanes = 512
)

// roundState is the row of outbox.round.
type roundState struct {
	number, ended int64
	writers       []string // nil: not listed yet
}

// next returns the state that follows, given the transactions that held the lock at a
// moment after s was read, and whether anything changes. close asks for a new round.
func (s roundState) next(holders []string, close bool) (roundState, bool) {
	switch {
	case s.ended == s.number-1: // nothing waits
		if close {
			s.number, s.writers = s.number+1, nil
		}
		return s, close
	case s.writers == nil:
		s.writers = append([]string{}, holders...)
	default:
		left := slices.DeleteFunc(slices.Clone(s.writers), func(w string) bool { return !slices.Contains(holders, w) })
		if len(left) > 0 {
			return s, false
		}
		// A prepared transaction has another name after a restart of the server. It is one
		// of those that have that kind of name now.
		var prepared []string
		if slices.ContainsFunc(s.writers, func(w string) bool { return !isRecovered(w) }) {
			prepared = slices.DeleteFunc(slices.Clone(holders), func(w string) bool { return !isRecovered(w) })
		}
		s.writers = append([]string{}, prepared...)
	}
	if len(s.writers) == 0 {
		s.ended = s.number - 1
	}
	return s, true
}

// isRecovered is true of the virtual transaction of a prepared transaction that was there
// before the server started: it belongs to no backend.
func isRecovered(virtualTransaction string) bool { return strings.HasPrefix(virtualTransaction, "-1/") }

// roundSQL reads the round and then, because pg_locks follows no snapshot, who holds the
// lock. A round that was closed ahead of the clock was closed before the clock was set back.
const roundSQL = `
SELECT number, ended, writers, closed_at NOT BETWEEN clock_timestamp() - $1::interval AND clock_timestamp() + $1::interval,
       ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_locks l
             WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.relation = 'outbox.event'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted)
FROM outbox.round`

// moveRoundSQL changes nothing if another worker was faster.
const moveRoundSQL = `
UPDATE outbox.round SET number = $4, ended = $5, writers = $6, closed_at = CASE WHEN number = $4 THEN closed_at ELSE clock_timestamp() END
WHERE number = $1 AND ended = $2 AND writers IS NOT DISTINCT FROM $3`

// AdvanceRounds ends the round that waits, if all its writers have ended, raises low
// watermarks, and closes the current round if it is asked to and none waits. It reports
// whether it closed one, and whether one waits.
func (s *Store) AdvanceRounds(ctx context.Context, closeRound bool) (closed, waits bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	for changed := true; changed; {
		var r, n roundState
		// In one transaction, because between two statements the pool may begin to lead to
		// another server: its writers would not be those that were listed.
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var holders []string
			var due bool // another worker may have closed one
			if err := tx.QueryRow(ctx, roundSQL, s.rounds.every()).Scan(&r.number, &r.ended, &r.writers, &due, &holders); err != nil {
				return orRow(err, "outbox.round")
			}
			if n, changed = r.next(holders, closeRound && !closed && due); !changed {
				return nil
			}
			tag, err := tx.Exec(ctx, moveRoundSQL, r.number, r.ended, r.writers, n.number, n.ended, n.writers)
			closed = closed || n.number > r.number && tag.RowsAffected() > 0
			return err
		})
		if err != nil {
			return closed, waits, fmt.Errorf("advance the round: %w", err)
		}
		waits = n.ended < n.number-1
		if err := s.raise(ctx, r.ended); err != nil {
			return closed, waits, err
		}
	}
	return closed, waits, nil
}

// raisableSQL locks lanes whose mark has waited for its round. It reads by itself which
// rounds have ended: the caller may know that from another server, before a failover.
// Others that have a lock on a lane, as the move of a redrive has, may be about to put
// events there: such lanes wait.
const raisableSQL = `
SELECT l.topic, l.lane, l.low_id, l.mark_id FROM outbox.lane l
WHERE l.mark_id > l.low_id AND l.mark_round <= (SELECT ended FROM outbox.round) AND (l.topic, l.lane) > ($2, $3::smallint)
ORDER BY l.topic, l.lane LIMIT $1
FOR NO KEY UPDATE SKIP LOCKED`

// raiseSQL looks once more from the old low watermark. It is a statement of its own, with
// a snapshot from after the locks, so that it sees the commits of the round's writers and
// the events that were moved to the lane.
const raiseSQL = `
WITH raised AS (
    SELECT w.topic, w.lane, coalesce(first.id, w.mark_id) AS low_id
    FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) AS w(topic, lane, low_id, mark_id)
    LEFT JOIN LATERAL (
        SELECT p.id FROM outbox.pending p
        WHERE p.topic = w.topic AND p.lane = w.lane AND p.id >= w.low_id AND p.id < w.mark_id
        ORDER BY p.id LIMIT 1) first ON true)
UPDATE outbox.lane l SET low_id = raised.low_id FROM raised
WHERE l.topic = raised.topic AND l.lane = raised.lane AND l.low_id < raised.low_id`

// raise lets scans of lanes begin at their marks of ended rounds, or at the first event
// that is pending before. It does so once for each value of ended.
func (s *Store) raise(ctx context.Context, ended int64) error {
	if !s.rounds.mayRaise(ended) {
		return nil
	}
	for after, more := (laneKey{}), true; more; {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var lanes []lane
			var lows, marks []int64
			var l lane
			var low, mark int64
			rows, err := tx.Query(ctx, raisableSQL, raiseLanes, after.topic, after.lane)
			if err != nil {
				return err
			}
			_, err = pgx.ForEachRow(rows, []any{&l.topic, &l.lane, &low, &mark}, func() error {
				lanes, lows, marks = append(lanes, l), append(lows, low), append(marks, mark)
				return nil
			})
			if more = len(lanes) == raiseLanes; err != nil || len(lanes) == 0 {
				return err
			}
			after = l.key()
			topics, numbers := columns(lanes)
			_, err = tx.Exec(ctx, raiseSQL, topics, numbers, lows, marks)
			return err
		})
		if err != nil {
			return fmt.Errorf("raise low watermarks: %w", err)
		}
	}
	s.rounds.hasRaised(ended)
	return nil
}

const existsSQL = `SELECT EXISTS (SELECT FROM outbox.event e WHERE e.id = $1 AND e.created_at = $2)`

// Exists reports whether the database has an event: one that it had before a failover may
// be lost, and its id may be another's now.
func (s *Store) Exists(ctx context.Context, r relay.Ref) (exists bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.pool.QueryRow(ctx, existsSQL, r.ID, timestamp(r.At)).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for an event: %w", err)
	}
	if !exists {
		return false, s.Security(ctx)
	}
	return true, nil
}

// rounds says when this process advances the rounds: in the background, one at a time, and
// only while there is something to mark. The zero value is ready.
type rounds struct {
	running sync.WaitGroup

	mu     sync.Mutex
	busy   bool
	wanted bool // events were read since a round was closed for them
	waits  bool // a round waits for its writers
	pause  time.Duration
	due    time.Time
	raised int64 // marks up to this round have been looked at

	between time.Duration // rounds, instead of roundEvery
}

func (r *rounds) every() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.between, roundEvery*9/10)
}

func (r *rounds) wait() { r.running.Wait() }

func (r *rounds) want() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = true
}

func (r *rounds) mayRaise(ended int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ended != r.raised
}

func (r *rounds) hasRaised(ended int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raised = ended
}

// advanceWhenDue begins an Advance if it is time for one. No caller waits for it, and none
// fails with it: a low watermark that stays where it is costs time and no event. Config.Fault
// is told of its errors, as of all statements'.
func (s *Store) advanceWhenDue(ctx context.Context) {
	r := &s.rounds
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy && (r.wanted || r.waits) && !time.Now().Before(r.due) {
		r.busy = true
		closeRound := r.wanted
		r.wanted = false
		r.running.Go(func() {
			closed, waits, _ := s.AdvanceRounds(context.WithoutCancel(ctx), closeRound)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.busy = false
			r.wanted = r.wanted || closeRound && !closed
			if r.pause = min(roundMost, 2*r.pause); !waits || !r.waits {
				r.pause = roundEvery
			}
			r.waits = waits
			r.due = time.Now().Add(r.pause)
		})
	}
}
