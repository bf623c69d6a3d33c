package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
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

func TestExpiredPartitionsAreDroppedUnlessAnEventOfThemIsPendingOrDead(t *testing.T) {
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

func TestOnlyWhatIsOlderThanItsTimeIsDropped(t *testing.T) {
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
func TestAPartitionIsNotDroppedUnderATransactionThatHasYetToCommit(t *testing.T) {
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
func TestAPartitionIsNotDroppedUnderAStepOfAnOperation(t *testing.T) {
	o := open(t)
	o.writeOn("orders", expired)
	o.exec(`DELETE FROM outbox.pending`)
	id, _, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Replay, Topic: "orders", By: "ada", Reason: "x"})
	require.NoError(t, err)
	step, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer step.Rollback(context.Background())
	_, err = step.Exec(t.Context(), goesOnSQL, id, 0, nil)
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
func TestProducersWriteOnWhileRetentionLooksForWhatIsNeeded(t *testing.T) {
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

func TestProducersAreNotStoppedByAPartitionThatCannotBeDropped(t *testing.T) {
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

func TestPartitionsAreMadeAheadAndTakeWhatTheDefaultOneCaught(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at)
	        SELECT 'orders', 'k' || n, 'T', 'x', (` + expired + `::timestamp + interval '12 hours') AT TIME ZONE 'UTC' FROM generate_series(1, 3) n`)
	o.exec(`DELETE FROM outbox.pending WHERE id = 1`)
	h, err := o.Health(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, h.Caught)
	require.Equal(t, 14, h.Ahead, "as the migration left it")

	done, err := o.MakePartitions(t.Context(), 16, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(expired), o.dayOf(`((now() AT TIME ZONE 'UTC')::date + 15)`), o.dayOf(`((now() AT TIME ZONE 'UTC')::date + 16)`)}, done.Made)
	require.EqualValues(t, 3, done.Moved)
	require.Equal(t, 2, query[int](o, `SELECT count(*) FROM outbox.pending`), "and is not published again")
	h, err = o.Health(t.Context())
	require.NoError(t, err)
	require.Zero(t, h.Caught)
	require.Equal(t, 16, h.Ahead)
	done, err = o.MakePartitions(t.Context(), 16, nil)
	require.NoError(t, err)
	require.Empty(t, done.Made, "again changes nothing")

	_, lease := o.claimOne()
	require.Len(t, o.load(lease), 2, "what was pending is still found")
}

// Nobody has made partitions for weeks, and producers write to the default one.
func TestProducersDoNotWaitForMuchToLeaveTheDefaultPartition(t *testing.T) {
	const much = 10_001
	const today, tomorrow = `((now() AT TIME ZONE 'UTC')::date)`, `((now() AT TIME ZONE 'UTC')::date + 1)`
	o := open(t)
	for n := range 15 {
		o.exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE 'DROP TABLE outbox.event_' || to_char(%s + %d, 'YYYYMMDD'); END $$`, today, n))
	}
	o.write("orders", much)
	producer, err := o.db.Begin(t.Context()) // it reads the default partition, and would be in the way of any move
	require.NoError(t, err)
	defer producer.Rollback(context.Background())
	_, err = producer.Exec(t.Context(), `SELECT FROM outbox.event_default LIMIT 1`)
	require.NoError(t, err)
	moving, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done, err := o.MakePartitions(moving, 0, nil)
	require.NoError(t, err)
	require.Equal(t, relay.Partitions{Later: []string{o.dayOf(today)}}, done)
	require.NoError(t, producer.Rollback(t.Context()))
	done, err = o.MakePartitions(t.Context(), 3, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(tomorrow)}, done.Made)
	require.Len(t, done.Later, 3)

	// Tomorrow, when that partition is the day's:
	o.exec(`UPDATE outbox.event_default SET created_at = created_at - interval '1 day'`)
	o.exec(`UPDATE outbox.pending SET created_at = created_at - interval '1 day'`)
	o.exec(`DO $$ DECLARE day date := ` + today + `; BEGIN
	    EXECUTE format('DROP TABLE outbox.%I', 'event_' || to_char(day + 1, 'YYYYMMDD'));
	    EXECUTE format('CREATE TABLE outbox.%I PARTITION OF outbox.event FOR VALUES FROM (%L) TO (%L)',
	                   'event_' || to_char(day, 'YYYYMMDD'), day || ' 00:00Z', day + 1 || ' 00:00Z'); END $$`)
	done, err = o.MakePartitions(t.Context(), 3, nil)
	require.NoError(t, err)
	require.Empty(t, done.Later)
	require.Len(t, done.Made, 4, "yesterday's, and three ahead")
	require.EqualValues(t, much, done.Moved)
	require.Equal(t, 0, query[int](o, `SELECT count(*) FROM outbox.event_default`))
	require.Equal(t, much, query[int](o, `SELECT count(*) FROM outbox.pending JOIN outbox.event USING (id, created_at)`), "each is found")
}

func TestAHeldSnapshotIsSeenWithWhoHoldsIt(t *testing.T) {
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
