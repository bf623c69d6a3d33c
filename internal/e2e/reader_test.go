package e2e

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// lead has new connections go to another server. Those there are stay where they are.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// onCluster is an outbox in a database that can be replaced.
func onCluster(t *testing.T, config string) (*outbox, *testenv.Replaceable) {
	t.Helper()
	o, db := newOutbox(t, config), testenv.Failover(t)
	var err error
	o.url = db.URL
	o.db, err = pgxpool.New(t.Context(), o.url)
	require.NoError(t, err)
	t.Cleanup(o.db.Close)
	o.env = append(o.env, "DATABASE_URL="+o.url)
	return o, db
}

// The name of a cluster's writer leads to a reader for some seconds after a failover.
func TestFailover_ConnectionsMadeToAReaderAreNotKept(t *testing.T) {
	q := newQueue(t, testenv.Name(t))
	o, db := onCluster(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	writer := hostOf(t, db.URL)
	p := newProxy(t, writer)
	w := o.work("DATABASE_URL=" + p.inFrontOf(t, db.URL))
	o.schedule()
	o.write("orders", "before", 1, 1)
	requireOnce(t, q.receive(1, 30*time.Second), "before", 1)

	p.lead(hostOf(t, db.StandbyURL()))
	p.reset()
	testenv.Eventually(t, 20*time.Second, func() error { return w.ready("standby") })
	out, status := o.check([]string{"DATABASE_URL=" + p.inFrontOf(t, db.URL)})
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*standby.*writer`, line(t, out, "session"))
	both := "postgres://outbox@" + hostOf(t, db.StandbyURL()) + "," + writer + "/outbox?sslmode=disable"
	out, status = o.check([]string{"DATABASE_URL=" + both})
	require.Zero(t, status, out)
	o.write("orders", "after", 1, 1)
	p.lead(writer)
	began := time.Now()
	requireOnce(t, q.receive(1, 30*time.Second), "after", 1)
	require.Less(t, time.Since(began), 15*time.Second)
	require.NoError(t, w.ready("ready"))

	db.FollowStandby() // all connections end, and for a while there is no writer
	testenv.Eventually(t, 20*time.Second, func() error { return w.ready("standby") })
	db.Promote()
	testenv.Eventually(t, 20*time.Second, func() error { return w.ready("ready\n") })
	o.db.Reset()
	o.write("orders", "promoted", 1, 1)
	requireOnce(t, q.receive(1, 30*time.Second), "promoted", 1)
}
