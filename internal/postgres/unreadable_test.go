package postgres

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
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

// oddTexts are texts that a database stores and cannot convert to UTF-8.
var oddTexts = map[string]string{"WIN1252": "a\x81", "WIN1253": "a\xaa", "EUC_JP": "a\xa9\xa1", "EUC_KR": "a\xc9\xa1"}

func TestLoad_OfAnEventThatCannotBeReadReadsAllOthers(t *testing.T) {
	for encoding, strange := range oddTexts {
		t.Run(encoding, func(t *testing.T) {
			o := encoded(t, encoding)
			testenv.Unchecked(t, o.db)
			o.writeKey("orders", "k", 3)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', $1)`, strange)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', $1, 'x')`, strange)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload, content_type) VALUES ('orders', 'k', 'T', 'x', $1)`, strange)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes) VALUES ('orders', 'k', 'T', 'x', jsonb_build_object('a', $1::text))`, strange)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', $1, 'T', 'x')`, strange)
			o.writeKey("orders", "k", 3)
			read, why := 0, map[string]string{}
			for _, b := range o.claim() {
				lease, err := o.TakeOver(t.Context(), b)
				require.NoError(t, err)
				page, err := o.Load(t.Context(), lease, nil, 100)
				require.NoError(t, err)
				var dead []relay.Outcome
				for _, e := range page.Events {
					if e.Unreadable == "" {
						require.NotEmpty(t, e.EventID)
						read++
						continue
					}
					column, text, _ := strings.Cut(e.Unreadable, " ")
					why[column] = e.Key
					require.Contains(t, text, `cannot be read as UTF-8: `)
					require.Contains(t, text, encoding)
					dead = append(dead, relay.Outcome{Ref: e.Ref, Err: &relay.PublishError{Code: relay.CodeInvalidCharacter, Message: e.Unreadable}})
				}
				require.NoError(t, o.DeadLetter(t.Context(), lease, "relay-1", dead))
				probed, err := o.Probe(t.Context(), lease, nil, relay.Probe{Events: 100, Ordered: true})
				require.NoError(t, err)
				for _, e := range probed.Events {
					require.Empty(t, e.Unreadable)
				}
			}
			require.Equal(t, 6, read)
			require.Equal(t, map[string]string{"payload": "k", "type": "k", "content_type": "k", "attributes": "k", "key": ""}, why, "the keys that can be read")

			letters, err := o.DeadLetters(t.Context(), "orders", relay.Selection{}, 10)
			require.NoError(t, err)
			require.Len(t, letters, 5)
			step, err := o.NextStep(t.Context(), o.begin(relay.Redrive, relay.Selection{}), relay.Cursor{}, 10)
			require.NoError(t, err)
			require.Len(t, step.Moves, 5)
			lives, err := o.ByKey(t.Context(), "orders", "k", 20, nil)
			require.NoError(t, err)
			require.Len(t, lives, 10)
		})
	}
}

func TestClaim_OfATopicThatCannotBeReadStopsNoOther(t *testing.T) {
	for encoding, strange := range map[string]string{"WIN1252": "or\x81ders", "EUC_JP": "or\xa9\xa1ders"} {
		t.Run(encoding, func(t *testing.T) {
			o := encoded(t, encoding)
			testenv.Unchecked(t, o.db)
			o.write("orders", 5)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT $1, 'k' || i, 'T', 'x' FROM generate_series(1, 20) i`, strange)
			require.NoError(t, o.Sweep(t.Context()))
			found := o.Warnings(t.Context())
			require.Len(t, found, 1)
			require.ErrorContains(t, found[0].Err, fmt.Sprintf("cannot be read as UTF-8 (%q)", strange))
			_, err := o.Status(t.Context())
			require.ErrorContains(t, err, "start a worker, which makes dead letters of its events")

			require.Equal(t, 5, events(o.claim()))
			require.Equal(t, 5, o.pending())
			topics, err := o.Topics(t.Context())
			require.NoError(t, err)
			require.Len(t, topics, 2)
			name := query[string](o, `SELECT encode(convert_to($1, getdatabaseencoding()), 'escape')`, strange)
			require.Equal(t, name, topics[0].Topic)
			require.EqualValues(t, 20, topics[0].Dead)
			status, err := o.Status(t.Context())
			require.NoError(t, err)
			require.Len(t, status, 2)
			letters, err := o.DeadLetters(t.Context(), name, relay.Selection{}, 100)
			require.NoError(t, err)
			require.Len(t, letters, 20)
			require.Equal(t, relay.CodeInvalidCharacter, letters[0].Code)
			require.Contains(t, letters[0].Message, fmt.Sprintf("topic, in bytes %x, cannot be read as UTF-8", strange))
			id, err := outbox.ParseID(letters[0].EventID)
			require.NoError(t, err)
			lives, err := o.ByEventID(t.Context(), id, nil)
			require.NoError(t, err)
			require.Equal(t, []string{name, "dead"}, []string{lives[0].Topic, lives[0].State})
			require.Empty(t, o.Warnings(t.Context()))
		})
	}
}

// A sample of the topics does not wait for a claim.
func TestTopics_OfWhichOneCannotBeReadShowsAll(t *testing.T) {
	o := encoded(t, "WIN1252")
	testenv.Unchecked(t, o.db)
	o.write("orders", 5)
	o.exec(`INSERT INTO outbox.event (topic, type, payload) VALUES ($1, 'T', 'x')`, "or\x81ders")
	require.NoError(t, o.Sweep(t.Context()))
	topics, err := o.Topics(t.Context())
	require.NoError(t, err)
	require.Len(t, topics, 2)
}

func TestClaim_DoesNotWaitForTheLanesOfATopicThatIsNotUTF8(t *testing.T) {
	o := encoded(t, "SQL_ASCII")
	o.exec(`INSERT INTO outbox.event (topic, type, payload) VALUES (E'M\xfcller', 'T', 'x'), ('orders', 'T', 'x')`)
	require.NoError(t, o.Sweep(t.Context()))
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.lane WHERE topic <> 'orders' FOR UPDATE`)
	require.NoError(t, err)
	require.Equal(t, 1, events(o.claim()))
	require.NoError(t, tx.Rollback(t.Context()))
	o.claim()
	require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.dead_letter`))
}

// A sequence that was set back gives ids again.
func TestClaim_OfATopicThatCannotBeReadLosesNoEventWhoseIDADeadLetterHas(t *testing.T) {
	for encoding, strange := range map[string]string{"WIN1252": "or\x81ders", "SQL_ASCII": "or\xfcders"} {
		t.Run(encoding, func(t *testing.T) {
			o := encoded(t, encoding)
			if encoding != "SQL_ASCII" {
				testenv.Unchecked(t, o.db)
			}
			insert := `INSERT INTO outbox.event (topic, key, type, payload) SELECT $1, 'k', 'T', 'x' FROM generate_series(1, $2::int) i`
			o.exec(insert, strange, 1)
			require.NoError(t, o.Sweep(t.Context()))
			o.claim()
			require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.dead_letter`))
			o.restart()
			o.exec(insert, strange, 3)
			for range 2 {
				require.NoError(t, o.Sweep(t.Context()))
				o.claim()
				require.Equal(t, 1, o.pending(), "the one whose id is taken")
				require.Equal(t, 3, query[int](o, `SELECT count(*) FROM outbox.dead_letter`))
			}
		})
	}
}
