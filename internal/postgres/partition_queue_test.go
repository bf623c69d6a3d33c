package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// impatient is a producer that fails if it waits for a lock at all.
func (o testOutbox) impatient() *pgx.Conn {
	o.t.Helper()
	conn := o.session()
	_, err := conn.Exec(o.t.Context(), `SET lock_timeout = '1ms'`)
	require.NoError(o.t, err)
	return conn
}

// Maintenance makes a day that is far off every day. Producers do not notice.
func TestMakePartition_OfAFarDayLetsNoProducerWait(t *testing.T) {
	o := open(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	failed := make(chan error, 1) // one producer: several wait for each other when a table grows
	var producers sync.WaitGroup
	for range cap(failed) {
		conn := o.impatient()
		producers.Go(func() {
			for ctx.Err() == nil {
				err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), insertSQL)
					return err
				})
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	done, err := o.MakePartitions(t.Context(), 40, nil)
	require.NoError(t, err)
	require.Len(t, done.Made, 26)
	require.Empty(t, done.Later)
	stop()
	producers.Wait()
	require.Empty(t, failed)
}

// A lock that is waited for makes all producers wait behind it.
func TestPartitions_NoProducerQueuesBehindALockInTheWay(t *testing.T) {
	for name, c := range map[string]struct{ prepare, change string }{
		"making":   {``, `SELECT outbox.make_partition('2020-01-01')`},
		"dropping": {`SELECT outbox.make_partition(` + expired + `)`, `SELECT outbox.drop_partition(` + expired + `)`},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.exec(c.prepare)
			before, err := o.session().Begin(t.Context())
			require.NoError(t, err)
			defer before.Rollback(context.Background())
			_, err = before.Exec(t.Context(), `LOCK TABLE ONLY outbox.event IN ROW EXCLUSIVE MODE`)
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			refused := make(chan error, 1)
			var tried int
			go func() {
				defer close(refused)
				for ; ctx.Err() == nil; tried++ {
					_, err := o.db.Exec(t.Context(), c.change)
					var pg *pgconn.PgError
					if err == nil || !errors.As(err, &pg) || pg.Code != lockNotAvailable {
						refused <- fmt.Errorf("%s ended: %w", name, err)
						return
					}
				}
			}()
			producer := o.impatient()
			for until := time.Now().Add(time.Second); time.Now().Before(until); {
				_, err := producer.Exec(t.Context(), insertSQL)
				require.NoError(t, err)
			}
			stop()
			require.NoError(t, <-refused)
			require.Positive(t, tried)
		})
	}
}

// Where producers' transactions always overlap, no lock is free at the moment it is asked for.
func TestPartitions_AreMadeAndDroppedAmongProducersThatAlwaysOverlap(t *testing.T) {
	o := open(t)
	o.cfg.MakePatience, o.cfg.DropPolitely = 4*time.Second, 2*time.Second
	// A reader of one day keeps it, and no other day waits for that reader.
	const older = `((now() AT TIME ZONE 'UTC')::date - 9)`
	o.exec(`SELECT outbox.make_partition(` + older + `), outbox.make_partition(` + expired + `)`)
	o.reads(older)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	next := make(chan pgx.Tx)
	failed := make(chan error, 1)
	conns := []*pgx.Conn{o.session(), o.session(), o.session()}
	var producers sync.WaitGroup
	producers.Go(func() { // a transaction ends after the next has begun and inserted
		defer close(next)
		for n := 0; ctx.Err() == nil; n++ {
			tx, err := conns[n%len(conns)].Begin(t.Context())
			if err == nil {
				_, err = tx.Exec(t.Context(), insertSQL)
			}
			if err != nil {
				failed <- err
				return
			}
			next <- tx
		}
	})
	producers.Go(func() {
		var last pgx.Tx
		commit := func() {
			if last != nil {
				_ = last.Commit(t.Context())
				last = nil
			}
		}
		defer commit()
		for {
			select {
			case tx, more := <-next:
				commit()
				if !more {
					return
				}
				last = tx
			case <-time.After(20 * time.Millisecond): // the next one waits for a lock
				commit()
			}
		}
	})
	made, err := o.makePartition(t.Context(), "2020-01-01", &turns{}, nil)
	require.NoError(t, err)
	require.True(t, made != nil && *made)
	var done relay.Partitions
	for tries := 0; tries < 3 && !slices.Contains(done.Dropped, o.dayOf(expired)); tries++ { // a busy machine may need more than 50 ms
		done, err = o.DropPartitions(t.Context(), 7, nil)
		require.NoError(t, err)
	}
	require.Contains(t, done.Dropped, o.dayOf(expired))
	require.Len(t, done.Left, 1)
	stop()
	producers.Wait()
	require.Empty(t, failed)
}

// A long reader of the table, and a transaction that has inserted and stays open, outlast every
// wait of 50 ms, and all producers waited with it four times a second.
func TestPartitions_ThatCannotBeHadStopProducersAFewTimesOnly(t *testing.T) {
	const older = `((now() AT TIME ZONE 'UTC')::date - 9)`
	for name, c := range map[string]struct {
		hold   string
		change func(testOutbox) error
	}{
		"dropping": {`LOCK TABLE ONLY outbox.event IN ACCESS SHARE MODE`, func(o testOutbox) error {
			done, err := o.DropPartitions(t.Context(), 7, nil)
			require.Len(t, done.Left, 2)
			return err
		}},
		"making": {`LOCK TABLE ONLY outbox.event IN ROW EXCLUSIVE MODE`, func(o testOutbox) error {
			made, err := o.makePartition(t.Context(), "2020-01-01", &turns{}, nil)
			require.Nil(t, made)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.cfg.MakePatience, o.cfg.DropPolitely = 5*time.Second, 100*time.Millisecond
			if name == "making" {
				o.cfg.MakePatience *= 2
			}
			o.exec(`SELECT outbox.make_partition(` + older + `), outbox.make_partition(` + expired + `)`)
			holder, err := o.session().Begin(t.Context())
			require.NoError(t, err)
			defer holder.Rollback(context.Background())
			_, err = holder.Exec(t.Context(), c.hold)
			require.NoError(t, err)

			producer := o.impatient()
			ctx, stop := context.WithCancel(t.Context())
			stops := make(chan int, 1)
			go func() {
				defer close(stops)
				n, stopped := 0, false
				for ctx.Err() == nil {
					_, err := producer.Exec(t.Context(), insertSQL)
					if err != nil && !hasState(err, lockNotAvailable) {
						t.Error(err)
						return
					}
					if err != nil && !stopped {
						n++
					}
					stopped = err != nil
				}
				stops <- n
			}()
			require.NoError(t, c.change(o))
			stop()
			n := <-stops
			require.Positive(t, n, "it does wait, for producers that always overlap")
			require.LessOrEqual(t, n, 4)
		})
	}
}
