package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/schema"
)

// mixed are topics whose order is another in people's collations than in bytes.
var mixed = []string{"a_b", "a-b", "ab", "aB", "A", "B", "b", "É", "e", "F", "z1", "z10", "z2", "Z-1"}

func onDatabase(t testing.TB, pool *pgxpool.Pool, name string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(pool.Config().ConnString())
	require.NoError(t, err)
	u.Path = "/" + name
	if change != nil {
		change(u)
	}
	return u.String()
}

func openURL(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// inEnglish is a pool on a database without the outbox whose collation is that of
// English, where the server can have one: from version 15 on.
func inEnglish(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := testenv.Database(t)
	locale := ``
	if query[int](t, pool, `SELECT current_setting('server_version_num')::int`) >= 150000 {
		locale = `LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'`
	}
	name := query[string](t, pool, `SELECT current_database() || '_en'`)
	exec(t, pool, fmt.Sprintf(`CREATE DATABASE %s TEMPLATE template0 ENCODING 'UTF8' %s`, name, locale))
	t.Cleanup(func() { // the sessions of a superuser end by themselves
		testenv.Eventually(t, 10*time.Second, func() error {
			_, err := pool.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf(`DROP DATABASE %s WITH (FORCE)`, name))
			return err
		})
	})
	return openURL(t, onDatabase(t, pool, name, nil))
}

// asSuperuser is a pool on the same database that may change the catalogue. Where there
// is no such user, the test ends here.
func asSuperuser(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	super := pool
	if !query[bool](t, pool, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`) {
		super = openURL(t, onDatabase(t, pool, query[string](t, pool, `SELECT current_database()`), func(u *url.URL) { u.User = url.User("postgres") }))
	}
	if err := super.Ping(t.Context()); err != nil {
		t.Skipf("only a superuser can change the catalogue: %v", err)
	}
	return super
}

// foreignKeysSQL lists what an index compares by another collation than "C".
const foreignKeysSQL = `
SELECT coalesce(string_agg(t.relname || '.' || i.relname || ' ' || pg_get_indexdef(i.oid, k.place::int, true), ', ' ORDER BY t.relname, i.relname, k.place), '')
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
CROSS JOIN LATERAL unnest(x.indcollation::oid[]) WITH ORDINALITY AS k(collation_oid, place)
JOIN pg_collation c ON c.oid = k.collation_oid
WHERE t.relnamespace = 'outbox'::regnamespace AND c.collname <> 'C'`

// A key in the collation of the database is in another order after an update of the
// operating system, or where a backup is restored.
func TestKeys_CompareBytesInEveryIndex(t *testing.T) {
	pool := testenv.Database(t)
	require.Empty(t, query[string](t, pool, foreignKeysSQL), "declare these columns COLLATE \"C\"")
	require.Empty(t, query[string](t, pool, `
		SELECT coalesce(string_agg(c.relname || '.' || a.attname, ', '), '')
		FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (x.indkey)
		JOIN pg_collation o ON o.oid = a.attcollation
		WHERE c.relnamespace = 'outbox'::regnamespace AND o.collname <> 'C'`), "a query compares by the collation of the column, and can use no index of another")
}

// The collation of a database changes under its indexes.
func TestKeys_DoNotDependOnTheCollationOfTheDatabase(t *testing.T) {
	for name, before := range map[string]string{"as it is": "", "before": "keys_in_c"} {
		t.Run(name, func(t *testing.T) {
			pool := inEnglish(t)
			if query[int](t, pool, `SELECT current_setting('server_version_num')::int`) < 150000 {
				t.Skip("a database of this version has no ICU collation")
			}
			super := asSuperuser(t, pool)
			if before == "" {
				_, err := migrateAll(t.Context(), pool)
				require.NoError(t, err)
			} else {
				migrateUntil(t, pool, before)
			}
			const lanes = `INSERT INTO outbox.lane (topic, lane) SELECT unnest($1::text[]), 1 ON CONFLICT DO NOTHING`
			exec(t, pool, lanes, mixed)

			// With "shifted", punctuation does not count any more, and capitals come first.
			column := "daticulocale"
			if query[int](t, pool, `SELECT current_setting('server_version_num')::int`) >= 170000 {
				column = "datlocale"
			}
			exec(t, super, fmt.Sprintf(`UPDATE pg_database SET %s = 'en-US-u-ka-shifted-kf-upper-kn-true' WHERE datname = current_database()`, column))
			pool.Reset()
			testenv.Eventually(t, 10*time.Second, func() error { // sessions of before end
				if n := query[int](t, super, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user`); n > 0 {
					return fmt.Errorf("%d sessions of before", n)
				}
				return nil
			})
			exec(t, pool, lanes, mixed)
			twice := query[int](t, pool, `SELECT count(*) - count(DISTINCT topic COLLATE "C") FROM outbox.lane`)
			if before == "" {
				require.Zero(t, twice, "lanes that are there twice")
				return
			}
			// This shows that the test can see the fault. And the migration mends it.
			require.Positive(t, twice)
			_, err := migrateAll(t.Context(), pool)
			require.NoError(t, err)
			require.Equal(t, len(mixed), query[int](t, pool, `SELECT count(*) FROM outbox.lane`))
			exec(t, pool, lanes, mixed)
			require.Equal(t, len(mixed), query[int](t, pool, `SELECT count(*) FROM outbox.lane`))
		})
	}
}

// Of a lane that is there twice, two attempts may be the holders.
func TestMigrate_MakesOneLaneOfTwoAndLetsNoHolderGoOn(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "keys_in_c")
	super := asSuperuser(t, pool)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane, claim_id, holder, leased_until, low_id) VALUES ('orders', 1, gen_random_uuid(), gen_random_uuid(), now() + interval '1 minute', 100)`)
	exec(t, super, `UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'outbox.lane_pkey'::regclass`)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane, claim_id, holder, leased_until, low_id) VALUES
		('orders', 1, gen_random_uuid(), gen_random_uuid(), now() + interval '2 minutes', 50), ('audit', 1, gen_random_uuid(), gen_random_uuid(), now(), 7)`)
	exec(t, super, `UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'outbox.lane_pkey'::regclass`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, "audit 7 true, orders 0 false", query[string](t, pool,
		`SELECT string_agg(topic || ' ' || low_id || ' ' || (holder IS NOT NULL), ', ' ORDER BY topic) FROM outbox.lane`))
	require.True(t, query[bool](t, pool, `SELECT leased_until > now() + interval '90 seconds' FROM outbox.lane WHERE topic = 'orders'`),
		"no claim before the attempts that were cut off have fallen silent")
}

func TestMigrate_MovesKeysUnderTrafficAndLosesNothing(t *testing.T) {
	pool := inEnglish(t)
	migrateUntil(t, pool, "keys_in_c")
	exec(t, pool, `INSERT INTO outbox.event (topic, key, type, payload) SELECT t || n % 20, 'k' || n, 'T', 'x' FROM unnest($1::text[]) t, generate_series(1, 2000) n`, mixed)
	before := query[int64](t, pool, `SELECT count(*) FROM outbox.pending`)
	exec(t, pool, `DELETE FROM outbox.pending WHERE id % 7 = 0`)
	exec(t, pool, `WITH d AS (DELETE FROM outbox.pending WHERE id % 5 = 0 RETURNING *)
	               INSERT INTO outbox.dead_letter SELECT topic, lane, id, created_at, bytes, replay, 'Code', 'why', 3, now(), 'wf', 'k' || id FROM d`)
	settled := before - query[int64](t, pool, `SELECT count(*) FROM outbox.pending`)
	dead := query[int64](t, pool, `SELECT count(*) FROM outbox.dead_letter`)
	exec(t, pool, `GRANT SELECT ON outbox.status TO PUBLIC`)

	p := producers(t, pool, mixed)
	_, err := migrateAll(t.Context(), pool)
	longest, committed := p.end()
	require.NoError(t, err)
	t.Logf("%d inserts beside it, the longest took %s", committed, longest)
	require.Empty(t, query[string](t, pool, foreignKeysSQL))
	require.Equal(t, before-settled+committed, query[int64](t, pool, `SELECT count(*) FROM outbox.pending`))
	require.Equal(t, dead, query[int64](t, pool, `SELECT count(*) FROM outbox.dead_letter`))
	require.Equal(t, before+committed, query[int64](t, pool, `SELECT count(*) FROM outbox.status`))
	require.True(t, query[bool](t, pool, `SELECT has_table_privilege('public', 'outbox.status', 'SELECT')`), "rights on the view come back")
	for _, check := range []string{`SET enable_seqscan = off`, `SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off`} {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), check)
		require.NoError(t, err)
		var n int64
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM unnest($1::text[]) AS t(topic) JOIN outbox.pending p USING (topic)`, mixed).Scan(&n))
		require.Equal(t, committed, n, check)
		_, _ = conn.Exec(t.Context(), `RESET ALL`)
		conn.Release()
	}
}

// The new key of pending is the index that was built beside the producers, and not one
// that is built again while they wait.
func TestMigrate_UsesTheIndexThatWasBuiltBesideProducers(t *testing.T) {
	pool := inEnglish(t)
	migrateUntil(t, pool, "pending_in_c")
	const file = `SELECT pg_relation_filenode($1::text::regclass)::bigint`
	built := query[int64](t, pool, file, "outbox.pending_in_c")
	table := query[int64](t, pool, file, "outbox.pending")
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, built, query[int64](t, pool, file, "outbox.pending_pkey"))
	require.Equal(t, table, query[int64](t, pool, file, "outbox.pending"))
	require.Equal(t, 1, query[int](t, pool, `SELECT count(*) FROM pg_index WHERE indrelid = 'outbox.pending'::regclass`))
}

func TestMigrate_GoesOnWhereTheBuildOfAnIndexWasInterrupted(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "pending_index_in_c")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('open', 'T', 'x')`)
	require.NoError(t, err)

	ctx, interrupt := context.WithCancel(t.Context())
	interrupted := make(chan error, 1)
	go func() { _, err := migrateAll(ctx, pool); interrupted <- err }()
	testenv.Eventually(t, 10*time.Second, func() error {
		if !query[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('outbox.pending_in_c') AND NOT indisvalid)`) {
			return errors.New("no index is being built")
		}
		return nil
	})
	interrupt()
	require.Error(t, <-interrupted)
	require.NoError(t, tx.Commit(t.Context()))
	_, err = migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, "pending_pkey true", query[string](t, pool, `
		SELECT string_agg(c.relname || ' ' || x.indisvalid, ', ') FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
		WHERE x.indrelid = 'outbox.pending'::regclass`))
	require.Equal(t, 1, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
}

func TestMigrate_NamesTheSessionsThatAnIndexWaitsFor(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "pending_index_in_c")
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	tx, err := asSuperuser(t, pool).Begin(t.Context()) // of another role
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `SET application_name = 'a batch job'`)
	require.NoError(t, err)
	var pid int
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT pg_backend_pid() FROM outbox.pending`).Scan(&pid))

	said := make(chan string, 100)
	config := pool.Config().ConnConfig.Copy()
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { said <- n.Severity + " " + n.Message }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	done := make(chan error, 1)
	go func() { _, err := schema.Migrate(t.Context(), conn); done <- err }()
	testenv.Eventually(t, 10*time.Second, func() error {
		select {
		case text := <-said:
			if !strings.HasPrefix(text, "INFO ") {
				return errors.New("no message yet")
			}
			require.Contains(t, text, fmt.Sprintf("%d (a batch job", pid))
			return nil
		default:
			return errors.New("no message yet")
		}
	})
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, <-done)
}

// Two events of one id are pending only in a database whose numbers have come again. The
// migration must not choose between them.
func TestMigrate_RefusesTwoEventsUnderOneKeyAndNamesTheRemedy(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "pending_index_in_c")
	super := asSuperuser(t, pool)
	exec(t, pool, `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes) VALUES ('orders', 1, 1, '2026-01-01', 1)`)
	exec(t, super, `UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'outbox.pending_pkey'::regclass`)
	exec(t, pool, `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes) VALUES ('orders', 1, 1, '2026-02-01', 1), ('orders', 1, 2, '2026-01-01', 1), ('orders', 1, 2, '2026-01-01', 1)`)
	exec(t, super, `UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'outbox.pending_pkey'::regclass`)
	_, err := migrateAll(t.Context(), pool)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "23505", refused.Code)
	require.ErrorContains(t, err, "docs/runbook.md")
	require.ErrorContains(t, err, "(orders, 1, 1, 0)")
	exec(t, pool, `DELETE FROM outbox.pending WHERE id = 1 AND created_at = '2026-01-01'`)
	_, err = migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, 2, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
}
