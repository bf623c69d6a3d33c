package schema_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/schema"
)

func exec(t testing.TB, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := db.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func query[T any](t testing.TB, db *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	require.NoError(t, db.QueryRow(t.Context(), sql, args...).Scan(&v))
	return v
}

// empty is a connection to a test database without the outbox.
func empty(t *testing.T) (pool *pgxpool.Pool) {
	t.Helper()
	pool = testenv.Database(t)
	exec(t, pool, `DROP SCHEMA outbox CASCADE`)
	return pool
}

func migrateAll(ctx context.Context, pool *pgxpool.Pool) (r schema.Result, err error) {
	err = pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		r, err = schema.Migrate(ctx, c.Conn())
		return err
	})
	return r, err
}

func TestMigrate_TwiceChangesNothing(t *testing.T) {
	pool := empty(t)
	first, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, schema.PartitionsAhead+1, first.Partitions)
	require.True(t, first.Changed())
	again, err := migrateAll(t.Context(), pool)
	require.NoError(t, err)
	require.False(t, again.Changed(), "%+v", again)
}

func TestMigrate_ManyTimesAtOnceDoesNotCollide(t *testing.T) {
	pool := empty(t)
	var wg sync.WaitGroup
	results := make([]schema.Result, 4)
	for i := range results {
		wg.Go(func() {
			var err error
			if results[i], err = migrateAll(t.Context(), pool); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	changed := 0
	for _, r := range results {
		if r.Changed() {
			changed++
		}
	}
	require.Equal(t, 1, changed)
}

func TestMigrate_OfAnOlderProgramRefusesANewerSchema(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `UPDATE outbox.schema_version SET version = version + 1`)
	_, err := migrateAll(t.Context(), pool)
	require.ErrorContains(t, err, "use the newer release")
}

func TestTrigger_MakesAnEventPendingWhenItsTransactionCommitsOnly(t *testing.T) {
	pool := testenv.Database(t)
	const insert = `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', 'häh'), ('orders', 'k', 'T', 'x')`
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), insert)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))

	exec(t, pool, insert)
	require.Equal(t, 2, query[int](t, pool, `SELECT count(*) FROM outbox.pending p JOIN outbox.event e USING (topic, lane, id, created_at)`))
	require.Equal(t, "pending", query[string](t, pool, `SELECT DISTINCT state FROM outbox.status`))
	require.GreaterOrEqual(t, query[int](t, pool, `SELECT min(bytes) FROM outbox.pending`), 2)
}

func TestTrigger_MakesCopiedEventsPendingToo(t *testing.T) {
	pool := testenv.Database(t)
	n, err := pool.CopyFrom(t.Context(), pgx.Identifier{"outbox", "event"}, []string{"topic", "key", "type", "payload"},
		pgx.CopyFromSlice(10, func(i int) ([]any, error) { return []any{"orders", fmt.Sprint(i), "T", "{}"}, nil }))
	require.NoError(t, err)
	require.Equal(t, n, query[int64](t, pool, `SELECT count(*) FROM outbox.pending`))
}

func TestStatusView_TellsPendingFromDeadFromNeither(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload) SELECT 'orders', 'T', i::text FROM generate_series(1, 3) i`)
	exec(t, pool, `DELETE FROM outbox.pending WHERE id = 1`)
	exec(t, pool, `WITH d AS (DELETE FROM outbox.pending WHERE id = 2 RETURNING *)
	               INSERT INTO outbox.dead_letter SELECT topic, lane, id, created_at, bytes, replay, 'Code', 'why', 3, now(), 'wf' FROM d`)
	rows, err := pool.Query(t.Context(), `SELECT state || coalesce(':' || code, '') FROM outbox.status ORDER BY id`)
	require.NoError(t, err)
	states, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"not pending", "dead:Code", "pending"}, states)
}

func TestLane_IsTheSameForAKeyAndSpreadsEventsWithoutKey(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'k' || i % 200, 'T', 'x' FROM generate_series(1, 2000) i`)
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload) SELECT 'free', 'T', 'x' FROM generate_series(1, 500) i`)
	require.Equal(t, 1, query[int](t, pool, `SELECT max(lanes) FROM (SELECT count(DISTINCT lane) AS lanes FROM outbox.event WHERE key <> '' GROUP BY topic, key) x`))
	require.Equal(t, 16, query[int](t, pool, `SELECT count(DISTINCT lane) FROM outbox.event WHERE topic = 'orders'`))
	require.Equal(t, 16, query[int](t, pool, `SELECT count(DISTINCT lane) FROM outbox.event WHERE topic = 'free'`))
}

// The lane of a key is stored with what is pending. If the expression gave
// another lane tomorrow, a key could be in two at once.
func TestLane_OfAKeyNeverChanges(t *testing.T) {
	pool := testenv.Database(t)
	for _, c := range []struct {
		topic, key string
		lane       int
	}{{"orders", "order-1", 7}, {"orders", "order-3", 12}, {"audit", "order-1", 10}, {"orders", "ключ", 4}} {
		exec(t, pool, `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, 'T', 'x')`, c.topic, c.key)
		require.Equal(t, c.lane, query[int](t, pool, `SELECT lane FROM outbox.event ORDER BY id DESC LIMIT 1`), "%+v", c)
	}
}

func TestEventCheck_RefusesInTheTransactionWhatAWSWouldReject(t *testing.T) {
	pool := testenv.Database(t)
	const insert = `INSERT INTO outbox.event (topic, key, type, payload, attributes) VALUES ($1, $2, $3, $4, $5)`
	for name, c := range map[string]struct {
		topic, key, kind, payload, attributes string
		constraint                            string
	}{
		"no topic":           {"", "k", "T", "x", `{}`, "event_topic_is_1_to_256_bytes"},
		"no type":            {"t", "k", "", "x", `{}`, "event_type_is_1_to_256_bytes"},
		"no payload":         {"t", "k", "T", "", `{}`, "event_payload_is_not_empty"},
		"not an object":      {"t", "k", "T", "x", `["a"]`, "event_attributes_are_valid"},
		"a number":           {"t", "k", "T", "x", `{"a": 1}`, "event_attributes_are_valid"},
		"an empty value":     {"t", "k", "T", "x", `{"a": ""}`, "event_attributes_are_valid"},
		"AWS's prefix":       {"t", "k", "T", "x", `{"aws.a": "1"}`, "event_attributes_are_valid"},
		"Amazon's prefix":    {"t", "k", "T", "x", `{"AMAZON.a": "1"}`, "event_attributes_are_valid"},
		"a space":            {"t", "k", "T", "x", `{"a b": "1"}`, "event_attributes_are_valid"},
		"an edge dot":        {"t", "k", "T", "x", `{"a.": "1"}`, "event_attributes_are_valid"},
		"two dots":           {"t", "k", "T", "x", `{"a..b": "1"}`, "event_attributes_are_valid"},
		"one of the relay's": {"t", "k", "T", "x", `{"event_id": "1"}`, "event_attributes_are_valid"},
		"seven":              {"t", "k", "T", "x", `{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1","g":"1"}`, "event_attributes_are_valid"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pool.Exec(t.Context(), insert, c.topic, c.key, c.kind, c.payload, c.attributes)
			require.ErrorContains(t, err, c.constraint)
		})
	}
	exec(t, pool, insert, "t", "", "T", "x", `{"a.b-c_1":"1","b":"1","c":"1","d":"1","e":"1","f":"1","traceparent":"00-1"}`)
}

func TestMakePartition_StopsNoProducers(t *testing.T) {
	pool := testenv.Database(t)
	tx, err := pool.Begin(t.Context()) // an open producer, holding its locks
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
	made := make(chan error, 1)
	go func() {
		_, err := pool.Exec(t.Context(), `SELECT outbox.make_partition('2031-01-01')`)
		made <- err
	}()
	for range 50 { // other producers come and go meanwhile
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := pool.Exec(ctx, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
		cancel()
		require.NoError(t, err)
	}
	require.NoError(t, <-made, "and a producer does not keep a partition from being made")
	require.NoError(t, tx.Commit(t.Context()))
}

func TestMakePartition_GivesUpQuicklyWhenTheDefaultOneIsBusy(t *testing.T) {
	pool := testenv.Database(t)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.event_default IN ROW EXCLUSIVE MODE`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `SELECT outbox.make_partition('2031-01-01')`)
	require.ErrorContains(t, err, "55P03")
	require.False(t, query[bool](t, pool, `SELECT to_regclass('outbox.event_20310101') IS NOT NULL`))
}

func TestMakePartition_LeavesEventsThatTheDefaultPartitionCaught(t *testing.T) {
	pool := testenv.Database(t)
	exec(t, pool, `INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'caught', '2031-01-01 12:00Z')`)
	require.Equal(t, 1, query[int](t, pool, `SELECT count(*) FROM outbox.event_default`))
	require.True(t, query[bool](t, pool, `SELECT outbox.make_partition('2031-01-01') IS NULL`))
	require.Equal(t, "caught", query[string](t, pool, `SELECT payload FROM outbox.event_default`))
	require.True(t, query[bool](t, pool, `SELECT outbox.make_partition('2031-01-02')`))
	require.False(t, query[bool](t, pool, `SELECT outbox.make_partition('2031-01-02')`))
}

func TestMigrate_MakesPartitionsUnderAnyDefaultIsolation(t *testing.T) {
	url := testenv.DatabaseURL(t)
	for _, level := range []string{"repeatable read", "serializable"} {
		conn, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `SET default_transaction_isolation = '`+level+`';
			DO $$ BEGIN EXECUTE 'DROP TABLE outbox.event_' || to_char((now() AT TIME ZONE 'UTC')::date + 14, 'YYYYMMDD'); END $$`)
		require.NoError(t, err)
		r, err := schema.Migrate(t.Context(), conn)
		require.NoError(t, err)
		require.Equal(t, 1, r.Partitions)
		require.NoError(t, conn.Close(t.Context()))
	}
}

func TestProducerRole_MayInsertEventsAndNothingElse(t *testing.T) {
	pool := testenv.Database(t)
	producer := testenv.AsRole(t, pool, "outbox_producer")
	exec(t, pool, schema.RolesSQL) // may be run again
	exec(t, producer, `INSERT INTO outbox.event (event_id, topic, key, type, payload, content_type, attributes)
	                   VALUES (gen_random_uuid(), 'orders', 'k', 'T', '{}', 'application/json', '{"a":"b"}')`)
	require.Equal(t, 1, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))

	today := time.Now().UTC().Format("20060102")
	for name, sql := range map[string]string{
		"read events":            `SELECT * FROM outbox.event`,
		"read what is pending":   `SELECT * FROM outbox.pending`,
		"read the status":        `SELECT * FROM outbox.status`,
		"return what it wrote":   `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x') RETURNING payload`,
		"change events":          `UPDATE outbox.event SET payload = 'x'`,
		"delete events":          `DELETE FROM outbox.event`,
		"truncate events":        `TRUNCATE outbox.event`,
		"delete pending":         `DELETE FROM outbox.pending`,
		"insert pending":         `INSERT INTO outbox.pending VALUES ('orders', 1, 1, now(), 1)`,
		"set id":                 `INSERT INTO outbox.event (id, topic, type, payload) OVERRIDING SYSTEM VALUE VALUES (1, 'orders', 'T', 'x')`,
		"set created_at":         `INSERT INTO outbox.event (created_at, topic, type, payload) VALUES (now(), 'orders', 'T', 'x')`,
		"write to a partition":   fmt.Sprintf(`INSERT INTO outbox.event_%s (topic, type, payload) VALUES ('orders', 'T', 'x')`, today),
		"write to the default":   `INSERT INTO outbox.event_default (topic, type, payload) VALUES ('orders', 'T', 'x')`,
		"make a partition":       `SELECT outbox.make_partition('2031-01-01')`,
		"drop a partition":       `SELECT outbox.drop_partition('2020-01-01')`,
		"see what was caught":    `SELECT * FROM outbox.caught()`,
		"delete what was caught": `SELECT outbox.delete_caught('2020-01-01', 0)`,
		"take a lease":           `UPDATE outbox.lane SET leased_until = now()`,
		"use the trigger itself": `SELECT outbox.enqueue()`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := producer.Exec(t.Context(), sql)
			require.ErrorContains(t, err, "permission denied")
		})
	}
	t.Run("set id with COPY", func(t *testing.T) {
		_, err := producer.CopyFrom(t.Context(), pgx.Identifier{"outbox", "event"}, []string{"id", "topic", "type", "payload"},
			pgx.CopyFromRows([][]any{{int64(1), "orders", "T", "x"}}))
		require.ErrorContains(t, err, "permission denied")
	})
}

// NOTIFY takes a lock of the whole cluster at every commit.
func TestTrigger_NotifiesNobody(t *testing.T) {
	require.Zero(t, query[int](t, testenv.Database(t), `
		SELECT count(*)::int FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'outbox' AND p.prosrc ILIKE '%notify%'`))
}
