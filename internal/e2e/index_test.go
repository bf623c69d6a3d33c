package e2e

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIndex_ThatIsAddedLaterIsInAllPartitionsAndThoseToCome(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.write("orders", "e", 100, 10)
	add := func() {
		psql := exec.CommandContext(t.Context(), psqlPath(t), o.url,
			"-v", "name=event_key", "-v", "columns=topic, key, id", "-f", "../../schema/index.sql")
		out, err := psql.CombinedOutput()
		require.NoError(t, err, string(out))
		require.NotContains(t, string(out), "ERROR")
	}
	const without = `SELECT count(*) FROM pg_inherits p WHERE p.inhparent = 'outbox.event'::regclass AND NOT EXISTS (
	    SELECT FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indexrelid
	    WHERE x.indrelid = p.inhrelid AND x.indisvalid AND i.inhparent = 'outbox.event_key'::regclass)`
	const all = `SELECT count(*) FROM pg_indexes WHERE schemaname = 'outbox' AND tablename LIKE 'event%' AND indexdef LIKE '%(topic, key, id)'`
	add()
	require.Zero(t, o.count(without))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM pg_index WHERE indexrelid = 'outbox.event_key'::regclass AND indisvalid`))
	had := o.count(all)
	require.Greater(t, had, 10)
	add()
	require.Equal(t, had, o.count(all), "again, it changes nothing")

	o.exec(`SELECT outbox.make_partition(current_date + 100)`)
	require.Zero(t, o.count(without), "a partition that is made later has it")
	require.Equal(t, had+1, o.count(all))

	// As if it had been interrupted: one index is not valid, one not attached, one missing.
	o.exec(`DROP INDEX outbox.event_key`)
	require.Zero(t, o.count(all))
	o.exec(`CREATE INDEX event_key ON ONLY outbox.event (topic, key, id)`)
	o.exec(`DO $$ BEGIN
	    EXECUTE format('CREATE INDEX %I ON outbox.%I (topic, key, id)',
	        'event_' || to_char(current_date, 'YYYYMMDD') || '_event_key', 'event_' || to_char(current_date, 'YYYYMMDD'));
	    END $$`)
	o.halfMadeIndex()
	add()
	require.Zero(t, o.count(without))
	require.Equal(t, had+1, o.count(all))

	var plan string
	rows, err := o.db.Query(t.Context(), `EXPLAIN SELECT FROM outbox.event e WHERE e.topic = 'orders' AND e.key = 'nobody' ORDER BY e.id DESC LIMIT 20`)
	require.NoError(t, err)
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		plan += line + "\n"
	}
	require.NoError(t, rows.Err())
	require.Contains(t, plan, "_event_key", "it serves to look for a key")
}

// halfMadeIndex leaves what an index is when it was interrupted while it waited for a
// producer.
func (o *outbox) halfMadeIndex() {
	producer, err := o.db.Begin(o.t.Context())
	require.NoError(o.t, err)
	defer producer.Rollback(o.t.Context())
	_, err = producer.Exec(o.t.Context(), `INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', '2020-01-01')`)
	require.NoError(o.t, err)
	conn, err := o.db.Acquire(o.t.Context())
	require.NoError(o.t, err)
	defer conn.Release()
	_, err = conn.Exec(o.t.Context(), `SET statement_timeout = '200ms'`)
	require.NoError(o.t, err)
	defer conn.Exec(o.t.Context(), `RESET statement_timeout`)
	_, err = conn.Exec(o.t.Context(), `CREATE INDEX CONCURRENTLY event_default_event_key ON outbox.event_default (topic, key, id)`)
	require.ErrorContains(o.t, err, "statement timeout")
	require.Equal(o.t, 1, o.count(`SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indexrelid = 'outbox.event_default_event_key'::regclass`))
}
