// Package schema creates and upgrades the tables that producers write to and
// the relay reads: numbered migrations that travel inside the binary, so that a
// deployment needs no files beside it, and the daily partitions of the event
// table.
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

// RolesSQL creates the roles outbox_producer and outbox_relay and grants each
// what it needs and no more. It may be run again.
//
//go:embed roles.sql
var RolesSQL string

// PartitionsAhead is how many days beyond today Migrate makes partitions for.
// Days without one fall into the default partition, which works but makes
// retention wait for them to be moved.
const PartitionsAhead = 14

// Result says what a migration changed.
type Result struct {
	From       int32 `json:"from"`       // schema version before
	To         int32 `json:"to"`         // schema version after
	Partitions int   `json:"partitions"` // daily partitions made
}

// Changed reports whether anything was different before.
func (r Result) Changed() bool { return r.From != r.To || r.Partitions > 0 }

// Migrate brings the database to the newest version and makes the partitions of
// today and the next PartitionsAhead days. Running it again changes nothing; of
// two that run at once, one waits. It needs the rights of the database's owner
// and a direct connection: behind PgBouncer in transaction mode the lock that
// keeps two migrations apart does not hold.
//
// The roles of RolesSQL are not created here, because roles belong to the whole
// server and many teams manage them elsewhere.
func Migrate(ctx context.Context, conn *pgx.Conn) (Result, error) {
	unlock, err := lock(ctx, conn)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
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
	if err := m.Migrate(ctx); err != nil {
		return r, fmt.Errorf("migrate from version %d: %w", r.From, err)
	}
	r.Partitions, err = MakePartitions(ctx, conn, PartitionsAhead)
	return r, err
}

// lockNumber keeps migrations of this schema apart from each other. It differs
// from tern's own, which Migrate takes inside it.
const lockNumber = int64(0x6f7574626f78) // "outbox"

func lock(ctx context.Context, conn *pgx.Conn) (unlock func(), err error) {
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockNumber); err != nil {
		return nil, fmt.Errorf("wait for other migrations: %w", err)
	}
	return func() {
		// If this fails the connection is gone, and the lock with it.
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, lockNumber)
	}, nil
}

// identifySQL is for the version table, which the migration library makes without a primary
// key. PostgreSQL refuses to update such a table once a publication of all tables has it.
const identifySQL = `
DO $$ BEGIN
    IF (SELECT relreplident FROM pg_class WHERE oid = 'outbox.schema_version'::regclass) <> 'f' THEN
        ALTER TABLE outbox.schema_version REPLICA IDENTITY FULL;
    END IF;
END $$`

// identify comes before the first update of the version table.
func identify(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, identifySQL); err != nil {
		return fmt.Errorf("give the version table a replica identity: %w", err)
	}
	return nil
}

const makePartitionSQL = `
SELECT outbox.make_partition(((now() AT TIME ZONE 'UTC')::date + $1::int))`

// MakePartitions makes the partitions of today and of the given number of days
// ahead, where missing, and says how many it made. Each waits at most 50 ms for
// producers that are in the way and then lets them pass, so that it never stops
// them; it gives up after ten seconds a partition. Where that would stop them all the
// same, because they write to a default partition that has caught much, it makes
// tomorrow's only.
func MakePartitions(ctx context.Context, conn *pgx.Conn, daysAhead int) (made int, err error) {
	for day := 0; day <= daysAhead; day++ {
		isNew, err := makePartition(ctx, conn, day)
		if err != nil {
			return made, fmt.Errorf("make partition of day %+d: %w", day, err)
		}
		if isNew {
			made++
		}
	}
	return made, nil
}

func makePartition(ctx context.Context, conn *pgx.Conn, day int) (made bool, err error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		var done *bool // null: later
		err = conn.QueryRow(ctx, makePartitionSQL, day).Scan(&done)
		made = done != nil && *done
		var pg *pgconn.PgError
		lockBusy := errors.As(err, &pg) && pg.Code == "55P03" // lock_not_available
		if !lockBusy || time.Now().After(deadline) {
			return made, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
