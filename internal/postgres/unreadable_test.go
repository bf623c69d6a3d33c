package postgres

import (
	"context"
	"fmt"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/schema"
)

// openASCII is an outbox in a database of encoding SQL_ASCII, which takes any bytes.
func openASCII(t *testing.T) testOutbox {
	t.Helper()
	home := testenv.Database(t)
	var name string
	require.NoError(t, home.QueryRow(t.Context(), `SELECT current_database() || '_ascii'`).Scan(&name))
	_, err := home.Exec(t.Context(), fmt.Sprintf(`CREATE DATABASE %s TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'`, name))
	require.NoError(t, err)
	t.Cleanup(func() {
		if _, err := home.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf(`DROP DATABASE %s WITH (FORCE)`, name)); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	u, err := url.Parse(home.Config().ConnString())
	require.NoError(t, err)
	u.Path = "/" + name
	conn, err := pgx.Connect(t.Context(), u.String())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = schema.Migrate(t.Context(), conn)
	require.NoError(t, err)
	return openBy(t, u.String(), u.String())
}

func TestClaim_OfATopicThatIsNotUTF8MakesDeadLettersAndStopsNoOther(t *testing.T) {
	o := openASCII(t)
	o.write("orders", 5)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT convert_from('\x6f72fc64657273'::bytea, 'SQL_ASCII'), 'k' || i, 'T', 'x' FROM generate_series(1, 20) i`)
	batches := o.claim()
	require.Equal(t, 5, events(batches))
	for _, b := range batches {
		require.Equal(t, "orders", b.Topic)
	}
	require.Equal(t, 5, o.pending())
	require.Equal(t, "InvalidCharacter 20 topic is not valid UTF-8 at byte 2", query[string](o,
		`SELECT code || ' ' || count(*) || ' ' || min(message) FROM outbox.dead_letter WHERE key <> '' GROUP BY code`))

	topics, err := o.Topics(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{`"or\xfcders"`, "orders"}, []string{topics[1].Topic, topics[0].Topic})
	require.EqualValues(t, 20, topics[1].Dead)
	counts, err := o.DeadCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, `"or\xfcders"`, counts[0].Topic)
}
