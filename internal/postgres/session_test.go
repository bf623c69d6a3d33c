package postgres

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// inDatabase gives every new session of o's database a setting.
func (o testOutbox) inDatabase(setting, value string) {
	o.t.Helper()
	name := query[string](o, `SELECT current_database()`)
	o.exec(fmt.Sprintf(`ALTER DATABASE %s SET %s = '%s'`, pgx.Identifier{name}.Sanitize(), setting, value))
}

// another is a second store on the same database, by way of url's own settings.
func (o testOutbox) another(settings map[string]string) *Store {
	o.t.Helper()
	u, err := url.Parse(o.db.Config().ConnString())
	require.NoError(o.t, err)
	q := u.Query()
	for name, value := range settings {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	s, err := Open(o.t.Context(), Config{URL: u.String()})
	require.NoError(o.t, err)
	o.t.Cleanup(s.Close)
	return s
}

func TestSession_ThatMayNotWriteIsRefusedAndLeavesNoTrace(t *testing.T) {
	o := open(t)
	o.inDatabase("default_transaction_read_only", "on")
	s := o.another(nil)
	for _, look := range []func() error{
		func() error { return s.Reach(t.Context()) },
		func() error { return s.Check(t.Context()) },
		func() error { _, err := s.Claim(t.Context(), request("a")); return err },
	} {
		err := look()
		require.ErrorContains(t, err, "default_transaction_read_only")
		require.ErrorContains(t, err, "ALTER ROLE")
	}
	o.inDatabase("default_transaction_read_only", "off")
	require.NoError(t, s.Check(t.Context()))
	_, err := s.Claim(t.Context(), request("a"))
	require.NoError(t, err)
}

// A connection that was opened to a writer may lead to a reader later.
func TestSession_ThatCanNoLongerWriteIsReplacedWithTheOthers(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	const all = 4
	var held []*pgxpool.Conn
	for range all {
		c, err := o.pool.Acquire(t.Context())
		require.NoError(t, err)
		_, err = c.Exec(t.Context(), `SET default_transaction_read_only = on`)
		require.NoError(t, err)
		held = append(held, c)
	}
	for _, c := range held {
		c.Release()
	}
	_, err := o.Claim(t.Context(), request("a"))
	require.ErrorContains(t, err, "25006")
	waitFor(t, "a claim", func() bool {
		batches, err := o.Claim(t.Context(), request("a"))
		return err == nil && len(batches) == 1
	})

	c, err := o.pool.Acquire(t.Context())
	require.NoError(t, err)
	_, err = c.Exec(t.Context(), `SET default_transaction_read_only = on`)
	require.NoError(t, err)
	c.Release()
	o.pool.Reset() // so that the next look is at another session
	require.NoError(t, o.Reach(t.Context()))
}

func TestSession_OfAReaderIsFoundByALook(t *testing.T) {
	o := open(t)
	u := o.another(map[string]string{"pool_min_conns": "0"})
	u.pool.Config().MaxConns = 1
	c, err := u.pool.Acquire(t.Context())
	require.NoError(t, err)
	_, err = c.Exec(t.Context(), `SET default_transaction_read_only = on`)
	require.NoError(t, err)
	c.Release()
	require.ErrorContains(t, u.Reach(t.Context()), "read-only")
	require.NoError(t, u.Reach(t.Context()), "the look has replaced it")
}

func TestSession_SpeaksUTF8WhateverRoleAndURLSay(t *testing.T) {
	o := open(t)
	o.inDatabase("client_encoding", "LATIN1")
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes) VALUES ('orders', 'k€', 'T', '5 €', '{"price": "5 €"}')`)
	for name, settings := range map[string]map[string]string{
		"database": nil,
		"URL":      {"client_encoding": "LATIN1"},
		"case":     {"Client_Encoding": "LATIN1"},
		"options":  {"options": "-cclient_encoding=LATIN1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testOutbox{o.another(settings), t, o.db}
			o.expireLeases()
			_, lease := s.claimOne()
			page, err := s.Load(t.Context(), lease, nil, 10)
			require.NoError(t, err)
			require.Len(t, page.Events, 1)
			require.Equal(t, "k€ 5 € 5 €", page.Events[0].Key+" "+page.Events[0].Payload+" "+page.Events[0].Attributes["price"])
		})
	}
}

// encoded is a store on a database in another encoding, and a pool of producers that
// write bytes as they are.
func encoded(t *testing.T, encoding string) testOutbox {
	t.Helper()
	address := testenv.EncodedDatabaseURL(t, encoding)
	u, err := url.Parse(address)
	require.NoError(t, err)
	q := u.Query()
	q.Set("client_encoding", encoding)
	u.RawQuery = q.Encode()
	return openBy(t, address, u.String())
}

// A SQL_ASCII database keeps bytes without knowing what they mean. Whether they are
// UTF-8 is for the relay to see, so they must arrive as they are.
func TestSession_OfASQLASCIIDatabaseReadsBytesAsTheyAre(t *testing.T) {
	o := encoded(t, "SQL_ASCII")
	readsBytesAsTheyAre(t, o)
}

func TestSession_OfASQLASCIIDatabaseReadsBytesBehindPgBouncerToo(t *testing.T) {
	address := testenv.EncodedDatabaseURL(t, "SQL_ASCII")
	o := openBy(t, testenv.PgBouncer(t, address, bounced), address+"&client_encoding=SQL_ASCII")
	readsBytesAsTheyAre(t, o)
}

func readsBytesAsTheyAre(t *testing.T, o testOutbox) {
	t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes)
	        VALUES ('orders', 'k' || $1::text, 't' || $1::text, 'M' || $1::text || 'ller', 'c' || $1::text, jsonb_build_object('a', 'x' || $1::text || E'"', 'b', 'ü'))`, "\xfc")
	o.write("orders", 3)
	n := 0
	for _, b := range o.claim() {
		lease, err := o.TakeOver(t.Context(), b)
		require.NoError(t, err)
		page, err := o.Load(t.Context(), lease, nil, 10)
		require.NoError(t, err)
		for _, e := range page.Events {
			if n++; len(e.Attributes) > 0 {
				require.Equal(t, []string{"k\xfc", "t\xfc", "M\xfcller", "c\xfc"}, []string{e.Key, e.Type, e.Payload, e.ContentType})
				require.Equal(t, map[string]string{"a": "x\xfc\"", "b": "ü"}, e.Attributes)
			}
		}
		require.NoError(t, o.Settle(t.Context(), "orders", []relay.Ref{page.Events[0].Ref}))
	}
	require.Equal(t, 4, n)
}

func TestSession_OfALATIN1DatabaseReadsItsCharactersAsUTF8(t *testing.T) {
	o := encoded(t, "LATIN1")
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, attributes) VALUES ('orders', 'k' || $1::text, 'T', 'M' || $1::text || 'ller', jsonb_build_object('a', $1::text))`, "\xfc")
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	require.Equal(t, "kü Müller ü", page.Events[0].Key+" "+page.Events[0].Payload+" "+page.Events[0].Attributes["a"])
}

// A reason is the relay's or a destination's text, and may have characters that the
// database cannot hold. It must not keep its event from becoming a dead letter.
func TestDeadLetter_OfAnyTextIsKeptInADatabaseOfAnyEncoding(t *testing.T) {
	for _, encoding := range []string{"UTF8", "LATIN1", "SQL_ASCII", "EUC_JP"} {
		t.Run(encoding, func(t *testing.T) {
			o := encoded(t, encoding)
			o.write("orders", 2)
			batches := o.claim()
			for _, b := range batches {
				lease, err := o.TakeOver(t.Context(), b)
				require.NoError(t, err)
				refs := o.load(lease)
				odd := refusedAs("Refused", refs...)
				for i := range odd {
					odd[i].Err.Message = "5 € “quoted” \x00 \xfc"
				}
				_, err = o.Refuse(t.Context(), "orders", odd)
				require.NoError(t, err)
				require.NoError(t, o.DeadLetter(t.Context(), lease, "relay-“1”", odd))
			}
			require.Zero(t, o.pending())
			require.Equal(t, 2, query[int](o, `SELECT count(*) FROM outbox.dead_letter WHERE message LIKE '5 % %quoted% %'`))
		})
	}
}

func TestSession_TakesTheTimeZoneAndDateStyleItNeeds(t *testing.T) {
	o := open(t)
	o.inDatabase("DateStyle", "German, DMY")
	o.inDatabase("TimeZone", "Pacific/Kiritimati")
	s := o.another(nil)
	done, err := s.MakePartitions(t.Context(), 40, nil)
	require.NoError(t, err)
	require.NotEmpty(t, done.Made)
	_, err = time.Parse(time.DateOnly, done.Made[0])
	require.NoError(t, err)
}

func TestSession_OfAnotherIsolationIsRefusedWithItsRemedy(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		o := open(t)
		o.inDatabase("default_transaction_isolation", level)
		s := o.another(nil)
		err := s.Check(t.Context())
		require.ErrorIs(t, err, ErrSession)
		require.ErrorContains(t, err, level)
		require.Contains(t, err.Error(), `default_transaction_isolation is "`+level+`"`)
		require.NotContains(t, err.Error(), "cannot work in this session: default")
		require.ErrorContains(t, err, "starter migrate and the worker use different roles")
		require.ErrorContains(t, err, "ALTER ROLE outbox SET default_transaction_isolation = 'read committed'")
		_, err = Connect(t.Context(), o.db.Config().ConnString(), nil, func(string) {})
		require.ErrorContains(t, err, "default_transaction_isolation", "migrate")
		o.inDatabase("default_transaction_isolation", "read committed")
		require.NoError(t, s.Check(t.Context()))
	}
}

func TestSession_ATimeoutOfTheRoleIsNamedInTheErrorItCauses(t *testing.T) {
	o := open(t)
	o.inDatabase("statement_timeout", "200ms")
	o.inDatabase("lock_timeout", "100ms")
	o.inDatabase("idle_in_transaction_session_timeout", "300ms")
	s := o.another(nil)
	require.NoError(t, s.Check(t.Context()), "it can work")
	_, err := s.pool.Exec(t.Context(), `SELECT pg_sleep(5)`)
	require.ErrorContains(t, err, "statement_timeout is 200ms")
	require.ErrorContains(t, err, "ALTER ROLE outbox SET statement_timeout")

	conn, err := Connect(t.Context(), o.db.Config().ConnString(), nil, func(string) {})
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `SELECT pg_sleep(5)`)
	require.ErrorContains(t, err, "statement_timeout is 200ms", "migrate")

	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.pending`)
	require.NoError(t, err)
	require.ErrorContains(t, s.Settle(t.Context(), "orders", []relay.Ref{{ID: 1}}), "lock_timeout is 100ms")

	named := map[string]bool{}
	for _, w := range s.Warnings(t.Context()) {
		for _, name := range timeoutNames {
			named[name] = named[name] || w.Check == "session" && strings.Contains(w.Err.Error(), name+" is ") &&
				strings.Contains(w.Err.Error(), fmt.Sprintf("ALTER ROLE %s SET %s = 0", o.db.Config().ConnConfig.User, name))
		}
	}
	require.Equal(t, map[string]bool{"statement_timeout": true, "lock_timeout": true, "idle_in_transaction_session_timeout": true, "transaction_timeout": false}, named)
}

// What operators ask for may take minutes.
func TestSession_ATimeoutOfTheRoleEndsNoOperatorsCommand(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	o.exec(`DELETE FROM outbox.pending`) // published
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT 'orders', n FROM generate_series(0, 15) n`)
	o.inDatabase("statement_timeout", "250ms")
	s := testOutbox{o.another(nil), t, o.db}
	require.NoError(t, s.Check(t.Context()))
	under := s.begin(relay.Replay, relay.Selection{Key: "k1"})
	for name, ask := range map[string]func() error{
		"status": func() error { _, err := s.Status(t.Context()); return err },
		"dead list": func() error {
			_, err := s.DeadLetters(t.Context(), "orders", relay.Selection{Type: "T"}, 1)
			return err
		},
		"dead counts":  func() error { _, err := s.DeadCounts(t.Context()); return err },
		"replay count": func() error { _, _, err := s.CountPublished(t.Context(), "orders", relay.Selection{}, nil); return err },
		"where":        func() error { _, err := s.ByKey(t.Context(), "orders", "k1", 1, nil); return err },
		"replay": func() error {
			step, err := s.NextStep(t.Context(), under, relay.Cursor{}, 10)
			if err == nil {
				_, _, err = s.Move(t.Context(), under, step.Moves)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := o.db.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.event, outbox.dead_letter`)
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() { done <- ask() }()
			waitFor(t, "a statement that takes long", func() bool {
				select {
				case err := <-done:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
				return query[bool](o, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
				    AND wait_event_type = 'Lock' AND now() - query_start > interval '600 ms')`)
			})
			require.NoError(t, tx.Rollback(t.Context()))
			require.NoError(t, <-done)
		})
	}
}

// A URL with several hosts, or with an attribute of its own, leads to the writer all the same.
func TestSession_FindsTheWriterWhateverTheURLPrefers(t *testing.T) {
	o := open(t)
	for _, attribute := range []string{"any", "read-write", "primary", "prefer-standby"} {
		require.NoError(t, o.another(map[string]string{"target_session_attrs": attribute}).Check(t.Context()), attribute)
	}
	for _, attribute := range []string{"standby", "read-only"} {
		err := o.another(map[string]string{"target_session_attrs": attribute}).Check(t.Context())
		require.ErrorContains(t, err, "the relay needs target_session_attrs=read-write", attribute)
	}
}

func TestSession_OfAnEncodingThatHasNoUTF8IsRefusedByName(t *testing.T) {
	o := encoded(t, "MULE_INTERNAL")
	require.ErrorContains(t, o.Check(t.Context()), "MULE_INTERNAL")
}
