package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/relay"
)

// lockRetry is the pause after a lock on a table was not available.
const lockRetry = 250 * time.Millisecond

// queueFirst is the pause between two waits for a lock that make producers wait too. It doubles each
// time, up to queueMost.
const (
	queueFirst = time.Second
	queueMost  = 16 * time.Second
)

// lockNotAvailable is PostgreSQL's SQLSTATE for a lock that was not available in time.
const lockNotAvailable = "55P03"

// hasPartition is true of a day whose partition belongs to outbox.event. Without one, a table of its
// name may exist nevertheless: a detached partition.
const hasPartition = `EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'outbox.event'::regclass AND c.relname = 'event_' || to_char(d.day, 'YYYYMMDD'))`

// missingSQL lists the days from today on that need a partition.
const missingSQL = `
SELECT d.day::text
FROM (SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, $1::int) n) d
WHERE NOT ` + hasPartition + `
ORDER BY d.day`

// detachedSQL lists the days of missingSQL that have a detached table, and how to attach it next to
// the events that the default partition has received since.
const detachedSQL = `
SELECT format('%s has no partition: outbox.event_%s was detached, so events of the day go to the default partition, and those in the table become '
           || 'dead letters (EventMissing); attach it again: ALTER TABLE outbox.event ATTACH PARTITION outbox.event_%s FOR VALUES FROM (%L) TO (%L); '
           || 'then redrive those dead letters',
           d.day, to_char(d.day, 'YYYYMMDD'), to_char(d.day, 'YYYYMMDD'), d.day || ' 00:00Z',
           coalesce((SELECT min(e.created_at) FROM outbox.event e
                     WHERE e.created_at >= d.day::timestamp AT TIME ZONE 'UTC' AND e.created_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC')::text,
                    d.day + 1 || ' 00:00Z'))
FROM (SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, $1::int) n) d
WHERE NOT ` + hasPartition + ` AND to_regclass('outbox.event_' || to_char(d.day, 'YYYYMMDD')) IS NOT NULL
ORDER BY d.day`

// partitionTimeout limits each statement about partitions: it may read all pending events, or count
// the events in the default partition. Such a statement never stops producers, even if it takes
// long; redrives and replays wait for it.
const partitionTimeout = 5 * time.Minute

const makePartitionSQL = `SELECT outbox.make_partition($1::text::date)`

// MakePartitions makes the partitions of today and of the ahead days after it. Two kinds of days get
// none and are Later: days with events in the default partition, and days whose partition producers
// block for too long. Left names detached partitions, and the remedy. A second call changes nothing.
// progress, which may be nil, is called before each step.
func (s *Store) MakePartitions(ctx context.Context, ahead int, progress func()) (done relay.Partitions, err error) {
	days, err := list(ctx, s, missingSQL, ahead)
	if err != nil {
		return done, fmt.Errorf("list missing partitions: %w", err)
	}
	var turn turns
	for _, day := range days {
		made, err := s.makePartition(ctx, day, &turn, progress)
		switch {
		case err != nil:
			return done, fmt.Errorf("make the partition of %s: %w", day, err)
		case made == nil:
			done.Later = append(done.Later, day)
		case *made:
			done.Made = append(done.Made, day)
		}
	}
	if len(done.Later) > 0 {
		detached, err := list(ctx, s, detachedSQL, ahead)
		if err != nil {
			return done, fmt.Errorf("list detached partitions: %w", err)
		}
		done.Left = append(done.Left, detached...)
	}
	return done, nil
}

// makePartition returns nil if a later run has to make the partition.
func (s *Store) makePartition(ctx context.Context, day string, turn *turns, progress func()) (made *bool, err error) {
	patience, cancel := context.WithTimeout(ctx, s.cfg.MakePatience)
	defer cancel()
	err = s.unlocked(ctx, patience, s.cfg.MakePatience/2, turn, progress, makePartitionSQL, []any{day}, &made)
	if errors.Is(err, errInTheWay) && ctx.Err() == nil {
		return nil, nil
	}
	return made, err
}

// expiredSQL lists the partitions of days that ended at least $1 days ago.
const expiredSQL = `
SELECT day::text
FROM (SELECT to_date(substr(c.relname, 7), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'outbox.event'::regclass AND c.relname ~ '^event_[0-9]{8}$') partition
WHERE day < (now() AT TIME ZONE 'UTC')::date - $1::int
ORDER BY day`

// forgetDiscardedSQL deletes the records of discarded events that no longer exist.
const forgetDiscardedSQL = `
DELETE FROM outbox.discarded x
WHERE x.created_at < (now() AT TIME ZONE 'UTC')::date - $1::int
  AND NOT EXISTS (SELECT FROM outbox.event e WHERE e.id = x.id AND e.created_at = x.created_at)`

const dropPartitionSQL = `SELECT outbox.drop_partition($1::text::date)`

// DropPartitions drops the partitions of days that ended at least keep days ago, with their events,
// unless one of these is pending or dead. A partition that a session uses for too long is Left to a
// later run, with the session's id. DropPartitions then tries the other partitions only once: one
// session may use all of them, and a run must end. It also deletes the events of such days from the
// default partition, except pending and dead ones. progress, which may be nil, is called before each
// step.
func (s *Store) DropPartitions(ctx context.Context, keep int, progress func()) (done relay.Partitions, err error) {
	days, err := list(ctx, s, expiredSQL, keep)
	if err != nil {
		return done, fmt.Errorf("list expired partitions: %w", err)
	}
	patience := s.cfg.DropPolitely + s.cfg.MakePatience
	var turn turns
	for _, day := range days {
		became, err := s.dropPartition(ctx, day, patience, &turn, progress)
		switch {
		case errors.Is(err, errInTheWay) && ctx.Err() == nil:
			patience = 0
			done.Left = append(done.Left, fmt.Sprintf("%s is not dropped: %v", day, err))
		case err != nil:
			return done, fmt.Errorf("drop the partition of %s: %w", day, err)
		}
		switch became {
		case "dropped":
			done.Dropped = append(done.Dropped, day)
		case "needed":
			done.Needed = append(done.Needed, day)
		}
	}
	if err := s.deleteCaught(ctx, keep, &turn, progress, &done); err != nil {
		return done, fmt.Errorf("delete expired events of the default partition: %w", err)
	}
	if _, err := s.pool.Exec(ctx, forgetDiscardedSQL, keep); err != nil {
		return done, fmt.Errorf("delete records of discarded events: %w", err)
	}
	return done, nil
}

// dropPartition returns errInTheWay if a later run has to drop the partition. With a patience of 0,
// it tries once; that try waits for its lock if turn allows it.
func (s *Store) dropPartition(ctx context.Context, day string, patience time.Duration, turn *turns, progress func()) (became string, err error) {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = s.unlocked(ctx, patient, min(patience, s.cfg.DropPolitely), turn, progress, dropPartitionSQL, []any{day}, &became)
	return became, err
}

// expiredCaughtSQL lists the days that ended at least $1 days ago and have events in the default
// partition.
const expiredCaughtSQL = `
SELECT day::text FROM outbox.caught() WHERE day < (now() AT TIME ZONE 'UTC')::date - $1::int ORDER BY day`

const deleteCaughtSQL = `SELECT next_page, deleted FROM outbox.delete_caught((now() AT TIME ZONE 'UTC')::date - $1::int, $2)`

// deleteCaught deletes expired events from the default partition, a part of it at a time.
func (s *Store) deleteCaught(ctx context.Context, keep int, turn *turns, progress func(), done *relay.Partitions) error {
	left, err := list(ctx, s, expiredCaughtSQL, keep)
	if err != nil || len(left) == 0 {
		return err
	}
	for page := new(int64); page != nil; {
		var next *int64
		var deleted int64
		patience, cancel := context.WithTimeout(ctx, s.cfg.DropPolitely+s.cfg.MakePatience)
		err := s.unlocked(ctx, patience, s.cfg.DropPolitely, turn, progress, deleteCaughtSQL, []any{keep, *page}, &next, &deleted)
		cancel()
		if errors.Is(err, errInTheWay) && ctx.Err() == nil {
			done.Left = append(done.Left, fmt.Sprintf("the default partition keeps expired events: %v", err))
			break
		}
		if err != nil {
			return err
		}
		done.Deleted += deleted
		page = next
	}
	left, err = list(ctx, s, expiredCaughtSQL, keep)
	done.Needed = append(done.Needed, left...)
	slices.Sort(done.Needed)
	return err
}

func list(ctx context.Context, s *Store, sql string, days int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sql, days)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// errInTheWay says that a lock was never available.
var errInTheWay = errors.New("a lock was never available")

// mayQueueSQL lets the functions of the schema wait 50 ms for a lock on outbox.event, with
// all producers behind them.
const mayQueueSQL = `SELECT set_config('outbox.may_queue', 'on', true)`

// turns says when a run of Maintenance may wait for a lock on outbox.event again. A reader of the
// table, or a transaction that has inserted, may hold its lock for hours. Each wait is then in vain
// and makes all producers wait too, so the waits become rarer. The zero value may wait at once.
type turns struct {
	next  time.Time
	pause time.Duration
}

func (t *turns) come() bool { return !time.Now().Before(t.next) }

func (t *turns) inVain() {
	t.pause = min(queueMost, max(queueFirst, 2*t.pause))
	t.next = time.Now().Add(t.pause)
}

// ofOneDay matches the message if only the lock of one day's partition was not available. The
// statement had then not requested the lock of outbox.event, and no producer has waited.
var ofOneDay = regexp.MustCompile(`event_[0-9]{8}`)

func producersWaited(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && !ofOneDay.MatchString(pg.Message)
}

// unlocked runs a statement until it gets its locks, or until patience or ctx ends. During politely
// it takes only free locks. If the transactions of producers always overlap, that never succeeds. So
// it then waits 50 ms for its lock, whenever turn allows it.
func (s *Store) unlocked(ctx, patience context.Context, politely time.Duration, turn *turns, progress func(), sql string, args []any, to ...any) error {
	for began := time.Now(); ; {
		if progress != nil {
			progress()
		}
		queues := time.Since(began) > politely && turn.come()
		err := s.committed(ctx, queues, sql, args, to)
		if !hasState(err, lockNotAvailable) {
			return err
		}
		if queues && producersWaited(err) {
			turn.inVain()
		}
		select {
		case <-patience.Done():
			return fmt.Errorf("%w: %w", errInTheWay, err)
		case <-time.After(lockRetry):
		}
	}
}

// committed runs a statement that needs a snapshot from after its locks: in READ COMMITTED, even if
// the role or the database sets another default.
func (s *Store) committed(ctx context.Context, mayQueue bool, sql string, args, to []any) error {
	ctx, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if mayQueue {
			if _, err := tx.Exec(ctx, mayQueueSQL); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, sql, args...).Scan(to...)
	})
}

// healthSQL reads the oldest transaction that holds vacuum back, from catalogues that every role may
// read. Under READ COMMITTED, an idle transaction that has written has no snapshot, and holds vacuum
// back by its id. If it has inserted an event, the current round may wait for it.
const healthSQL = `
WITH held AS (
    SELECT greatest(age(a.backend_xmin), age(a.backend_xid))::bigint AS xids,
           CASE WHEN a.backend_xid IS NULL THEN 'the snapshot' ELSE 'the transaction' END || ' of backend ' || a.pid || ' (' || coalesce(a.application_name, '')
           || CASE WHEN EXISTS (SELECT FROM pg_locks l JOIN outbox.round r ON l.virtualtransaction = ANY (r.writers) WHERE l.pid = a.pid AND r.ended < r.number - 1)
                   THEN '; it has inserted an event and keeps low watermarks from rising' ELSE '' END || ')' AS what
    FROM pg_stat_activity a WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_backend_pid()
    UNION ALL SELECT age(xmin)::bigint, 'replication slot ' || slot_name FROM pg_replication_slots WHERE xmin IS NOT NULL
    UNION ALL SELECT age(transaction)::bigint, 'prepared transaction ' || gid FROM pg_prepared_xacts),
today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS day)
SELECT (SELECT coalesce(min(n), 366) FROM today t, generate_series(0, 366) n, LATERAL (SELECT t.day + n + 1 AS day) d
        WHERE NOT ` + hasPartition + `),
       (SELECT coalesce(sum(events), 0)::bigint FROM outbox.caught()),
       coalesce((SELECT xids FROM held ORDER BY xids DESC LIMIT 1), 0),
       coalesce((SELECT what FROM held ORDER BY xids DESC LIMIT 1), '')`

// Health reads the state of the database that warns of problems ahead.
func (s *Store) Health(ctx context.Context) (h relay.Health, err error) {
	ctx, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, healthSQL).Scan(&h.Ahead, &h.Caught, &h.HeldXIDs, &h.HeldBy); err != nil {
		return h, fmt.Errorf("read the database's health: %w", err)
	}
	enqueue, err := s.Enqueue(ctx)
	if err != nil {
		return h, err
	}
	if err := errors.Join(enqueue.Failure(), enqueue.Warning()); err != nil {
		h.NotEnqueued = err.Error()
	}
	return h, nil
}
