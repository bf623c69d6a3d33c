package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestWhoFollowsAnOperationIsToldOnceThatNoWorkerPollsItsTaskQueue(t *testing.T) {
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(20, 2)
	o.work() // of another task queue
	other := o.queue + "-other"
	r := o.begin(nil, discarding(0, "--yes", "--task-queue", other)...)
	r.says("no worker polls task queue " + other + ": the operation waits for one")
	o.work("OUTBOX_TASK_QUEUE=" + other)
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, "done: 20 dead letters of orders")
	require.Equal(t, 1, strings.Count(end.err, "no worker polls"), end.err)
}

func TestWhoFollowsAnOperationIsToldOnceThatTheDatabaseIsAwayAndFollowsItToItsEnd(t *testing.T) {
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(300, 10)
	o.work()
	line := newProxy(t, hostOf(t, o.url))
	r := o.begin([]string{"DATABASE_URL=" + line.inFrontOf(t, o.url)}, discarding(20, "--yes", "--json")...)
	r.says(" of 300\n")
	line.set(refused)
	r.says("the database does not answer: the operation goes on by itself")
	require.NotContains(t, r.err.String(), "answers again")
	line.set(whole)
	r.says("the database answers again")
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, `"done":300,"outcome":"done"`)
	require.Equal(t, 1, strings.Count(end.err, "does not answer"), end.err)
	require.NotContains(t, end.err, "no worker polls")
}

func TestWhoFollowsAnOperationIsToldOnceThatTemporalIsAwayAndFollowsItToItsEnd(t *testing.T) {
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(600, 10)
	o.work()
	line := newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	r := o.begin([]string{"TEMPORAL_ADDRESS=" + line.address}, discarding(20, "--yes", "--json")...)
	r.says(" of 600\n")
	line.set(refused)
	r.says("Temporal does not answer: the operation goes on by itself")
	require.NotContains(t, r.err.String(), "answers again")
	line.set(whole)
	r.says("Temporal answers again")
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, `"done":600,"outcome":"done"`)
	require.Equal(t, 1, strings.Count(end.err, "does not answer"), end.err)
	require.NotContains(t, end.err, "no worker polls")
}
