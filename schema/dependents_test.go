package schema_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Reports and dashboards of a service read the view that is documented for people.
func TestMigrate_KeepsTheStatusViewAndWhatDependsOnIt(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "pending_index_in_c")
	exec(t, pool, `
		CREATE SCHEMA mine;
		CREATE VIEW mine.open AS SELECT topic, count(*) AS events FROM outbox.status WHERE state = 'pending' GROUP BY topic;
		CREATE MATERIALIZED VIEW mine.dead AS SELECT id, code FROM outbox.status WHERE state = 'dead';
		CREATE FUNCTION mine.state(bigint) RETURNS text BEGIN ATOMIC SELECT state FROM outbox.status WHERE id = $1; END;
		CREATE FUNCTION mine.all() RETURNS SETOF outbox.status LANGUAGE sql AS 'SELECT * FROM outbox.status';
		CREATE RULE keep AS ON DELETE TO outbox.status DO INSTEAD NOTHING;
		COMMENT ON VIEW outbox.status IS 'asked by the dashboard';
		COMMENT ON COLUMN outbox.status.state IS 'one of four';
		ALTER VIEW outbox.status SET (security_barrier = true);
		GRANT SELECT (topic) ON outbox.status TO PUBLIC;
		INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	was := query[uint32](t, pool, `SELECT 'outbox.status'::regclass::oid`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, was, query[uint32](t, pool, `SELECT 'outbox.status'::regclass::oid`))
	require.Equal(t, 1, query[int](t, pool, `SELECT events FROM mine.open WHERE topic = 'orders'`))
	require.Equal(t, "pending", query[string](t, pool, `SELECT mine.state((SELECT id FROM outbox.event))`))
	require.Equal(t, "asked by the dashboard, one of four", query[string](t, pool, `
		SELECT obj_description('outbox.status'::regclass) || ', ' || col_description('outbox.status'::regclass, attnum)
		FROM pg_attribute WHERE attrelid = 'outbox.status'::regclass AND attname = 'state'`))
	require.True(t, query[bool](t, pool, `SELECT has_column_privilege('public', 'outbox.status', 'topic', 'SELECT')`))
	require.False(t, query[bool](t, pool, `SELECT has_column_privilege('public', 'outbox.status', 'state', 'SELECT')`))
	require.Equal(t, "{security_barrier=true}", query[string](t, pool, `SELECT reloptions::text FROM pg_class WHERE oid = 'outbox.status'::regclass`))
	require.Equal(t, 2, query[int](t, pool, `SELECT count(*) FROM pg_rewrite WHERE ev_class = 'outbox.status'::regclass`))
}

// PostgreSQL cannot change a column that one of these uses. The owner learns it before an
// index is built.
func TestMigrate_NamesWhatUsesAColumnThatChangesAndTheRemedy(t *testing.T) {
	for name, c := range map[string]struct{ create, named, drop string }{
		"a view":              {`CREATE VIEW mine.lanes AS SELECT topic, lane FROM outbox.lane`, `view mine.lanes`, `DROP VIEW mine.lanes`},
		"two views":           {`CREATE VIEW mine.a AS SELECT topic FROM outbox.pending; CREATE VIEW mine.b AS SELECT key FROM outbox.dead_letter`, `view mine.a, view mine.b`, `DROP VIEW mine.a, mine.b`},
		"a materialized view": {`CREATE MATERIALIZED VIEW mine.dead AS SELECT topic, count(*) FROM outbox.dead_letter GROUP BY topic`, `materialized view mine.dead`, `DROP MATERIALIZED VIEW mine.dead`},
		"a function":          {`CREATE FUNCTION mine.paused() RETURNS SETOF text BEGIN ATOMIC SELECT topic FROM outbox.topic; END`, `function mine.paused()`, `DROP FUNCTION mine.paused()`},
		"a policy":            {`CREATE POLICY own ON outbox.discarded USING (topic = 'orders')`, `policy own on outbox.discarded`, `DROP POLICY own ON outbox.discarded`},
		"a rule":              {`CREATE TABLE IF NOT EXISTS mine.seen (kind text); CREATE RULE seen AS ON INSERT TO outbox.operation DO ALSO INSERT INTO mine.seen VALUES (NEW.kind)`, `rule seen on outbox.operation`, `DROP RULE seen ON outbox.operation`},
		"a trigger":           {`CREATE OR REPLACE FUNCTION mine.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER t BEFORE INSERT ON outbox.dead_letter FOR EACH ROW WHEN (NEW.topic = 'x') EXECUTE FUNCTION mine.f()`, `trigger t on outbox.dead_letter`, `DROP TRIGGER t ON outbox.dead_letter`},
		"a foreign key":       {`CREATE TABLE mine.note (topic text, lane smallint, id bigint, replay bigint, CONSTRAINT of FOREIGN KEY (topic, lane, id, replay) REFERENCES outbox.dead_letter)`, `table constraint of on mine.note`, `DROP TABLE mine.note`},
	} {
		t.Run(name, func(t *testing.T) {
			pool := empty(t)
			migrateUntil(t, pool, "pending_index_in_c")
			exec(t, pool, `CREATE SCHEMA mine`)
			exec(t, pool, c.create)
			before := query[int](t, pool, `SELECT version FROM outbox.schema_version`)
			_, err := migrateAll(t.Context(), pool)
			require.ErrorContains(t, err, c.named+": drop")
			require.ErrorContains(t, err, "create")
			require.Equal(t, before, query[int](t, pool, `SELECT version FROM outbox.schema_version`), "no work is done before the error")
			exec(t, pool, c.drop)
			_, err = migrateAll(t.Context(), pool)
			require.NoError(t, err)
			exec(t, pool, c.create)
			_, err = migrateAll(t.Context(), pool)
			require.NoError(t, err, "what was created again is no obstacle")
		})
	}
}

// Dead letters may be many, and claims wait while the tables are locked.
func TestMigrate_BuildsTheIndexesOfDeadLettersBesideTheRelay(t *testing.T) {
	pool := inEnglish(t)
	migrateUntil(t, pool, "keys_in_c")
	exec(t, pool, `INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id, key)
		SELECT topic, 1, n, now(), 1, 'Code', 'why', 1, 'wf', 'k' || n % 3 FROM unnest($1::text[]) AS topic, generate_series(1, 50) n`, mixed)
	exec(t, pool, `INSERT INTO outbox.discarded (topic, lane, id, created_at, replay, code, message, dead_at, operation)
		SELECT topic, lane, id, created_at, replay, code, message, dead_at, 1 FROM outbox.dead_letter`)
	exec(t, pool, `ALTER TABLE outbox.dead_letter REPLICA IDENTITY USING INDEX dead_letter_pkey`)
	const file = `SELECT pg_relation_filenode($1::text::regclass)::bigint`
	was := map[string]int64{}
	for _, name := range []string{"dead_letter_in_c", "discarded_in_c", "dead_letter", "discarded"} {
		was[name] = query[int64](t, pool, file, "outbox."+name)
	}
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	for old, name := range map[string]string{"dead_letter_in_c": "dead_letter_pkey", "discarded_in_c": "discarded_pkey", "dead_letter": "dead_letter", "discarded": "discarded"} {
		require.Equal(t, was[old], query[int64](t, pool, file, "outbox."+name), name)
	}
	require.Empty(t, query[string](t, pool, foreignKeysSQL))
	require.Equal(t, "dead_letter_key, dead_letter_pkey, discarded_pkey", query[string](t, pool, `
		SELECT string_agg(c.relname, ', ' ORDER BY c.relname COLLATE "C") FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
		WHERE x.indrelid IN ('outbox.dead_letter'::regclass, 'outbox.discarded'::regclass) AND x.indisvalid`))
	require.Contains(t, query[string](t, pool, `SELECT pg_get_indexdef('outbox.dead_letter_key'::regclass)`), "WHERE (key <> ''::text)")
	require.True(t, query[bool](t, pool, `SELECT indisreplident FROM pg_index WHERE indexrelid = 'outbox.dead_letter_pkey'::regclass`))
	require.Equal(t, 50*len(mixed), query[int](t, pool, `SELECT count(*) FROM outbox.dead_letter WHERE topic = ANY ($1)`, mixed))
}

// A database that an earlier release brought through these migrations has no index to use.
func TestMigrate_BuildsTheIndexesOfDeadLettersWhereNoneIsPrepared(t *testing.T) {
	pool := empty(t)
	migrateUntil(t, pool, "keys_in_c")
	exec(t, pool, `DROP INDEX IF EXISTS outbox.dead_letter_in_c, outbox.dead_letter_key_in_c, outbox.discarded_in_c`)
	exec(t, pool, `INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id, key)
		SELECT 'orders', 1, n, now(), 1, 'Code', 'why', 1, 'wf', 'k' FROM generate_series(1, 50) n`)
	_, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Empty(t, query[string](t, pool, foreignKeysSQL))
	require.Equal(t, "dead_letter_key, dead_letter_pkey, discarded_pkey", query[string](t, pool, `
		SELECT string_agg(c.relname, ', ' ORDER BY c.relname COLLATE "C") FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
		WHERE x.indrelid IN ('outbox.dead_letter'::regclass, 'outbox.discarded'::regclass) AND x.indisvalid`))
}

// Claims update lanes. They go on while the keys of a million dead letters change.
func TestMigrate_LetsLanesGoOnBesideManyDeadLetters(t *testing.T) {
	rows, most := 10_000, time.Second
	if os.Getenv("OUTBOX_TEST_FULL") != "" {
		rows, most = 1_000_000, 500*time.Millisecond
	}
	pool := empty(t)
	migrateUntil(t, pool, "pending_index_in_c")
	exec(t, pool, `INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id, key)
		SELECT 'orders-' || n % 50, n % 16, n, now(), 1, 'Code', 'why', 1, 'wf', 'k' || n % 1000 FROM generate_series(1, $1::int) n`, rows)
	exec(t, pool, `INSERT INTO outbox.discarded (topic, lane, id, created_at, replay, code, message, dead_at, operation)
		SELECT topic, lane, id, created_at, replay, code, message, dead_at, 1 FROM outbox.dead_letter`)
	exec(t, pool, `INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1)`)
	began, migrated := time.Now(), make(chan error, 1)
	go func() { _, err := migrateAll(t.Context(), pool); migrated <- err }()
	var longest time.Duration
	for done := false; !done; {
		asked := time.Now()
		exec(t, pool, `UPDATE outbox.lane SET leased_until = now() WHERE NOT EXISTS (SELECT FROM outbox.dead_letter d WHERE d.topic = 'orders-1' AND d.key = 'none' AND d.key <> '')`)
		longest = max(longest, time.Since(asked))
		select {
		case err := <-migrated:
			require.NoError(t, err)
			done = true
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Logf("%d dead letters: migrated in %s, the longest update of a lane took %s", rows, time.Since(began), longest)
	require.Less(t, longest, most)
}
