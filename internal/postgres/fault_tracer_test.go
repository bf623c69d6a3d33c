package postgres

import (
	"context"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFault_IsCalledForEveryFaultOfTheDatabase(t *testing.T) {
	o := open(t)
	var told []string
	base := o.pool.Config().ConnString()
	s, err := Open(t.Context(), Config{URL: base, Fault: func(operation string) { told = append(told, operation) }})
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Check(t.Context()))
	_, err = s.MakePartitions(t.Context(), 1, nil)
	require.NoError(t, err)
	require.Empty(t, told)

	stopped, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		defer stop()
		for running := 0; running == 0 && t.Context().Err() == nil; {
			_ = o.db.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(9.25)'`).Scan(&running)
		}
	}()
	_, err = s.pool.Exec(stopped, `SELECT pg_sleep(9.25)`)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, told, "who stops no longer waits for an answer")

	_, err = s.pool.Exec(t.Context(), `SELECT 1/0`)
	require.Error(t, err)
	require.Equal(t, []string{FaultStatement}, told)

	told = nil
	away, err := url.Parse(base)
	require.NoError(t, err)
	away.Host = "127.0.0.1:1"
	s, err = Open(t.Context(), Config{URL: away.String(), Fault: func(operation string) { told = append(told, operation) }})
	require.NoError(t, err)
	defer s.Close()
	require.Error(t, s.Reach(t.Context()))
	require.Contains(t, told, FaultConnect)
}

func TestFault_IsNotCalledForALockThatProducersHold(t *testing.T) {
	o := open(t)
	o.exec(`SELECT outbox.make_partition(` + expired + `)`)
	faults := 0
	s, err := Open(t.Context(), Config{URL: o.pool.Config().ConnString(), Fault: func(string) { faults++ }})
	require.NoError(t, err)
	defer s.Close()
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'x')`)
	require.NoError(t, err)
	tries := 0
	_, err = s.DropPartitions(t.Context(), 7, func() {
		if tries++; tries == 2 { // the first one found the lock taken
			require.NoError(t, tx.Commit(t.Context()))
		}
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, tries, 2)
	require.Zero(t, faults)
}
