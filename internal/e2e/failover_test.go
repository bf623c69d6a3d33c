package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// replaceable is an outbox on a server that the test replaces.
func replaceable(t *testing.T, config string) (*outbox, *testenv.Replaceable) {
	t.Helper()
	testenv.Temporal(t)
	server := testenv.Failover(t)
	return newOutboxAt(t, server.URL, config), server
}

// publishedUnsettled has n events published and none of them settled: their rows are locked. The
// database is lost in that state.
func (o *outbox) publishedUnsettled(q queue, prefix string, n int) {
	o.t.Helper()
	conn, err := pgx.Connect(o.t.Context(), o.url)
	require.NoError(o.t, err)
	o.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(o.t.Context())
	require.NoError(o.t, err)
	o.write("orders", prefix, n, 50)
	_, err = tx.Exec(o.t.Context(), `SELECT FROM outbox.pending FOR UPDATE`)
	require.NoError(o.t, err)
	o.exec(`UPDATE outbox.topic SET paused_at = NULL, paused_by = NULL`)
	requireOnce(o.t, q.receive(n, 30*time.Second), prefix, n)
}

// The standby lacks events that are published and not settled yet. It gives their ids to
// other events, which must be published, too.
func TestFailover_LosesNoEventThatGetsAnIDAgain(t *testing.T) {
	t.Parallel()
	const n = 300
	q := newQueue(t, testenv.Name(t)+".fifo")
	o, server := replaceable(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	o.schedule()
	o.write("orders", "a", n, 50)
	requireOnce(t, q.receive(n, 30*time.Second), "a", n)
	o.drained(10 * time.Second)
	o.exec(`INSERT INTO outbox.topic (topic, paused_at, paused_by) VALUES ('orders', now(), 'test')`)
	o.drained(10 * time.Second)
	server.Lag()
	o.publishedUnsettled(q, "lost", n)
	last := o.count(`SELECT max(id) FROM outbox.event`)
	server.Promote()

	testenv.Eventually(t, 30*time.Second, func() error {
		_, err := o.db.Exec(t.Context(), `UPDATE outbox.topic SET paused_at = NULL, paused_by = NULL`)
		return err
	})
	o.write("orders", "b", n, 50)
	require.Less(t, o.count(`SELECT min(id) FROM outbox.event e WHERE payload LIKE 'b-%'`), last, "the ids come again")
	requireOnce(t, q.receive(n, 60*time.Second), "b", n)
	o.drained(30 * time.Second)
	if o.count(`SELECT count(*) FROM outbox.event WHERE payload LIKE 'lost-%'`) > 0 {
		t.Error(errors.New("the standby did not lag"))
	}
}

// The standby still has the hold of a recovery that has completed, and the leases of its lanes. No attempt
// will renew them, and none will end them.
func TestFailover_ThatLosesTheEndOfARecoveryDelaysItsTopicForSeconds(t *testing.T) {
	const n = 100
	q := newQueue(t, testenv.Name(t))
	o, server := replaceable(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.work()
	o.schedule()
	q.remove()
	o.write("orders", "e", n, 10)
	o.recovering(c, "orders")
	server.Lag()
	back := newQueue(t, q.name)
	o.ended(c, "orders")
	requireOnce(t, back.receive(n, 30*time.Second), "e", n)
	o.drained(10 * time.Second)
	standby, err := pgx.Connect(t.Context(), server.StandbyURL())
	require.NoError(t, err)
	var held bool
	require.NoError(t, standby.QueryRow(t.Context(), `SELECT recovery_paused_until > now() + interval '1 minute' FROM outbox.topic`).Scan(&held))
	require.True(t, held, "the standby has the hold")
	require.NoError(t, standby.Close(t.Context()))
	server.Promote()

	testenv.Eventually(t, 30*time.Second, func() error { return o.db.Ping(t.Context()) })
	o.write("orders", "b", n, 10)
	o.drained(25 * time.Second)
	got := bodies(back.receive(2*n, 30*time.Second)) // the settlements are lost, too
	for i := range n {
		require.Equal(t, 1, got[fmt.Sprintf("b-%d", i+1)])
	}
	require.Equal(t, 1, o.recoveries(c), "the destination is not broken any more")
}
