package postgres

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	today    = `((now() AT TIME ZONE 'UTC')::date)`
	tomorrow = `((now() AT TIME ZONE 'UTC')::date + 1)`
)

// exhaust drops every partition but the default one: nobody has made any for weeks.
func (o testOutbox) exhaust() {
	o.t.Helper()
	o.exec(`DO $$ DECLARE name text; BEGIN
	    FOR name IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
	                WHERE i.inhparent = 'outbox.event'::regclass AND c.relname <> 'event_default'
	    LOOP EXECUTE format('DROP TABLE outbox.%I', name); END LOOP; END $$`)
}

// session is a connection of its own, for a transaction that the test holds open.
func (o testOutbox) session() *pgx.Conn {
	o.t.Helper()
	conn, err := pgx.ConnectConfig(o.t.Context(), o.db.Config().ConnConfig)
	require.NoError(o.t, err)
	o.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// waits waits until so many sessions of the database wait for a lock on a table.
func (o testOutbox) waits(table string, sessions int) {
	o.t.Helper()
	waitFor(o.t, fmt.Sprintf("%d sessions that wait for %s", sessions, table), func() bool {
		return query[int](o, `SELECT count(*)::int FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, table) == sessions
	})
}

const insertSQL = `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', 'x')`

// A statement keeps the list of partitions with which it began. If the default partition
// may not have the statement's row any more, PostgreSQL refuses the row.
func TestMakePartition_NoWaitingInsertFails(t *testing.T) {
	for name, prepare := range map[string]string{
		"planned anew":     `SET plan_cache_mode = force_custom_plan`,
		"planned for good": `SET plan_cache_mode = force_generic_plan`,
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.exhaust()
			maker := o.session()
			producer := o.session()
			_, err := producer.Exec(t.Context(), prepare)
			require.NoError(t, err)
			_, err = producer.Prepare(t.Context(), "insert", insertSQL+` RETURNING 1`)
			require.NoError(t, err)
			making, err := maker.Begin(t.Context())
			require.NoError(t, err)
			defer making.Rollback(context.Background())
			var made *bool
			require.NoError(t, making.QueryRow(t.Context(), `SELECT outbox.make_partition(`+today+`)`).Scan(&made))
			require.True(t, made != nil && *made)
			inserted := make(chan error, 1)
			go func() {
				_, err := producer.Exec(t.Context(), "insert")
				inserted <- err
			}()
			waitFor(t, "a producer that waits", func() bool {
				return query[bool](o, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')`, producer.PgConn().PID())
			})
			require.NoError(t, making.Commit(t.Context()))
			require.NoError(t, <-inserted)
			require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.event`))
			require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.event_default`))
		})
	}
}

// copying is a COPY under way, which has its list of partitions and waits for rows.
func (o testOutbox) copying() (rows io.WriteCloser, done <-chan error) {
	o.t.Helper()
	conn := o.session().PgConn()
	from, to := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := conn.CopyFrom(o.t.Context(), from, `COPY outbox.event (topic, type, payload) FROM STDIN`)
		ended <- err
	}()
	waitFor(o.t, "a COPY that waits for rows", func() bool {
		return query[bool](o, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND wait_event = 'ClientRead' AND query LIKE 'COPY%')`, conn.PID())
	})
	return to, ended
}

func TestMakePartition_NoCopyUnderWayFails(t *testing.T) {
	o := open(t)
	o.exhaust()
	rows, done := o.copying()
	_, err := o.db.Exec(t.Context(), `SELECT outbox.make_partition(`+today+`)`)
	var pgErr *pgconn.PgError
	if err != nil {
		require.ErrorAs(t, err, &pgErr)
		require.Equal(t, lockNotAvailable, pgErr.Code, "the COPY is in the way")
	}
	_, err = io.WriteString(rows, "orders\tT\tcopied\n")
	require.NoError(t, err)
	require.NoError(t, rows.Close())
	require.NoError(t, <-done)
	require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.event_default`))
}

// A transaction that holds its lock on the table may go on with an old list of partitions.
func TestMakePartition_NoTransactionThatInsertsAgainFails(t *testing.T) {
	const day, at = `'2020-01-01'`, `'2020-01-01 12:00Z'`
	for _, plans := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(plans, func(t *testing.T) {
			o := open(t)
			conn := o.session()
			_, err := conn.Exec(t.Context(), `SET plan_cache_mode = `+plans+`;
				PREPARE again(timestamptz) AS INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', $1);
				BEGIN; EXECUTE again(now()); EXECUTE again(now())`)
			require.NoError(t, err)
			_, err = o.db.Exec(t.Context(), `SELECT outbox.make_partition(`+day+`)`)
			if err != nil {
				require.ErrorContains(t, err, lockNotAvailable, "the transaction is in the way")
			}
			_, err = conn.Exec(t.Context(), `EXECUTE again(`+at+`); COMMIT`)
			require.NoError(t, err)
			require.Equal(t, 3, query[int](o, `SELECT count(*) FROM outbox.event JOIN outbox.pending USING (id, created_at)`))
		})
	}
}

// An event is read where it was written for as long as it is there.
func TestMakePartition_LeavesADayInTheDefaultPartition(t *testing.T) {
	o := open(t)
	o.exhaust()
	o.write("orders", 3)
	before := query[string](o, `SELECT string_agg(tableoid::regclass || ' ' || ctid || ' ' || id, ', ' ORDER BY id) FROM outbox.event`)
	require.Nil(t, query[*bool](o, `SELECT outbox.make_partition(`+today+`)`))
	done, err := o.MakePartitions(t.Context(), 2, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{
		Made:  []string{o.dayOf(tomorrow), o.dayOf(`(` + tomorrow + ` + 1)`)},
		Later: []string{o.dayOf(today)},
	}, done)
	require.Equal(t, before, query[string](o, `SELECT string_agg(tableoid::regclass || ' ' || ctid || ' ' || id, ', ' ORDER BY id) FROM outbox.event`))
}

func TestMakePartition_AProducerInTheWayDelaysOneDay(t *testing.T) {
	o := open(t)
	o.exhaust()
	producer, err := o.session().Begin(t.Context())
	require.NoError(t, err)
	defer producer.Rollback(context.Background())
	_, err = producer.Exec(t.Context(), `LOCK TABLE ONLY outbox.event IN ROW EXCLUSIVE MODE`)
	require.NoError(t, err)
	o.cfg.MakePatience = 100 * time.Millisecond
	done, err := o.MakePartitions(t.Context(), 3, nil)
	require.NoError(t, err)
	require.Contains(t, done.Later, o.dayOf(today))
	require.Contains(t, done.Made, o.dayOf(`(`+today+` + 3)`), "a day that is far off is made meanwhile")
}

// superuser is a connection that may create event triggers.
func (o testOutbox) superuser() *pgx.Conn {
	o.t.Helper()
	if query[bool](o, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`) {
		return o.session()
	}
	config := o.db.Config().ConnConfig.Copy()
	config.User, config.Password = "postgres", "" // that of the local stack needs no password
	conn, err := pgx.ConnectConfig(o.t.Context(), config)
	require.NoError(o.t, err)
	o.t.Cleanup(func() { // the database's owner cannot end a superuser's session
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn.Close(ctx)
		for there := true; there; {
			const sql = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`
			require.NoError(o.t, o.db.QueryRow(ctx, sql, conn.PgConn().PID()).Scan(&there))
		}
	})
	return conn
}

// A day that is far off is attached while transactions are open. A producer may write to
// that very day, because it sets created_at itself.
func TestMakePartition_GivesWayToAnInsertOfAFarDay(t *testing.T) {
	const day = `'2031-01-01'`
	o := open(t)
	_, err := o.superuser().Exec(t.Context(), `
		CREATE FUNCTION public.pause() RETURNS event_trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
			PERFORM pg_advisory_xact_lock(42) FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'outbox.event'; -- not that of a partition
		END $$;
		CREATE EVENT TRIGGER pause ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.pause()`)
	require.NoError(t, err)
	writer, err := o.session().Begin(t.Context())
	require.NoError(t, err)
	defer writer.Rollback(context.Background())
	_, err = writer.Exec(t.Context(), insertSQL)
	require.NoError(t, err)
	pause, err := o.session().Begin(t.Context())
	require.NoError(t, err)
	defer pause.Rollback(context.Background())
	_, err = pause.Exec(t.Context(), `SELECT pg_advisory_xact_lock(42)`)
	require.NoError(t, err)

	made, inserted := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := o.db.Exec(t.Context(), `SELECT outbox.make_partition(`+day+`)`)
		made <- err
	}()
	waitFor(t, "a partition that is attached and not committed", func() bool {
		return query[bool](o, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
	})
	go func() {
		_, err := o.db.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', `+day+`)`)
		inserted <- err
	}()
	o.waits("outbox.event_default", 1)
	require.NoError(t, pause.Rollback(t.Context()))
	require.NoError(t, <-inserted)
	require.ErrorContains(t, <-made, lockNotAvailable)
	require.Nil(t, query[*bool](o, `SELECT outbox.make_partition(`+day+`)`), "the day stays in the default partition")
}

// Many producers of every kind write while the partitions of all days are made.
func TestMakePartition_NoProducerFailsInFullFlow(t *testing.T) {
	o := open(t)
	o.exhaust()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failed := make(chan error, 8)
	wrote := make([]int, 6)
	for i := range wrote {
		conn := o.session()
		go func() {
			failed <- func() error {
				if i%2 == 1 {
					if _, err := conn.Exec(t.Context(), `SET plan_cache_mode = force_generic_plan`); err != nil {
						return err
					}
				}
				for ctx.Err() == nil {
					err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
						for range 1 + i { // inserts before and after a partition is attached
							if _, err := tx.Exec(t.Context(), insertSQL); err != nil {
								return err
							}
							wrote[i]++
						}
						return nil
					})
					if err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for round := range 3 {
		done, err := o.MakePartitions(t.Context(), 5+round, nil)
		require.NoError(t, err)
		require.NotContains(t, done.Later, o.dayOf(tomorrow))
	}
	stop()
	all := 0
	for range wrote {
		require.NoError(t, <-failed)
	}
	for _, n := range wrote {
		all += n
	}
	require.Equal(t, all, query[int](o, `SELECT count(*) FROM outbox.event`))
	require.Equal(t, all, query[int](o, `SELECT count(*) FROM outbox.pending JOIN outbox.event USING (id, created_at)`))
}

// moving runs a call that waits for the default partition, and moves all its rows to a new partition meanwhile. A
// statement that was planned before and then waited looks for them where they are not any more. (Earlier versions
// moved rows; an operator still may.)
func (o testOutbox) moving(call func() error) error {
	o.t.Helper()
	mover, err := o.session().Begin(o.t.Context())
	require.NoError(o.t, err)
	defer mover.Rollback(context.Background())
	_, err = mover.Exec(o.t.Context(), `LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE`)
	require.NoError(o.t, err)
	called := make(chan error, 1)
	go func() { called <- call() }()
	o.waits("outbox.event_default", 1)
	_, err = mover.Exec(o.t.Context(), `DO $$ DECLARE day date := `+today+`;
	    columns text := 'id, event_id, topic, key, type, payload, content_type, attributes, created_at'; BEGIN
	    EXECUTE 'CREATE TABLE outbox.moved (LIKE outbox.event INCLUDING ALL EXCLUDING IDENTITY)';
	    EXECUTE format('INSERT INTO outbox.moved (%s) SELECT %s FROM outbox.event_default', columns, columns);
	    DELETE FROM outbox.event_default;
	    EXECUTE format('ALTER TABLE outbox.event ATTACH PARTITION outbox.moved FOR VALUES FROM (%L) TO (%L)',
	                   day || ' 00:00Z', day + 1 || ' 00:00Z'); END $$`)
	require.NoError(o.t, err)
	require.NoError(o.t, mover.Commit(o.t.Context()))
	return <-called
}

func TestLoad_FindsAnEventThatMovesWhileItWaits(t *testing.T) {
	o := open(t)
	o.exhaust()
	o.write("orders", 20)
	_, lease := o.claimOne()
	var page relay.Page
	require.NoError(t, o.moving(func() (err error) {
		page, err = o.Load(t.Context(), lease, nil, relay.PageEvents)
		return err
	}))
	require.Len(t, page.Events, 20)
	for _, e := range page.Events {
		require.NotEmpty(t, e.EventID, "event %d was taken for one that is gone", e.ID)
		require.Equal(t, fmt.Sprintf("payload %d", e.ID), e.Payload)
	}
}

func TestDeadLetter_HasTheKeyOfAnEventThatMovesWhileItWaits(t *testing.T) {
	o := open(t)
	o.exhaust()
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	refs := o.load(lease)
	require.NoError(t, o.moving(func() error {
		return o.DeadLetter(t.Context(), lease, "relay-1", refusedAs("Poison", refs[0]))
	}))
	require.Equal(t, "k", query[string](o, `SELECT key FROM outbox.dead_letter`))
	require.Equal(t, 2, o.pending())
}

func TestKeys_FindsThatOfAnEventThatMovesWhileItWaits(t *testing.T) {
	o := open(t)
	o.exhaust()
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	events := o.pages(10, relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}).Events
	var keys []string
	require.NoError(t, o.moving(func() (err error) {
		keys, err = o.Keys(t.Context(), events)
		return err
	}))
	require.Equal(t, []string{"k", "k", "k"}, keys)
}

// The snapshot of such a transaction was taken before its locks, and hides what committed since.
func TestPartitions_NothingRunsUnderAnotherIsolation(t *testing.T) {
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			o := open(t)
			o.exec(`SELECT outbox.make_partition(` + expired + `)`)
			conn := o.session()
			tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
			require.NoError(t, err)
			defer tx.Rollback(context.Background())
			_, err = tx.Exec(t.Context(), `SELECT FROM outbox.pending`)
			require.NoError(t, err)
			o.writeOn("orders", expired)
			for _, call := range []string{
				`SELECT outbox.drop_partition(` + expired + `)`,
				`SELECT outbox.make_partition(` + longPast + `)`,
				`SELECT outbox.delete_caught(` + expired + `, 0)`,
			} {
				_, err = tx.Exec(t.Context(), `SAVEPOINT before`)
				require.NoError(t, err)
				_, err = tx.Exec(t.Context(), call)
				var pgErr *pgconn.PgError
				require.ErrorAs(t, err, &pgErr, call)
				require.Contains(t, pgErr.Message, "READ COMMITTED")
				require.Contains(t, pgErr.Hint, "default_transaction_isolation")
				_, err = tx.Exec(t.Context(), `ROLLBACK TO before`)
				require.NoError(t, err)
			}
			require.NoError(t, tx.Commit(t.Context()))
			require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.event JOIN outbox.pending USING (id, created_at)`))
		})
	}
}
