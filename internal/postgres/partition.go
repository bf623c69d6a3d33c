package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/relay"
)

// lockRetry is the pause after somebody was in the way of a lock on a table. The lock
// waits for 50 ms at most, because all producers may wait behind it.
const lockRetry = 250 * time.Millisecond

// lockNotAvailable is PostgreSQL's code for a lock that is not worth waiting for.
const lockNotAvailable = "55P03"

// missingSQL lists the days that need a partition: those to come, and those of
// which the default partition has caught something.
const missingSQL = `
WITH today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS day),
caught AS (SELECT day, events FROM outbox.caught())
SELECT d.day::text, coalesce(caught.events, 0)
FROM (SELECT day + n AS day FROM today, generate_series(0, $1::int) n UNION SELECT day FROM caught) d
LEFT JOIN caught USING (day)
WHERE to_regclass('outbox.event_' || to_char(d.day, 'YYYYMMDD')) IS NULL
ORDER BY d.day`

// partitionTimeout bounds each statement about partitions: one may look through all that
// is pending, or count or move what the default partition has caught. They stop no
// producer, however long they take; redrives and replays wait for the look.
const partitionTimeout = 5 * time.Minute

const makePartitionSQL = `SELECT outbox.make_partition($1::text::date)`

// MakePartitions makes the partitions of today and so many days after it, and of
// every day of which the default partition has caught events: those move. If producers
// write to the default partition now, and it has caught much, only tomorrow's is made,
// and the others are left for later. Running it again changes nothing. progress, which
// may be nil, is called before each step.
func (s *Store) MakePartitions(ctx context.Context, ahead int, progress func()) (done relay.Partitions, err error) {
	days, err := list(ctx, s, missingSQL, ahead)
	if err != nil {
		return done, fmt.Errorf("list missing partitions: %w", err)
	}
	for _, d := range days {
		made, err := unlocked[*bool](ctx, s, makePartitionSQL, d.Day, progress)
		switch {
		case err != nil:
			return done, fmt.Errorf("make the partition of %s: %w", d.Day, err)
		case made == nil:
			done.Later = append(done.Later, d.Day)
		case *made:
			done.Made = append(done.Made, d.Day)
			done.Moved += d.Events
		}
	}
	return done, nil
}

// expiredSQL lists the partitions of days that ended at least so many days ago.
const expiredSQL = `
SELECT day::text, 0::bigint
FROM (SELECT to_date(substr(c.relname, 7), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'outbox.event'::regclass AND c.relname ~ '^event_[0-9]{8}$') partition
WHERE day < (now() AT TIME ZONE 'UTC')::date - $1::int
ORDER BY day`

// forgetDiscardedSQL forgets what was discarded of events that are gone.
const forgetDiscardedSQL = `
DELETE FROM outbox.discarded x
WHERE x.created_at < (now() AT TIME ZONE 'UTC')::date - $1::int
  AND NOT EXISTS (SELECT FROM outbox.event e WHERE e.id = x.id AND e.created_at = x.created_at)`

const dropPartitionSQL = `SELECT outbox.drop_partition($1::text::date)`

// DropPartitions drops the partitions of days that ended at least keep days ago,
// with their events, unless one of those is pending or dead. progress, which may be
// nil, is called before each step.
func (s *Store) DropPartitions(ctx context.Context, keep int, progress func()) (done relay.Partitions, err error) {
	days, err := list(ctx, s, expiredSQL, keep)
	if err != nil {
		return done, fmt.Errorf("list expired partitions: %w", err)
	}
	for _, d := range days {
		became, err := unlocked[string](ctx, s, dropPartitionSQL, d.Day, progress)
		if err != nil {
			return done, fmt.Errorf("drop the partition of %s: %w", d.Day, err)
		}
		switch became {
		case "dropped":
			done.Dropped = append(done.Dropped, d.Day)
		case "needed":
			done.Needed = append(done.Needed, d.Day)
		}
	}
	if _, err := s.pool.Exec(ctx, forgetDiscardedSQL, keep); err != nil {
		return done, fmt.Errorf("forget what was discarded: %w", err)
	}
	return done, nil
}

type partitionDay struct {
	Day    string
	Events int64
}

func list(ctx context.Context, s *Store, sql string, days int) ([]partitionDay, error) {
	ctx, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, sql, days)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[partitionDay])
}

// unlocked runs a statement about a day until it gets its lock or ctx ends.
func unlocked[T any](ctx context.Context, s *Store, sql, day string, progress func()) (result T, err error) {
	for {
		if progress != nil {
			progress()
		}
		err = s.scan(ctx, sql, day, &result)
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != lockNotAvailable {
			return result, err
		}
		select {
		case <-ctx.Done():
			return result, fmt.Errorf("producers were always in the way: %w", err)
		case <-time.After(lockRetry):
		}
	}
}

func (s *Store) scan(ctx context.Context, sql, day string, to any) error {
	ctx, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	return s.pool.QueryRow(ctx, sql, day).Scan(to)
}

// healthSQL reads what holds vacuum back as far as any role may see it.
const healthSQL = `
WITH held AS (
    SELECT age(backend_xmin)::bigint AS xids, 'the snapshot of backend ' || pid || ' (' || coalesce(application_name, '') || ')' AS what
    FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL SELECT age(xmin)::bigint, 'replication slot ' || slot_name FROM pg_replication_slots WHERE xmin IS NOT NULL
    UNION ALL SELECT age(transaction)::bigint, 'prepared transaction ' || gid FROM pg_prepared_xacts),
today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS day)
SELECT (SELECT coalesce(min(n), 366) FROM today, generate_series(0, 366) n
        WHERE to_regclass('outbox.event_' || to_char(day + n + 1, 'YYYYMMDD')) IS NULL),
       (SELECT coalesce(sum(events), 0)::bigint FROM outbox.caught()),
       coalesce((SELECT xids FROM held ORDER BY xids DESC LIMIT 1), 0),
       coalesce((SELECT what FROM held ORDER BY xids DESC LIMIT 1), '')`

// Health reads what should be known of the database before it hurts.
func (s *Store) Health(ctx context.Context) (h relay.Health, err error) {
	ctx, cancel := context.WithTimeout(ctx, partitionTimeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, healthSQL).Scan(&h.Ahead, &h.Caught, &h.HeldXIDs, &h.HeldBy); err != nil {
		return h, fmt.Errorf("read the database's health: %w", err)
	}
	return h, nil
}
