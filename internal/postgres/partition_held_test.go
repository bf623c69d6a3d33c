package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// reads opens a transaction that has read a partition, and returns its session's id.
func (o testOutbox) reads(day string) (pid uint32) {
	o.t.Helper()
	conn := o.session()
	tx, err := conn.Begin(o.t.Context())
	require.NoError(o.t, err)
	o.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(o.t.Context(), `SELECT count(*) FROM `+o.partitionOf(day))
	require.NoError(o.t, err)
	return conn.PgConn().PID()
}

func (o testOutbox) partitionOf(day string) string {
	o.t.Helper()
	return query[string](o, `SELECT 'outbox.event_' || to_char(`+day+`, 'YYYYMMDD')`)
}

func TestDropPartition_StopsNoProducerForAReaderOfTheExpiredDay(t *testing.T) {
	o := open(t)
	o.exec(`SELECT outbox.make_partition(` + expired + `)`)
	pid := o.reads(expired)
	before, err := o.session().Begin(t.Context())
	require.NoError(t, err)
	defer before.Rollback(context.Background())
	_, err = before.Exec(t.Context(), insertSQL)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	refusals := make(chan error, 1000)
	go func() {
		defer close(refusals)
		for ctx.Err() == nil {
			refusals <- pgx.BeginFunc(context.Background(), o.db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(context.Background(), mayQueueSQL); err != nil {
					return err
				}
				_, err := tx.Exec(context.Background(), `SELECT outbox.drop_partition(`+expired+`)`)
				return err
			})
		}
	}()
	producer := o.impatient()
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		_, err := producer.Exec(t.Context(), insertSQL)
		require.NoError(t, err)
	}
	stop()
	for err := range refusals {
		require.ErrorContains(t, err, fmt.Sprintf("%s is in use by session %d", o.partitionOf(expired), pid))
	}
}

// One session may read all days, and a run of Maintenance has an end.
func TestDropPartitions_WaitForOneHeldDayOnly(t *testing.T) {
	o := open(t)
	o.cfg.DropPolitely, o.cfg.MakePatience = 500*time.Millisecond, 500*time.Millisecond
	for ago := 9; ago < 14; ago++ {
		day := fmt.Sprintf(`((now() AT TIME ZONE 'UTC')::date - %d)`, ago)
		o.exec(`SELECT outbox.make_partition(` + day + `)`)
		o.reads(day)
	}
	tries := 0
	done, err := o.DropPartitions(t.Context(), 7, func() { tries++ })
	require.NoError(t, err)
	require.Len(t, done.Left, 5)
	require.Less(t, tries, 2*int(time.Second/lockRetry)+5, "one day was tried for a second, and the others once")
}

func TestDropPartitions_DropTheOtherDaysThoughOneIsHeld(t *testing.T) {
	o := open(t)
	o.cfg.DropPolitely, o.cfg.MakePatience = 100*time.Millisecond, 100*time.Millisecond
	const older = `((now() AT TIME ZONE 'UTC')::date - 9)`
	for _, day := range []string{older, expired} {
		o.exec(`SELECT outbox.make_partition(` + day + `)`)
	}
	pid := o.reads(older)
	done, err := o.DropPartitions(t.Context(), 7, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(expired)}, done.Dropped)
	require.Len(t, done.Left, 1)
	require.Contains(t, done.Left[0], o.dayOf(older))
	require.Contains(t, done.Left[0], fmt.Sprint("session ", pid))
}

// A day whose partition was detached has none, although there is a table of its name.
func TestMakePartitions_SayThatADayWasDetachedAndHowToAttachIt(t *testing.T) {
	o := open(t)
	const today = `(now() AT TIME ZONE 'UTC')::date`
	o.write("orders", 1)
	o.exec(`ALTER TABLE outbox.event DETACH PARTITION ` + o.partitionOf(today))
	o.write("orders", 2)
	done, err := o.MakePartitions(t.Context(), 15, nil)
	require.NoError(t, err)
	require.Equal(t, []string{o.dayOf(today)}, done.Later)
	require.Equal(t, []string{o.dayOf(`(` + today + ` + 15)`)}, done.Made, "other days are made")
	require.Len(t, done.Left, 1)
	require.Contains(t, done.Left[0], o.partitionOf(today)+" was detached")
	_, remedy, found := strings.Cut(done.Left[0], "attach it again: ")
	require.True(t, found, done.Left[0])
	remedy, _, _ = strings.Cut(remedy, ";")

	// Nobody drops what an operator has put aside.
	o.exec(`ALTER TABLE outbox.event DETACH PARTITION ` + o.partitionOf(`(`+today+` + 1)`))
	h, err := o.Health(t.Context())
	require.NoError(t, err)
	require.Zero(t, h.Ahead)
	o.exec(`SELECT outbox.make_partition(` + expired + `)`)
	o.exec(`ALTER TABLE outbox.event DETACH PARTITION ` + o.partitionOf(expired))
	require.Equal(t, "absent", query[string](o, `SELECT outbox.drop_partition(`+expired+`)`))

	o.exec(remedy)
	require.Equal(t, 3, query[int](o, `SELECT count(*)::int FROM outbox.event`))
	done, err = o.MakePartitions(t.Context(), 0, nil)
	require.NoError(t, err)
	require.Empty(t, done)
}
