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

// Scans of pending begin at a lane's low watermark, low_id. They would find an event that is inserted
// below it late, after later events of its key. So the next low watermark of a lane, mark_id, waits until
// no transaction can insert an event below it any more.
//
// PostgreSQL knows the transactions that can: a transaction holds RowExclusiveLock on outbox.event
// from before it draws an id until its end, even if its statement is slow and it has no transaction
// id yet. Readers hold weaker locks, and writers of other tables hold none. A round collects the
// next low watermarks of about a second, of all workers together. After a round is closed, a worker lists
// the holders; the round's low watermarks were read before. The round ends when all holders have ended.
// So a low watermark waits for a fact, and for no fixed time.
//
// Both steps are visible in the database, so all workers share the rounds: a statement whose snapshot
// has a round as ended also sees all commits of the round's writers.
//
// With a round, the last id ends that the sequence had given when the round was closed: no event comes
// with that id or a lower one any more (final_id). See Look.

// Rounds advance this often while low watermarks wait, and less often while a writer keeps a round open.
const (
	roundEvery = time.Second
	roundMost  = 4 * time.Second
	// raiseLanes is the number of lanes that raise locks at once.
	raiseLanes = 512
)

// roundState is the row of outbox.round.
type roundState struct {
	number, ended int64
	writers       []string // nil: not listed yet
}

// next returns the next state, and whether it differs from s. holders are the transactions that held
// the lock at a moment after s was read. close requests a new round.
func (s roundState) next(holders []string, close bool) (roundState, bool) {
	switch {
	case s.ended == s.number-1: // no round waits
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
		// After a restart of the server, a prepared transaction has another name. It is one of
		// the holders that have a name of that kind now.
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

// isRecovered is true of the virtual transaction of a prepared transaction that is older than the
// server's start: it belongs to no backend.
func isRecovered(virtualTransaction string) bool { return strings.HasPrefix(virtualTransaction, "-1/") }

// roundSQL reads the round, and then the holders of the lock, because pg_locks has no snapshot. If
// the round was closed ahead of the clock, the clock was set back since.
const roundSQL = `
SELECT number, ended, writers, closed_at NOT BETWEEN clock_timestamp() - $1::interval AND clock_timestamp() + $1::interval,
       ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_locks l
             WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.relation = 'outbox.event'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted)
FROM outbox.round`

// moveRoundSQL changes no row if another worker was faster. When it closes a round, it reads the last id
// of the sequence. The writers are listed later, so the list has every open transaction with an id up to
// that one. When it ends a round, that id becomes final. A worker of an earlier version does neither. So
// closed_id may be of an earlier round, which has ended, too.
//
// The view has no last id if none was given, or if the role may not read the sequence.
const moveRoundSQL = `
UPDATE outbox.round
SET number = $4, ended = $5, writers = $6,
    closed_at    = CASE WHEN number = $4 THEN closed_at ELSE clock_timestamp() END,
    closed_id    = CASE WHEN number = $4 THEN closed_id ELSE coalesce(
                       (SELECT last_value FROM pg_sequences WHERE schemaname = 'outbox' AND sequencename = 'event_id_seq'), closed_id) END,
    closed_id_at = CASE WHEN number = $4 THEN closed_id_at ELSE now() END,
    final_id     = CASE WHEN ended = $5 THEN final_id ELSE closed_id END,
    final_id_at  = CASE WHEN ended = $5 THEN final_id_at ELSE closed_id_at END
WHERE number = $1 AND ended = $2 AND writers IS NOT DISTINCT FROM $3`

// AdvanceRounds ends the waiting round if all its writers have ended, and raises low watermarks. With
// closeRound, it closes the current round if no round waits. It reports whether it closed a round, and
// whether a round waits.
func (s *Store) AdvanceRounds(ctx context.Context, closeRound bool) (closed, waits bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	for changed := true; changed; {
		var r, n roundState
		// In one transaction, because between two statements the pool may connect to another
		// server, which has other writers than the listed ones.
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var holders []string
			var due bool // another worker may have closed a round
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

// raisableSQL locks lanes whose next low watermark has waited for its round. It reads itself which rounds have
// ended, because the caller's knowledge may be from another server, before a failover. It skips locked
// lanes: another transaction, such as the move of a redrive, may be putting events into them.
const raisableSQL = `
SELECT l.topic, l.lane, l.low_id, l.mark_id FROM outbox.lane l
WHERE l.mark_id > l.low_id AND l.mark_round <= (SELECT ended FROM outbox.round) AND (l.topic, l.lane) > ($2, $3::smallint)
ORDER BY l.topic, l.lane LIMIT $1
FOR NO KEY UPDATE SKIP LOCKED`

// raiseSQL reads once more from the old low watermark. It is a statement of its own, with a snapshot
// from after the locks, so that it sees the commits of the round's writers and the events that were
// moved to the lane. It says itself whether a policy may hide events: one may come after the lanes are locked.
const raiseSQL = `
WITH raised AS (
    SELECT w.topic, w.lane, coalesce(first.id, w.mark_id) AS low_id
    FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) AS w(topic, lane, low_id, mark_id)
    LEFT JOIN LATERAL (
        SELECT p.id FROM outbox.pending p
        WHERE p.topic = w.topic AND p.lane = w.lane AND p.id >= w.low_id AND p.id < w.mark_id
        ORDER BY p.id LIMIT 1) first ON true),
done AS (
    UPDATE outbox.lane l SET low_id = raised.low_id FROM raised
    WHERE l.topic = raised.topic AND l.lane = raised.lane AND l.low_id < raised.low_id)
SELECT ` + filtered

// raise advances the low watermarks of lanes to the next ones of ended rounds, or to the first pending
// event before. It does so once for each value of ended.
func (s *Store) raise(ctx context.Context, ended int64) error {
	if !s.rounds.mayRaise(ended) {
		return nil
	}
	for after, more := (laneKey{}), true; more; {
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var lanes []lane
			var lows, nexts []int64
			var l lane
			var low, next int64
			rows, err := tx.Query(ctx, raisableSQL, raiseLanes, after.topic, after.lane)
			if err != nil {
				return err
			}
			_, err = pgx.ForEachRow(rows, []any{&l.topic, &l.lane, &low, &next}, func() error {
				lanes, lows, nexts = append(lanes, l), append(lows, low), append(nexts, next)
				return nil
			})
			if more = len(lanes) == raiseLanes; err != nil || len(lanes) == 0 {
				return err
			}
			after = l.key()
			topics, numbers := columns(lanes)
			var isFiltered bool
			err = tx.QueryRow(ctx, raiseSQL, topics, numbers, lows, nexts).Scan(&isFiltered)
			if err == nil && isFiltered {
				err = security(ctx, tx, false) // no policy changes before the commit: the tables are locked
			}
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

// Exists reports whether the database has an event. A failover may lose an event, and give its id to
// another event.
func (s *Store) Exists(ctx context.Context, r relay.Ref) (exists bool, err error) {
	ctx, cancel := s.limit(ctx)
	defer cancel()
	look := func() error { return s.pool.QueryRow(ctx, existsSQL, r.ID, timestamp(r.At)).Scan(&exists) }
	if err = look(); err == nil && !exists {
		err = unhidden(ctx, s.pool, look)
	}
	if err != nil {
		return false, fmt.Errorf("look for an event: %w", err)
	}
	return exists, nil
}

// rounds says when this process advances the rounds: in the background, one at a time, and only while
// low watermarks wait. The zero value is ready.
type rounds struct {
	running sync.WaitGroup

	mu     sync.Mutex
	busy   bool
	wanted bool // events were read since a round was closed for them
	waits  bool // a round waits for its writers
	pause  time.Duration
	due    time.Time
	raised int64 // raise has handled the rounds up to this one

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

// advanceWhenDue starts AdvanceRounds in the background if it is due. No caller waits for it or fails
// with it: a low watermark that does not rise costs time, but loses no event. Config.Fault gets its
// errors, as those of all statements.
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

// advanceNow closes a round, unless one waits or has just been closed, and waits until that is done, but not
// for long. Its errors are those of advanceWhenDue.
func (s *Store) advanceNow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, roundEvery)
	defer cancel()
	_, _, _ = s.AdvanceRounds(ctx, true)
}
