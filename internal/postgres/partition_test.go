package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// day is a date so many days from the database's today, in SQL.
const (
	longPast = `((now() AT TIME ZONE 'UTC')::date - 20)`
	expired  = `((now() AT TIME ZONE 'UTC')::date - 8)`
	kept     = `((now() AT TIME ZONE 'UTC')::date - 7)`
)

// writeOn inserts an event as of noon of a day, into a partition of that day.
func (o testOutbox) writeOn(topic, day string) {
	o.t.Helper()
	o.exec(`SELECT outbox.make_partition(` + day + `)`)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at)
	        VALUES ($1, 'k', 'T', 'x', (`+day+`::timestamp + interval '12 hours') AT TIME ZONE 'UTC')`, topic)
}

func (o testOutbox) dayOf(sql string) string { return query[string](o, `SELECT `+sql+`::text`) }

func TestDropPartitions_KeepDaysWithAPendingOrDeadEvent(t *testing.T) {
	for name, c := range map[string]struct {
		state   string // what becomes of the event's row in pending
		dropped bool
	}{
		"published": {`DELETE FROM outbox.pending`, true},
		"pending":   {`SELECT 1`, false},
		"dead": {`WITH gone AS (DELETE FROM outbox.pending RETURNING *)
		          INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
		          SELECT topic, lane, id, created_at, bytes, 'X', 'x', 1, 'w' FROM gone`, false},
		"pending again as a replay": {`UPDATE outbox.pending SET replay = 7`, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.writeOn("orders", expired)
			o.exec(c.state)
			done, err := o.DropPartitions(t.Context(), 7, nil)
			require.NoError(t, err)
			day := []string{o.dayOf(expired)}
			if c.dropped {
				require.Equal(t, day, done.Dropped)
				require.Empty(t, done.Needed)
				require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.event`))
				return
			}
			require.Equal(t, day, done.Needed)
			require.Empty(t, done.Dropped)
			require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.event`))
		})
	}
}

func TestDropPartitions_DropOnlyDaysOlderThanTheirTime(t *testing.T) {
	o := open(t)
	for _, day := range []string{longPast, expired, kept} {
		o.writeOn("orders", day)
	}
	o.write("orders", 1)
	o.exec(`DELETE FROM outbox.pending`)
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(longPast), o.dayOf(expired)}, done.Dropped)
	require.Equal(t, 2, query[int](o, `SELECT count(*) FROM outbox.event`))
	done, err = o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Empty(t, done.Dropped, "again changes nothing")
	_, err = o.db.Exec(t.Context(), `SELECT outbox.drop_partition((now() AT TIME ZONE 'UTC')::date)`)
	require.ErrorContains(t, err, "is not over")
}

// dropsNothing checks that somebody is in the way of a drop, and not the other way round.
func (o testOutbox) dropsNothing() {
	o.t.Helper()
	tries := 0
	dropping, cancel := context.WithCancel(o.t.Context())
	_, err := o.DropPartitions(dropping, 7, func() {
		if tries++; tries == 3 {
			cancel()
		}
	})
	require.Error(o.t, err)
	require.Equal(o.t, 3, tries, "it gave way and tried again")
}

// An event that was written then and commits now is the reason why retention must
// not go by time alone.
func TestDropPartitions_DropNothingUnderATransactionThatHasYetToCommit(t *testing.T) {
	o := open(t)
	o.exec(`SELECT outbox.make_partition(` + expired + `)`)
	late, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer late.Rollback(context.Background())
	_, err = late.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload, created_at)
		VALUES ('orders', 'T', 'late', (`+expired+`::timestamp + interval '12 hours') AT TIME ZONE 'UTC')`)
	require.NoError(t, err)

	o.dropsNothing()
	require.NoError(t, late.Commit(t.Context()))
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(expired)}, done.Needed)
	require.Equal(t, "late", query[string](o, `SELECT payload FROM outbox.event`))
}

// A step of a replay makes events pending that were published.
func TestDropPartitions_DropNothingUnderAStepOfAnOperation(t *testing.T) {
	o := open(t)
	o.writeOn("orders", expired)
	o.exec(`DELETE FROM outbox.pending`)
	id, _, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Replay, Topic: "orders", By: "ada", Reason: "x"})
	require.NoError(t, err)
	step, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer step.Rollback(context.Background())
	_, err = step.Exec(t.Context(), goesOnSQL, id, "", 0, 0, milliseconds(timing.MoveStall))
	require.NoError(t, err)

	o.dropsNothing()
	_, err = step.Exec(t.Context(), `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes, replay)
		SELECT topic, lane, id, created_at, 1, $1 FROM outbox.event`, id)
	require.NoError(t, err)
	require.NoError(t, step.Commit(t.Context()))
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(expired)}, done.Needed)
}

// It looks through all that is pending, which may be much.
func TestRetention_LetsProducersWriteWhileItLooks(t *testing.T) {
	o := open(t)
	o.writeOn("orders", expired)
	look, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer look.Rollback(context.Background())
	var became string
	require.NoError(t, look.QueryRow(t.Context(), `SELECT outbox.drop_partition(`+expired+`)`).Scan(&became))
	require.Equal(t, "needed", became)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // every lock of the look is still held
	defer cancel()
	_, err = o.db.Exec(ctx, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
}

func TestDropPartition_StopsNoProducersIfItCannotBeDropped(t *testing.T) {
	o := open(t)
	o.exec(`SELECT outbox.make_partition(` + expired + `)`)
	open, err := o.db.Begin(t.Context()) // holds its locks all the time
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
	dropped := make(chan error, 1)
	tried := make(chan struct{}, 1000)
	go func() {
		_, err := o.DropPartitions(t.Context(), 7, func() { tried <- struct{}{} })
		dropped <- err
	}()
	<-tried
	for range 50 { // others come and go meanwhile
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := o.db.Exec(ctx, `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
		cancel()
		require.NoError(t, err)
	}
	select {
	case err := <-dropped:
		t.Fatal("dropped under an open producer", err)
	default:
	}
	require.NoError(t, open.Commit(t.Context()))
	require.NoError(t, <-dropped)
	require.False(t, query[bool](o, `SELECT to_regclass('outbox.event_' || to_char(`+expired+`, 'YYYYMMDD')) IS NOT NULL`))
}

func TestMakePartitions_AheadAndAgainChangesNothing(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at)
	        SELECT 'orders', 'k' || n, 'T', 'x', (` + expired + `::timestamp + interval '12 hours') AT TIME ZONE 'UTC' FROM generate_series(1, 3) n`)
	h, err := o.Health(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, h.Caught)
	require.Equal(t, 14, h.Ahead, "as the migration left it")

	done, err := o.MakePartitions(t.Context(), 16, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Made: []string{o.dayOf(`(` + today + ` + 15)`), o.dayOf(`(` + today + ` + 16)`)}}, done)
	h, err = o.Health(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, h.Caught, "events stay where they were written")
	require.Equal(t, 16, h.Ahead)
	done, err = o.MakePartitions(t.Context(), 16, nil)
	require.NoError(t, err)
	require.Empty(t, done.Made)

	_, lease := o.claimOne()
	require.Len(t, o.load(lease), 3)
}

// No partition was made for weeks, and producers write to the default one.
func TestMakePartitions_ProducersDoNotWaitForMuchInTheDefaultOne(t *testing.T) {
	const much = 10_001
	o := open(t)
	o.exhaust()
	o.write("orders", much)
	producer, err := o.db.Begin(t.Context()) // it reads the default partition, and would be in the way of any lock
	require.NoError(t, err)
	defer producer.Rollback(context.Background())
	_, err = producer.Exec(t.Context(), `SELECT FROM outbox.event_default LIMIT 1`)
	require.NoError(t, err)
	done, err := o.MakePartitions(t.Context(), 0, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Later: []string{o.dayOf(today)}}, done)
	require.NoError(t, producer.Rollback(t.Context()))
	done, err = o.MakePartitions(t.Context(), 3, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(tomorrow)}, done.Made)
	require.Len(t, done.Later, 3)

	// Tomorrow, when that partition is the day's, and producers write to it:
	o.exec(`UPDATE outbox.event_default SET created_at = created_at - interval '1 day'`)
	o.exec(`UPDATE outbox.pending SET created_at = created_at - interval '1 day'`)
	o.exec(`DO $$ DECLARE day date := ` + today + `; BEGIN
	    EXECUTE format('DROP TABLE outbox.%I', 'event_' || to_char(day + 1, 'YYYYMMDD'));
	    EXECUTE format('CREATE TABLE outbox.%I PARTITION OF outbox.event FOR VALUES FROM (%L) TO (%L)',
	                   'event_' || to_char(day, 'YYYYMMDD'), day || ' 00:00Z', day + 1 || ' 00:00Z'); END $$`)
	done, err = o.MakePartitions(t.Context(), 3, nil)
	require.NoError(t, err)
	require.Empty(t, done.Later)
	require.Len(t, done.Made, 3)
	require.Equal(t, much, query[int](o, `SELECT count(*) FROM outbox.event_default`))
	require.Equal(t, much, query[int](o, `SELECT count(*) FROM outbox.pending JOIN outbox.event USING (id, created_at)`), "each is found")
}

// catch writes published events as of noon of a day into the default partition.
func (o testOutbox) catch(topic, day string, n int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, type, payload, created_at)
	        SELECT $1, 'T', repeat('x', 1000), (`+day+`::timestamp + interval '12 hours') AT TIME ZONE 'UTC' FROM generate_series(1, $2::int)`, topic, n)
	o.exec(`DELETE FROM outbox.pending WHERE topic = $1`, topic)
}

func TestRetention_DeletesWhatTheDefaultPartitionHas(t *testing.T) {
	o := open(t)
	const all = 9_000 // more pages than are looked through at once
	o.catch("expired", longPast, all)
	o.catch("kept", kept, 3)
	for topic, state := range map[string]string{
		"pending": `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes) SELECT topic, lane, id, created_at, 1`,
		"replay":  `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes, replay) SELECT topic, lane, id, created_at, 1, 7`,
		"dead": `INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
		         SELECT topic, lane, id, created_at, 1, 'X', 'x', 1, 'w'`,
		// The id has come again: the event that is pending is another one.
		"again": `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes) SELECT topic, lane, id, created_at + interval '1 hour', 1`,
	} {
		o.catch(topic, expired, 1)
		o.exec(state+` FROM outbox.event WHERE topic = $1`, topic)
	}
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Deleted: all + 1, Needed: []string{o.dayOf(expired)}}, done)
	require.Equal(t, "dead,kept,pending,replay", query[string](o, `SELECT string_agg(DISTINCT topic, ',') FROM outbox.event`))
	done, err = o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Zero(t, done.Deleted, "again changes nothing")
	_, err = o.db.Exec(t.Context(), `SELECT outbox.delete_caught(`+tomorrow+`, 0)`)
	require.ErrorContains(t, err, "is not over")
}

func TestRetention_TheRelayRoleSuffices(t *testing.T) {
	o := open(t)
	o.catch("orders", expired, 2)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	done, err := limited.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Deleted: 2}, done)
	made, err := limited.MakePartitions(t.Context(), 15, nil)
	require.NoError(t, err)
	require.Len(t, made.Made, 1)
	enqueue, err := limited.Enqueue(t.Context())
	require.NoError(t, err)
	require.NoError(t, enqueue.Failure())
}

// A step of a replay makes events pending that were published.
func TestRetention_DeletesNothingUnderAStepOfAnOperation(t *testing.T) {
	o := open(t)
	o.catch("orders", expired, 1)
	id, _, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Replay, Topic: "orders", By: "ada", Reason: "x"})
	require.NoError(t, err)
	step, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer step.Rollback(context.Background())
	_, err = step.Exec(t.Context(), goesOnSQL, id, "", 0, 0, milliseconds(timing.MoveStall))
	require.NoError(t, err)
	o.dropsNothing()
	_, err = step.Exec(t.Context(), `INSERT INTO outbox.pending (topic, lane, id, created_at, bytes, replay)
		SELECT topic, lane, id, created_at, 1, $1 FROM outbox.event`, id)
	require.NoError(t, err)
	require.NoError(t, step.Commit(t.Context()))
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Needed: []string{o.dayOf(expired)}}, done)
}

// Rows from before the rules of today may be like that.
func TestRetention_IsNotStoppedByADateThatIsNone(t *testing.T) {
	o := open(t)
	testenv.Unchecked(t, o.db)
	for _, at := range []string{"-infinity", "infinity", "0044-03-15 BC", "12345-06-07", "294276-12-31"} {
		o.exec(`INSERT INTO outbox.event (topic, type, payload, created_at) VALUES ('orders', 'T', 'x', $1::text::timestamptz)`, at)
	}
	o.exec(`DELETE FROM outbox.pending`)
	o.writeOn("orders", expired)
	o.exec(`DELETE FROM outbox.pending`)
	made, err := o.MakePartitions(t.Context(), 15, nil)
	require.NoError(t, err)
	require.Len(t, made.Made, 1)
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Dropped: []string{o.dayOf(expired)}, Deleted: 2}, done)
	h, err := o.Health(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, h.Caught)
	for _, day := range []string{"-infinity", "infinity", "0044-03-15 BC", "12345-06-07", "294276-12-31"} {
		require.Nil(t, query[*bool](o, `SELECT outbox.make_partition($1::text::date)`, day), "a worker of an earlier version asks for it")
	}
}

func TestHealth_NamesTheHolderOfASnapshot(t *testing.T) {
	o := open(t)
	conn, err := o.db.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `SET application_name = 'the-report'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.pending`)
	require.NoError(t, err)
	defer conn.Exec(context.Background(), `ROLLBACK`)
	o.write("orders", 1)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	h, err := limited.Health(t.Context())
	require.NoError(t, err)
	require.Positive(t, h.HeldXIDs)
	require.Contains(t, h.HeldBy, "backend")
}
