package testenv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// write commits so many events and returns their event ids by id.
func write(t *testing.T, pool *pgxpool.Pool, n int) map[int64]string {
	t.Helper()
	written := map[int64]string{}
	testenv.Eventually(t, 10*time.Second, func() error { // connections that were cut are found out once each
		rows, err := pool.Query(t.Context(), `INSERT INTO outbox.event (event_id, topic, type, payload)
			SELECT gen_random_uuid(), 'orders', 'T', 'x' FROM generate_series(1, $1) RETURNING id, event_id::text`, n)
		if err != nil {
			return err
		}
		var id int64
		var event string
		_, err = pgx.ForEachRow(rows, []any{&id, &event}, func() error { written[id] = event; return nil })
		return err
	})
	return written
}

// has is the event id of an id, empty if there is no such event.
func has(t *testing.T, pool *pgxpool.Pool, id int64) (event string) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, func() error {
		err := pool.QueryRow(t.Context(), `SELECT coalesce(min(event_id::text), '') FROM outbox.event WHERE id = $1`, id).Scan(&event)
		return err
	})
	return event
}

func TestFailover_LosesWhatTheStandbyLackedAndGivesItsNumbersAgain(t *testing.T) {
	t.Parallel()
	db := testenv.Failover(t)
	pool := db.Pool()
	kept := write(t, pool, 10)
	for range 2 { // once more with a new standby
		db.Lag()
		lost := write(t, pool, 200)
		db.Promote()
		next := write(t, pool, 200)
		for id, event := range kept {
			require.Equal(t, event, has(t, pool, id))
		}
		again := 0
		for id, event := range lost {
			require.NotEqual(t, event, has(t, pool, id))
			if next[id] != "" {
				again++
			}
		}
		require.Positive(t, again, "the new primary gives no number again")
		kept = next
		db.AddStandby()
	}
	db.Lag()
	write(t, pool, 100)
	db.CatchUp()
	kept = write(t, pool, 1)
	db.CatchUp()
	db.Promote()
	for id, event := range kept {
		require.Equal(t, event, has(t, pool, id), "the standby had it")
	}
}

func TestRestore_BringsAnEarlierStateBack(t *testing.T) {
	t.Parallel()
	db := testenv.Failover(t)
	pool := db.Pool()
	kept := write(t, pool, 1)
	backup := db.Backup()
	lost := write(t, pool, 200)
	db.Restore(backup)
	next := write(t, pool, 200)
	for id, event := range kept {
		require.Equal(t, event, has(t, pool, id))
	}
	again := 0
	for id := range lost {
		if next[id] != "" {
			again++
		}
	}
	require.Positive(t, again)
	db.AddStandby()
	db.Promote()
	for id, event := range next {
		require.Equal(t, event, has(t, pool, id))
	}
}

func TestFollowStandby_LeadsToAReaderUntilItIsPromoted(t *testing.T) {
	t.Parallel()
	db := testenv.Failover(t)
	recovering := func() (yes bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, db.URL)
		require.NoError(t, err)
		defer conn.Close(ctx)
		require.NoError(t, conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&yes))
		return yes
	}
	require.False(t, recovering())
	db.Kill()
	_, err := pgx.Connect(t.Context(), db.URL)
	require.Error(t, err)
	db.FollowStandby()
	require.True(t, recovering())
	db.Promote()
	require.False(t, recovering())
}

// docs/reliability.md advises it: a commit that a standby does not have is neither
// acknowledged nor seen by others, so nobody can publish it.
func TestSynchronousReplication_LosesNoCommitThatAnybodySaw(t *testing.T) {
	t.Parallel()
	db := testenv.Failover(t)
	pool := db.Pool()
	super, err := pgx.Connect(t.Context(), db.Cluster.Super("outbox"))
	require.NoError(t, err)
	for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
		_, err := super.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		var state string
		err := super.QueryRow(t.Context(), `SELECT sync_state FROM pg_stat_replication`).Scan(&state)
		if err == nil && state != "sync" {
			err = errors.New("the standby is " + state)
		}
		return err
	})
	kept := write(t, pool, 1)
	db.Lag()
	written := make(chan error, 1)
	go func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'waits')`)
		written <- err
	}()
	testenv.Eventually(t, 10*time.Second, func() error {
		var waits bool
		err := super.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')`).Scan(&waits)
		if err == nil && !waits {
			err = errors.New("the commit does not wait for the standby")
		}
		return err
	})
	var seen bool
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM outbox.pending p JOIN outbox.event USING (id) WHERE payload = 'waits')`).Scan(&seen))
	require.False(t, seen, "the relay would publish it")
	db.Promote()
	require.Error(t, <-written, "it was acknowledged")
	for id, event := range kept {
		require.Equal(t, event, has(t, pool, id))
	}
}
