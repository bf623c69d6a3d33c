package schema_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// compressed writes a large payload of a time, and returns how PostgreSQL compressed it.
func compressed(t *testing.T, pool *pgxpool.Pool, createdAt string) string {
	t.Helper()
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', $1, `+createdAt+`)`, strings.Repeat(`{"a":"b"}`, 2000))
	return query[string](t, pool, `SELECT pg_column_compression(payload) FROM outbox.event ORDER BY id DESC LIMIT 1`)
}

// withLZ4 skips a test on a server without lz4.
func withLZ4(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if !query[bool](t, pool, `SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'`) {
		t.Skip("the server has no lz4")
	}
}

func TestCompression_OfNewPayloadsIsLZ4InAllPartitions(t *testing.T) {
	for name, migrated := range map[string]func(pool *pgxpool.Pool){
		"new": func(*pgxpool.Pool) {},
		"upgraded": func(pool *pgxpool.Pool) {
			migrateUntil(t, pool, "lz4")
			require.Equal(t, "pglz", compressed(t, pool, "now()"))
		},
		"down and up again": func(pool *pgxpool.Pool) {
			_, err := migrateAll(t.Context(), pool)
			require.NoError(t, err)
			migrateDownTo(t, pool, "lz4")
			exec(t, pool, `SELECT outbox.make_partition('2031-01-01')`)
			require.Equal(t, "pglz", compressed(t, pool, "'2031-01-01 12:00Z'"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := empty(t)
			withLZ4(t, pool)
			migrated(pool)
			_, err := migrateAll(t.Context(), pool)
			require.NoError(t, err)
			exec(t, pool, `SELECT outbox.make_partition('2031-02-02')`)
			for _, at := range []string{"now()", "now() + interval '3 days'", "'2031-02-02 12:00Z'", "'2040-01-01'"} {
				require.Equal(t, "lz4", compressed(t, pool, at), at)
			}
		})
	}
}

func TestCompression_ThatTheOwnerHasChosenStays(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "lz4")
	exec(t, pool, `ALTER TABLE ONLY outbox.event ALTER payload SET COMPRESSION pglz; ALTER TABLE outbox.event_default ALTER payload SET COMPRESSION pglz`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	exec(t, pool, `SELECT outbox.make_partition('2031-02-02')`)
	require.Equal(t, "pglz", compressed(t, pool, "'2031-02-02 12:00Z'"), "a new partition")
	require.Equal(t, "pglz", compressed(t, pool, "'2040-01-01'"), "the default partition")
}

// A replica may lack lz4, so the migration does not overrule a setting.
func TestCompression_ThatTheDatabaseSetsStays(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "lz4")
	exec(t, pool, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_toast_compression = pglz', current_database()); END $$`)
	pool.Reset() // the setting is that of new sessions
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	exec(t, pool, `SELECT outbox.make_partition('2031-02-02')`)
	for _, at := range []string{"now()", "now() + interval '3 days'", "'2031-02-02 12:00Z'", "'2040-01-01'"} {
		require.Equal(t, "pglz", compressed(t, pool, at), at)
	}
}

func TestCompression_OfAPartitionOfAnotherRoleStopsNoMigration(t *testing.T) {
	pool := empty(t)
	withLZ4(t, pool)
	migrateUntil(t, pool, "lz4")
	superuser, err := pgx.Connect(t.Context(), testenv.SuperuserURL(t, pool.Config().ConnString()))
	require.NoError(t, err)
	_, err = superuser.Exec(t.Context(), `CREATE TABLE outbox.event_by_hand PARTITION OF outbox.event FOR VALUES FROM ('2031-01-01Z') TO ('2031-02-01Z')`)
	require.NoError(t, err)
	require.NoError(t, superuser.Close(t.Context()))
	_, err = migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, "lz4", compressed(t, pool, "now()"))
	require.Equal(t, "pglz", compressed(t, pool, "'2031-01-02 12:00Z'"))
}

// The migration does not need the partition that producers write to.
func TestCompression_ComesWithoutWaitingForProducers(t *testing.T) {
	pool := empty(t)
	withLZ4(t, pool)
	migrateUntil(t, pool, "lz4")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('open', 'T', 'x')`)
	require.NoError(t, err)
	p := producers(t, pool, []string{"orders", "audit"})
	_, err = migrateAll(t.Context(), pool)
	require.NoError(t, err)
	longest, committed := p.end()
	t.Logf("%d inserts, the longest took %s", committed, longest)
	require.Less(t, longest, time.Second)
	require.Equal(t, "pglz", compressed(t, pool, "now()"), "its partition was in use")
	require.Equal(t, "lz4", compressed(t, pool, "now() + interval '1 day'"))
}
