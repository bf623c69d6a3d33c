// Package schema creates and upgrades the tables of producers and of the relay: by
// numbered migrations, which are part of the binary, so that a deployment needs no other
// files, and by the daily partitions of the event table.
package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed migrations/*.sql
var files embed.FS

// RolesSQL creates the roles outbox_producer and outbox_relay and grants each only the
// rights that it needs. You may run it again.
//
//go:embed roles.sql
var RolesSQL string

// PartitionsAhead is the number of days after today for which Migrate makes partitions.
// Events of days without a partition stay in the default partition until they expire.
// Retention deletes them there one by one, which costs more than to drop a partition.
const PartitionsAhead = 14

// Result lists the changes of a migration.
type Result struct {
	From       int32 `json:"from"`       // schema version before
	To         int32 `json:"to"`         // schema version after
	Partitions int   `json:"partitions"` // daily partitions made
}

// Changed reports whether the migration changed anything.
func (r Result) Changed() bool { return r.From != r.To || r.Partitions > 0 }

// Migrate upgrades the database to the newest version and makes the partitions of
// today and the next PartitionsAhead days. A second call changes nothing; of two
// concurrent calls, one waits. It needs the rights of the database's owner and a
// direct connection: behind PgBouncer in transaction mode, the lock that keeps two
// migrations apart does not work.
//
// A migration that needs a lock on the producers' tables waits at most 50 ms for their
// transactions, lets them pass and tries again, for up to Patience.
//
// Migrate does not create the roles of RolesSQL, because roles belong to the whole
// server, and many teams manage them elsewhere.
func Migrate(ctx context.Context, conn *pgx.Conn) (Result, error) {
	unlock, err := lock(ctx, conn)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	reset, err := asOwner(ctx, conn)
	if err != nil {
		return Result{}, err
	}
	defer reset()
	if _, err := conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS outbox`); err != nil {
		return Result{}, fmt.Errorf("create schema outbox: %w", err)
	}
	m, err := migrate.NewMigrator(ctx, conn, "outbox.schema_version")
	if err != nil {
		return Result{}, fmt.Errorf("prepare migration: %w", err)
	}
	if err := identify(ctx, conn); err != nil {
		return Result{}, fmt.Errorf("prepare migration: %w", err)
	}
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		return Result{}, fmt.Errorf("read migrations: %w", err)
	}
	if err := m.LoadMigrations(sub); err != nil {
		return Result{}, fmt.Errorf("load migrations: %w", err)
	}
	var r Result
	if r.From, err = m.GetCurrentVersion(ctx); err != nil {
		return r, fmt.Errorf("read schema version: %w", err)
	}
	r.To = int32(len(m.Migrations)) //nolint:gosec // a handful of files
	if r.From > r.To {
		return r, fmt.Errorf("the database is at schema version %d and this program knows only %d: use the newer release that migrated it", r.From, r.To)
	}
	if err := refuseDependents(ctx, conn); err != nil {
		return r, fmt.Errorf("migrate from version %d: %w", r.From, err)
	}
	if err := migrateWhenFree(ctx, conn, m); err != nil {
		return r, fmt.Errorf("migrate from version %d: %w", r.From, err)
	}
	if err := putRowsBack(ctx, conn); err != nil {
		return r, err
	}
	r.Partitions, err = MakePartitions(ctx, conn, PartitionsAhead)
	return r, err
}

// rowsSQL restores the rows of tables that must have one, or sixteen, after a TRUNCATE or a copy without
// data. The new round is later than the rounds of all marks, and no round has ended: all marks
// wait once more for the transactions that may insert below them.
var rowsSQL = []string{
	`INSERT INTO outbox.round (number, ended)
	 SELECT coalesce(max(mark_round), 0) + 1, 0 FROM outbox.lane
	 HAVING NOT EXISTS (SELECT FROM outbox.round)
	 ON CONFLICT DO NOTHING`,
	`INSERT INTO outbox.sample DEFAULT VALUES ON CONFLICT DO NOTHING`,
	`INSERT INTO outbox.share (lane) SELECT generate_series(0, 15) ON CONFLICT DO NOTHING`,
}

func putRowsBack(ctx context.Context, conn *pgx.Conn) error {
	for _, sql := range rowsSQL {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("restore the relay's own rows: %w", err)
		}
	}
	return nil
}

// ownerSQL finds the role that owns an existing outbox, if it differs from the session's role.
const ownerSQL = `
SELECT coalesce((SELECT quote_ident(r.rolname) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                 WHERE c.oid = to_regclass('outbox.event') AND r.rolname <> current_user), '')`

// asOwner makes a superuser, or a member of the owner's role, migrate as the owner: functions
// that run as the owner could not use the objects of another role.
func asOwner(ctx context.Context, conn *pgx.Conn) (reset func(), err error) {
	var owner string
	if err := conn.QueryRow(ctx, ownerSQL).Scan(&owner); err != nil {
		return nil, fmt.Errorf("look for the owner of the outbox: %w", err)
	}
	if owner == "" {
		return func() {}, nil
	}
	if _, err := conn.Exec(ctx, "SET ROLE "+owner); err != nil {
		return nil, fmt.Errorf("the outbox belongs to the role %s: migrate as that role: %w", owner, err)
	}
	return func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "RESET ROLE") }, nil
}

// lockNumber keeps migrations of this schema apart from each other. It differs
// from tern's own, which Migrate takes inside it.
const lockNumber = int64(0x6f7574626f78) // "outbox"

// lock tries again and again instead of waiting inside one statement: the concurrent build of
// an index waits for every running statement, so the two would wait for each other.
func lock(ctx context.Context, conn *pgx.Conn) (unlock func(), err error) {
	for locked := false; !locked; {
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockNumber).Scan(&locked); err != nil {
			return nil, fmt.Errorf("wait for other migrations: %w", err)
		}
		if !locked {
			if err := pause(ctx); err != nil {
				return nil, fmt.Errorf("wait for other migrations: %w", err)
			}
		}
	}
	return func() {
		// If this fails, the connection is gone, and so is the lock.
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, lockNumber)
	}, nil
}

// Patience is how long Migrate tries to get the locks of one migration. You must end a
// transaction that uses the outbox's tables for longer.
const Patience = 5 * time.Minute

// migrateWhenFree runs the missing migrations. Each takes effect completely or not at all, so
// it retries a migration that found a table in use.
func migrateWhenFree(ctx context.Context, conn *pgx.Conn, m *migrate.Migrator) error {
	// For every migration, so that none can forget it: while a migration waits for a lock, all
	// later requests of producers and the relay wait too.
	if _, err := conn.Exec(ctx, `SET lock_timeout = '50ms'`); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), `RESET lock_timeout`) }()
	for deadline := time.Now().Add(Patience); ; {
		before, err := m.GetCurrentVersion(ctx)
		if err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
		err = m.Migrate(ctx)
		if !lockBusy(err) {
			return withRemedy(err)
		}
		after, versionErr := m.GetCurrentVersion(ctx)
		if versionErr != nil {
			return errors.Join(err, versionErr)
		}
		switch {
		case after > before:
			deadline = time.Now().Add(Patience)
		case time.Now().After(deadline):
			return fmt.Errorf("transactions have used the outbox's tables for %s: end them and run this again: %s: %w",
				Patience, holders(ctx, conn), err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// holdersSQL names the sessions that use the outbox's tables, the oldest transaction
// first.
const holdersSQL = `
SELECT coalesce(string_agg(who, ', '), 'none is left')
FROM (SELECT format('%s (%s, since %s)', a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), a.xact_start) AS who
      FROM pg_stat_activity a
      WHERE a.pid <> pg_backend_pid() AND a.pid IN (
          SELECT l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
          WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND c.relnamespace = 'outbox'::regnamespace)
      ORDER BY a.xact_start LIMIT 5) holder`

func holders(ctx context.Context, conn *pgx.Conn) (list string) {
	if err := conn.QueryRow(ctx, holdersSQL).Scan(&list); err != nil {
		return "their sessions could not be listed: " + err.Error()
	}
	return "sessions " + list
}

func lockBusy(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03" // lock_not_available
}

// pause waits a moment, so that the holder of the lock can finish.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

// identifySQL is for the version table, which the migration library makes without a primary
// key. PostgreSQL refuses to update such a table if a publication of all tables exists.
const identifySQL = `
DO $$ BEGIN
    IF (SELECT relreplident FROM pg_class WHERE oid = 'outbox.schema_version'::regclass) <> 'f' THEN
        ALTER TABLE outbox.schema_version REPLICA IDENTITY FULL;
    END IF;
END $$`

// identify must run before the first update of the version table.
func identify(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, identifySQL); err != nil {
		return fmt.Errorf("give the version table a replica identity: %w", err)
	}
	return nil
}

const makePartitionSQL = `
SELECT outbox.make_partition(((now() AT TIME ZONE 'UTC')::date + $1::int))`

// MakePartitions makes the missing partitions of today and of the given number of days
// ahead, and returns the number of partitions that it made. For each it takes only free locks
// for five seconds, so that no producer waits. For five more seconds it waits 50 ms for a lock.
// Then it leaves the partition to Maintenance and continues with the next one. A day with
// events in the default partition gets no partition. If that day is today, and its events are
// many, MakePartitions makes only tomorrow's.
func MakePartitions(ctx context.Context, conn *pgx.Conn, daysAhead int) (made int, err error) {
	for day := 0; day <= daysAhead; day++ {
		isNew, err := makePartition(ctx, conn, day)
		if err != nil && !lockBusy(err) {
			return made, fmt.Errorf("make partition of day %+d: %w", day, err)
		}
		if isNew {
			made++
		}
	}
	return made, nil
}

// mayQueueSQL lets make_partition wait 50 ms for a lock, with producers behind it.
const mayQueueSQL = `SELECT set_config('outbox.may_queue', $1, true)`

func makePartition(ctx context.Context, conn *pgx.Conn, day int) (made bool, err error) {
	const politely = 5 * time.Second
	for deadline := time.Now().Add(2 * politely); ; {
		var done *bool // nil: later
		mayQueue := "off"
		if time.Until(deadline) < politely {
			mayQueue = "on"
		}
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, mayQueueSQL, mayQueue); err != nil {
				return err
			}
			return tx.QueryRow(ctx, makePartitionSQL, day).Scan(&done)
		})
		made = done != nil && *done
		if !lockBusy(err) || time.Now().After(deadline) {
			return made, err
		}
		if err := pause(ctx); err != nil {
			return false, err
		}
	}
}
