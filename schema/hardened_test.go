package schema_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	tern "github.com/jackc/tern/v2/migrate"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/schema"
)

// hardened is a database whose owner gives nobody a right on a new function by default.
func hardened(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := empty(t)
	exec(t, pool, `ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	return pool
}

func TestGrants_SufficeWherePublicMayExecuteNothing(t *testing.T) {
	pool := hardened(t)
	producer := testenv.AsRole(t, pool, "outbox_producer")
	relay := testenv.AsRole(t, pool, "outbox_relay")
	exec(t, producer, `INSERT INTO outbox.event (topic, key, type, payload, attributes) VALUES ('orders', 'k', 'T', '{}', '{"a": "b"}')`)
	exec(t, producer, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', '{}')`)
	exec(t, relay, `SELECT outbox.mark_is_safe(now(), '1')`)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1)`)
	exec(t, relay, `UPDATE outbox.lane SET claim_id = gen_random_uuid()`)
	exec(t, pool, schema.RolesSQL) // may be run again
}

// An insert runs constraints, defaults and generated columns with the producer's rights,
// and the trigger with those of the owner.
func TestGrants_AProducerNeedsNoFunction(t *testing.T) {
	pool := hardened(t)
	producer := testenv.AsRole(t, pool, "outbox_producer")
	exec(t, pool, `REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA outbox FROM PUBLIC, outbox_producer`)
	exec(t, producer, `INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes) VALUES ('orders', 'k', 'T', '{}', 'text/plain', '{"a": "b"}')`)
	_, err := producer.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', '')`)
	require.ErrorContains(t, err, "event_payload_is_not_empty")
}

func TestGrants_CoverEveryFunctionThatTheRelayCalls(t *testing.T) {
	pool := hardened(t)
	exec(t, pool, schema.RolesSQL)
	files, err := filepath.Glob("../internal/postgres/*.go")
	require.NoError(t, err)
	named := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`outbox\.([a-z_]+)\(`).FindAllStringSubmatch(string(text), -1) {
			named[m[1]] = true
		}
	}
	found := 0
	for _, f := range column(t, pool, `
		SELECT oid::regprocedure::text FROM pg_proc
		WHERE pronamespace = 'outbox'::regnamespace AND prorettype <> 'trigger'::regtype`) { // a trigger is fired, not called
		name, _, _ := strings.Cut(strings.TrimPrefix(f, "outbox."), "(")
		if !named[name] {
			continue
		}
		found++
		require.True(t, query[bool](t, pool, `SELECT has_function_privilege('outbox_relay', $1::regprocedure, 'EXECUTE')`, f),
			"schema/roles.sql and the migration that makes %s must grant it to outbox_relay", f)
	}
	require.Positive(t, found)
}

// A database whose roles were granted before the migration goes on without schema/roles.sql.
func TestGrants_ComeWithTheMigrationWhereTheRolesExist(t *testing.T) {
	pool := hardened(t)
	exec(t, pool, schema.RolesSQL)
	exec(t, pool, `DROP SCHEMA outbox CASCADE`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.True(t, query[bool](t, pool, `SELECT has_function_privilege('outbox_relay', 'outbox.mark_is_safe(timestamptz, xid8)', 'EXECUTE')`))
}

// Retention believes what these functions see. A policy that hides rows from the owner
// must be an error.
func TestSecurity_FunctionsOfTheOwnerFailWhereRowsAreHidden(t *testing.T) {
	pool := testenv.Database(t)
	for _, f := range column(t, pool, `
		SELECT oid::regprocedure::text FROM pg_proc
		WHERE pronamespace = 'outbox'::regnamespace AND prosecdef AND prorettype <> 'trigger'::regtype
		  AND NOT coalesce('row_security=off' = ANY (proconfig), false)`) {
		t.Errorf("%s needs SET row_security = off", f)
	}
	day := `(now() AT TIME ZONE 'UTC')::date - 30`
	exec(t, pool, `SELECT outbox.make_partition(`+day+`)`)
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', `+day+`)`)
	exec(t, pool, `ALTER TABLE outbox.pending ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`)
	_, err := pool.Exec(t.Context(), `SELECT outbox.drop_partition(`+day+`)`)
	require.ErrorContains(t, err, "row-level security")
	_, err = pool.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.ErrorContains(t, err, "row-level security", "no event is written that would never be published")
	exec(t, pool, `ALTER TABLE outbox.pending NO FORCE ROW LEVEL SECURITY`)
	require.Equal(t, "needed", query[string](t, pool, `SELECT outbox.drop_partition(`+day+`)`))
}

// publishAll makes a publication as administrators do for logical replication.
func publishAll(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	super, err := pgx.Connect(t.Context(), testenv.SuperuserURL(t, pool.Config().ConnString()))
	require.NoError(t, err)
	defer super.Close(t.Context())
	_, err = super.Exec(t.Context(), `CREATE PUBLICATION everything FOR ALL TABLES`)
	require.NoError(t, err)
}

func TestMigrate_WorksWhereAllTablesArePublishedBeforehand(t *testing.T) {
	pool := empty(t)
	publishAll(t, pool)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	usable(t, pool)
}

// The release before left the table of versions without an identity.
func TestMigrate_UpgradesWhereAllTablesArePublished(t *testing.T) {
	pool := empty(t)
	exec(t, pool, `CREATE SCHEMA outbox`)
	require.NoError(t, pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		m, err := tern.NewMigrator(t.Context(), c.Conn(), "outbox.schema_version")
		if err != nil {
			return err
		}
		if err := m.LoadMigrations(os.DirFS("migrations")); err != nil {
			return err
		}
		return m.MigrateTo(t.Context(), int32(len(m.Migrations)-1))
	}))
	publishAll(t, pool)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	usable(t, pool)
}

// usable changes rows of every table as the relay does.
func usable(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	require.Empty(t, column(t, pool, `
		SELECT c.relname FROM pg_class c
		WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident <> 'f'
		  AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)`), "these cannot be updated once they are published")
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1)`)
	exec(t, pool, `UPDATE outbox.lane SET low_id = 1`)
	exec(t, pool, `UPDATE outbox.sample SET by = 'a'`)
	exec(t, pool, `DELETE FROM outbox.pending`)
	exec(t, pool, `UPDATE outbox.schema_version SET version = version`)
	again, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.False(t, again.Changed())
}

func column(t *testing.T, pool *pgxpool.Pool, sql string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return all
}
