package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (o testOutbox) pendingBytes() int64 {
	o.t.Helper()
	return query[int64](o, `SELECT pg_total_relation_size('outbox.pending')`)
}

// backlog makes and settles many events, and vacuums their rows away.
func (o testOutbox) backlog() {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
	        SELECT 'orders', i % 16, i, now(), 100 FROM generate_series(1, 300000) i`)
	o.exec(`DELETE FROM outbox.pending`)
	o.exec(`VACUUM outbox.pending`)
}

func TestShrink_GivesBackTheSpaceOfABacklogOnceNothingIsPending(t *testing.T) {
	o := open(t)
	o.backlog()
	large := o.pendingBytes()
	require.Greater(t, large, int64(32<<20), "vacuum gives nothing back")
	o.write("orders", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := o.Shrink(ctx)
	require.Error(t, err, "an event is pending")
	require.Equal(t, int64(1), query[int64](o, `SELECT count(*) FROM outbox.pending`))

	o.exec(`DELETE FROM outbox.pending`)
	done, err := o.Shrink(t.Context())
	require.NoError(t, err)
	require.True(t, done)
	require.Less(t, o.pendingBytes(), large/100)
	o.write("orders", 2)
	require.Equal(t, int64(2), query[int64](o, `SELECT count(*) FROM outbox.pending`))
	o.exec(`DELETE FROM outbox.pending`)
	done, err = o.Shrink(t.Context())
	require.NoError(t, err)
	require.False(t, done, "it is small")
}

// A commit that waits for a synchronous standby would keep its lock, for which producers wait.
func TestShrink_WaitsForNoStandbyWithItsLock(t *testing.T) {
	o := open(t)
	o.backlog()
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	var done bool
	require.NoError(t, tx.QueryRow(t.Context(), shrinkSQL).Scan(&done))
	require.True(t, done)
	var setting string
	require.NoError(t, tx.QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&setting))
	require.Equal(t, "local", setting)
}

// The producer's event is not visible yet, and must not be lost.
func TestShrink_WaitsForNoTransactionAndLosesNoEventOfIt(t *testing.T) {
	o := open(t)
	o.backlog()
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', 'x')`)
	require.NoError(t, err)
	var shrunk *bool
	require.NoError(t, o.committed(t.Context(), false, shrinkSQL, nil, []any{&shrunk}))
	require.Nil(t, shrunk)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, o.committed(t.Context(), false, shrinkSQL, nil, []any{&shrunk}))
	require.Nil(t, shrunk, "the event is pending")
	require.Equal(t, int64(1), query[int64](o, `SELECT count(*) FROM outbox.pending`))
}

// With rows that a snapshot keeps, a look for an event reads all of them. It must not do so under the lock.
func TestShrink_TakesNoLockWhileASnapshotKeepsSettledRows(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.pending (topic, lane, id, created_at, bytes)
	        SELECT 'orders', i % 16, i, now(), 100 FROM generate_series(1, 500000) i`)
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.topic`) // begins the snapshot, and locks no table that matters
	require.NoError(t, err)
	o.exec(`DELETE FROM outbox.pending`)
	var shrunk *bool
	require.NoError(t, o.committed(t.Context(), false, shrinkSQL, nil, []any{&shrunk}))
	require.Nil(t, shrunk)
	require.NoError(t, tx.Rollback(t.Context()))
	o.exec(`VACUUM outbox.pending`)
	require.NoError(t, o.committed(t.Context(), false, shrinkSQL, nil, []any{&shrunk}))
	require.NotNil(t, shrunk)
	require.True(t, *shrunk)
}
