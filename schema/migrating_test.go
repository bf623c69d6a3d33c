package schema_test

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// migrating is the SQL of docs/migrating.md, by the name in the comment above each
// block.
func migrating(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "migrating.md"))
	require.NoError(t, err)
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)<!-- sql: ([a-z ]+) -->\n *```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = m[2]
	}
	require.Len(t, blocks, strings.Count(string(text), "```sql"), "every block has a name")
	return blocks
}

// service is a database whose tables without a schema are in public, as a service's
// are. (The test databases' owner may be named outbox, which is a schema, too.)
func service(t *testing.T) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(testenv.DatabaseURL(t))
	require.NoError(t, err)
	q := u.Query()
	q.Set("search_path", "public")
	u.RawQuery = q.Encode()
	pool, err := pgxpool.New(t.Context(), u.String())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

const events = `SELECT string_agg(event_id || ' ' || topic || ' ' || key || ' ' || type || ' ' || payload || ' ' || attributes, E'\n' ORDER BY id) FROM outbox.event`

func TestMigrating_FromDebeziumForwardsEveryEventOnceAndInOrder(t *testing.T) {
	pool, sql := service(t), migrating(t)
	exec(t, pool, sql["debezium table"])
	exec(t, pool, `INSERT INTO outboxevent VALUES ('00000000-0000-0000-0000-000000000001', 'orders', '1', 'Placed', '{"n": 1}'), (gen_random_uuid(), 'orders', '1', '', '{}')`)
	rows, err := pool.Query(t.Context(), sql["debezium check"])
	require.NoError(t, err)
	refused, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (int, error) { return 1, nil })
	require.NoError(t, err)
	require.Len(t, refused, 1)

	requireWaitsForOpenWriters(t, `INSERT INTO outboxevent VALUES (gen_random_uuid(), 'orders', '1', 'Placed', '{}')`, sql["debezium table"], sql["debezium forward"])
	exec(t, pool, sql["debezium forward"])
	require.Zero(t, query[int](t, pool, `SELECT count(*) FROM outbox.event`), "what was before the trigger is Debezium's")
	producer := testenv.AsRole(t, pool, "outbox_producer")
	exec(t, pool, `GRANT INSERT, DELETE, SELECT ON outboxevent TO outbox_producer`)
	exec(t, producer, `INSERT INTO outboxevent VALUES ('00000000-0000-0000-0000-000000000002', 'orders', '1', 'Paid', '{"n": 2}'),
	                                                 ('00000000-0000-0000-0000-000000000003', 'orders', '1', 'Gone', NULL)`)
	exec(t, producer, `DELETE FROM outboxevent`) // as services do that want the table empty
	exec(t, producer, sql["debezium insert"])
	require.Equal(t, strings.Join([]string{
		`00000000-0000-0000-0000-000000000002 orders 1 Paid {"n": 2} {}`,
		`00000000-0000-0000-0000-000000000003 orders 1 Gone null {}`,
		`0198f2a1-7c3b-7def-8123-456789abcdef orders 4711 OrderPaid {"amount": "12.50"} {}`,
	}, "\n"), query[string](t, pool, events))
	require.Equal(t, 3, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
	exec(t, pool, sql["debezium drop"])
	require.Equal(t, 3, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
}

func TestMigrating_FromAPollerMovesNewEventsBeforeThoseWrittenLater(t *testing.T) {
	pool, sql := service(t), migrating(t)
	exec(t, pool, sql["poller table"])
	insert := `INSERT INTO outbox_message (topic, aggregate_id, event_type, body, headers, status) VALUES ('orders', '1', $1, '{}', $2, $3)`
	exec(t, pool, insert, "First", `{}`, "published")
	exec(t, pool, insert, "Second", `{"tenant": "a"}`, "new")
	exec(t, pool, insert, "Third", `{}`, "new")
	exec(t, pool, insert, "Fourth", `{"n": 1}`, "new")
	require.Equal(t, 4, query[int](t, pool, sql["poller check"]), "a header that is a number")
	exec(t, pool, `DELETE FROM outbox_message WHERE id = 4`)

	requireWaitsForOpenWriters(t, `INSERT INTO outbox_message (topic, event_type, body) VALUES ('orders', 'T', '{}')`, sql["poller table"], sql["poller move"])
	exec(t, pool, sql["poller move"])
	producer := testenv.AsRole(t, pool, "outbox_producer")
	exec(t, pool, `GRANT INSERT, SELECT ON outbox_message TO outbox_producer`)
	exec(t, producer, insert, "Fifth", `{}`, "new")
	require.Equal(t, "Second{\"tenant\": \"a\"} Third{} Fifth{}",
		query[string](t, pool, `SELECT string_agg(type || attributes, ' ' ORDER BY id) FROM outbox.event`))
	require.Equal(t, 3, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
	require.Equal(t, 3, query[int](t, pool, `SELECT count(DISTINCT e.event_id) FROM outbox.event e JOIN outbox_message m ON e.event_id = outbox_message_event_id(m.id)`))
	var left, moved, all int
	require.NoError(t, pool.QueryRow(t.Context(), sql["poller look"]).Scan(&left, &moved, &all))
	require.Equal(t, []int{0, 3, 3}, []int{left, moved, all}, "a poller that is started finds nothing")
	exec(t, pool, sql["poller drop"])
	require.Equal(t, 3, query[int](t, pool, `SELECT count(*) FROM outbox.pending`))
}

// requireWaitsForOpenWriters shows that what changes the way of events over gives up
// beside an open transaction that has written one, and leaves nothing behind.
func requireWaitsForOpenWriters(t *testing.T, write, table, change string) {
	t.Helper()
	pool := service(t)
	exec(t, pool, table)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), write)
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), change)
	require.ErrorContains(t, err, "55P03")
	_, err = conn.Exec(t.Context(), `ROLLBACK`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	_, err = conn.Exec(t.Context(), change)
	require.NoError(t, err)
}
