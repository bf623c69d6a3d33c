package schema_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/tern/v2/migrate"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/schema"
)

// migrateUntil makes the outbox as it was before the migration of that name, with its
// partitions.
func migrateUntil(t testing.TB, pool *pgxpool.Pool, name string) {
	t.Helper()
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		if _, err := c.Exec(t.Context(), `DROP SCHEMA IF EXISTS outbox CASCADE; CREATE SCHEMA outbox`); err != nil {
			return err
		}
		if err := migrateTo(t, c, name); err != nil {
			return err
		}
		_, err := schema.MakePartitions(t.Context(), c.Conn(), schema.PartitionsAhead)
		return err
	}))
}

// migrateDownTo takes the outbox back to before the migration of that name.
func migrateDownTo(t testing.TB, pool *pgxpool.Pool, name string) {
	t.Helper()
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error { return migrateTo(t, c, name) }))
}

func migrateTo(t testing.TB, c *pgxpool.Conn, name string) error {
	m, err := migrate.NewMigrator(t.Context(), c.Conn(), "outbox.schema_version")
	if err != nil {
		return err
	}
	if err := m.LoadMigrations(os.DirFS("migrations")); err != nil {
		return err
	}
	until := int32(-1)
	for _, step := range m.Migrations {
		if strings.HasSuffix(step.Name, "_"+name+".sql") {
			until = step.Sequence - 1
		}
	}
	require.GreaterOrEqual(t, until, int32(0), "no migration is called %s", name)
	return m.MigrateTo(t.Context(), until)
}

// traffic is some producers that insert one event after the other.
type traffic struct {
	committed, failed atomic.Int64
	longest           atomic.Int64 // nanoseconds that one INSERT took
	stop              context.CancelFunc
	done              sync.WaitGroup
}

func producers(t *testing.T, pool *pgxpool.Pool, topics []string) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &traffic{stop: cancel}
	for n := range 3 {
		p.done.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				began := time.Now()
				_, err := pool.Exec(t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, 'k', 'T', 'x')`, topics[i%len(topics)])
				if err != nil {
					t.Errorf("a producer's INSERT: %v", err)
					p.failed.Add(1)
					return
				}
				p.committed.Add(1)
				for took := time.Since(began).Nanoseconds(); ; {
					longest := p.longest.Load()
					if took <= longest || p.longest.CompareAndSwap(longest, took) {
						break
					}
				}
				time.Sleep(time.Millisecond) // two cores are shared by everything
			}
		})
	}
	return p
}

// end stops the producers, and says how long the slowest INSERT took and how many
// events they have committed.
func (p *traffic) end() (longest time.Duration, committed int64) {
	p.stop()
	p.done.Wait()
	return time.Duration(p.longest.Load()), p.committed.Load()
}

// A lock that waits for an open transaction makes all later producers wait behind it.
func TestMigrate_KeepsNoProducerWaitingBehindAnOpenTransaction(t *testing.T) {
	const open = 2 * time.Second
	for _, name := range []string{"valid_events", "pending_index_in_c", "pending_in_c", "operation_marks"} {
		t.Run(name, func(t *testing.T) {
			pool := empty(t)
			migrateUntil(t, pool, name)
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('open', 'T', 'x')`)
			require.NoError(t, err)

			p := producers(t, pool, []string{"orders", "audit"})
			migrated := make(chan error, 1)
			go func() { _, err := migrateAll(t.Context(), pool); migrated <- err }()
			select {
			case err := <-migrated:
				t.Fatalf("migrated beside an open transaction: %v", err)
			case <-time.After(open):
			}
			require.NoError(t, tx.Commit(t.Context()))
			require.NoError(t, <-migrated)
			longest, committed := p.end()
			t.Logf("%d inserts, the longest took %s", committed, longest)
			require.Less(t, longest, open/2)
			require.Equal(t, committed+1, query[int64](t, pool, `SELECT count(*) FROM outbox.pending`))
			require.Equal(t, committed+1, query[int64](t, pool, `SELECT count(*) FROM outbox.event`))
		})
	}
}

// The columns for the reason of a pause are in a table that producers do not use.
func TestMigrate_KeepsTheReasonOfAPauseWithoutWaitingForProducers(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "why_broken")
	exec(t, pool, `INSERT INTO outbox.topic (topic, recovery_paused_until, recovery_workflow_id) VALUES ('orders', now() + interval '1 hour', 'r')`)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
	p := producers(t, pool, []string{"orders", "audit"})
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		return migrateTo(t, c, "operation_marks") // the next one, which waits for producers
	}), "it does not wait for the transaction")
	require.NoError(t, err, "it does not wait for the transaction")
	longest, committed := p.end()
	t.Logf("%d inserts, the longest took %s", committed, longest)
	require.Less(t, longest, time.Second)
	require.Equal(t, "r", query[string](t, pool, `SELECT DISTINCT recovery_workflow_id FROM outbox.status WHERE topic = 'orders'`))
	require.Zero(t, query[int](t, pool, `SELECT count(failure_code) FROM outbox.status`))
	require.NoError(t, tx.Commit(t.Context()))
}

// A lock that waits for a reader makes the relay wait behind it, and its leases run out.
func TestMigrate_KeepsNoRelayWaitingBehindAReader(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "watermark")
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1)`)
	reader, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer reader.Rollback(t.Context())
	_, err = reader.Exec(t.Context(), `SELECT count(*) FROM outbox.lane, outbox.event`)
	require.NoError(t, err)
	migrated := make(chan error, 1)
	go func() { _, err := migrateAll(t.Context(), pool); migrated <- err }()
	var longest time.Duration
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		began := time.Now()
		exec(t, pool, `UPDATE outbox.lane SET leased_until = now()`)
		longest = max(longest, time.Since(began))
	}
	t.Logf("the longest update of a lane took %s", longest)
	require.Less(t, longest, time.Second)
	require.NoError(t, reader.Commit(t.Context()))
	require.NoError(t, <-migrated)
}

// A reader by ids need not read what was published before the upgrade.
func TestMigrate_BeginsTheFinalIDAtTheHighestLowWatermark(t *testing.T) {
	for _, lows := range []string{"", "(0), (0)", "(0), (71), (40)"} {
		pool := empty(t)
		migrateUntil(t, pool, "final_id")
		if lows != "" {
			exec(t, pool, `INSERT INTO outbox.lane (topic, lane, low_id) SELECT 'orders', row_number() OVER (), low FROM (VALUES `+lows+`) l(low)`)
		}
		_, err := migrateAll(t.Context(), pool)
		require.NoError(t, err)
		want := map[string]int64{"(0), (71), (40)": 70}[lows]
		require.Equal(t, want, query[int64](t, pool, `SELECT final_id FROM outbox.round`), lows)
		require.Equal(t, want, query[int64](t, pool, `SELECT closed_id FROM outbox.round`), lows)
	}
}

// Functions that run as the owner of the outbox cannot use what belongs to another.
func TestMigrate_BySuperuserLeavesEverythingToTheOwner(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "watermark")
	super := asSuperuser(t, pool)
	_, err := migrateAll(t.Context(), super)
	require.NoError(t, err)
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relowner <> (SELECT relowner FROM pg_class WHERE oid = 'outbox.event'::regclass)`))
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace
	    AND proowner <> (SELECT relowner FROM pg_class WHERE oid = 'outbox.event'::regclass)`))
	exec(t, pool, `SELECT outbox.make_partition(current_date + 40)`)
}

func TestMigrate_DownAndUpAgainKeepsPendingAndDeadEvents(t *testing.T) {
	pool := empty(t)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	exec(t, pool, `INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'k' || i, 'T', 'x' FROM generate_series(1, 50) i`)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) SELECT DISTINCT topic, lane FROM outbox.pending`)
	exec(t, pool, `WITH gone AS (DELETE FROM outbox.pending WHERE id % 2 = 0 RETURNING topic, lane, id, created_at, bytes, replay)
	               INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, replay, key, code, message, attempts, workflow_id)
	               SELECT topic, lane, id, created_at, bytes, replay, 'k' || id, 'Poison', 'never', 1, 'relay' FROM gone`)
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		m, err := migrate.NewMigrator(t.Context(), c.Conn(), "outbox.schema_version")
		if err != nil {
			return err
		}
		if err := m.LoadMigrations(os.DirFS("migrations")); err != nil {
			return err
		}
		for _, step := range m.Migrations {
			if strings.HasSuffix(step.Name, "_sample.sql") {
				return m.MigrateTo(t.Context(), step.Sequence)
			}
		}
		t.Error("no migration is called sample")
		return nil
	}))
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM pg_class WHERE oid = to_regclass('outbox.round')`), "it went down")
	_, err = migrateAll(t.Context(), pool)
	require.NoError(t, err)
	for _, table := range []string{"pending", "dead_letter"} {
		require.Equal(t, 25, query[int](t, pool, `SELECT count(*) FROM outbox.`+table+` p JOIN outbox.event e USING (id, created_at)`), table)
	}
	require.True(t, query[bool](t, pool, `SELECT indisvalid FROM pg_index WHERE indexrelid = 'outbox.dead_letter_key'::regclass`))
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.Equal(t, 26, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
}
