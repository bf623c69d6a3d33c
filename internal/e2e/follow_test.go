package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestOperation_TellsItsFollowerOnceThatNoWorkerPollsItsTaskQueue(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(20, 2)
	o.work() // of another task queue
	other := o.queue + "-other"
	line := newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	r := o.begin([]string{"TEMPORAL_ADDRESS=" + line.address}, discarding(0, "--yes", "--task-queue", other)...)
	r.says("no worker polls task queue " + other + ": the operation waits for one")
	line.set(refused)
	r.says("Temporal does not answer")
	line.set(whole)
	r.says("Temporal answers again") // and has been asked once more
	o.work("OUTBOX_TASK_QUEUE=" + other)
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, "done: 20 dead letters of orders")
	require.Equal(t, 1, strings.Count(end.err, "no worker polls"), end.err)
}

func TestOperation_IsFollowedToItsEndAndAnOutageOfTheDatabaseIsToldOnce(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(300, 10)
	o.work()
	line := newProxy(t, hostOf(t, o.url))
	r := o.begin([]string{"DATABASE_URL=" + line.inFrontOf(t, o.url)}, discarding(20, "--yes", "--json")...)
	r.says(" of 300\n")
	line.set(refused)
	r.says("the database does not answer; the operation continues")
	o.moves(40) // for so long it is away
	require.NotContains(t, r.err.String(), "answers again")
	line.set(whole)
	r.says("the database answers again")
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, `"done":300,"outcome":"done"`)
	require.Equal(t, 1, strings.Count(end.err, "does not answer"), end.err)
	require.NotContains(t, end.err, "no worker polls")
}

func TestOperation_IsFollowedToItsEndAndAnOutageOfTemporalIsToldOnce(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(600, 10)
	o.work()
	line := newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	r := o.begin([]string{"TEMPORAL_ADDRESS=" + line.address}, discarding(20, "--yes", "--json")...)
	r.says(" of 600\n")
	line.set(refused)
	r.says("Temporal does not answer; the operation continues")
	o.moves(200) // for so long it is away
	require.NotContains(t, r.err.String(), "answers again")
	line.set(whole)
	r.says("Temporal answers again")
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, `"done":600,"outcome":"done"`)
	require.Equal(t, 1, strings.Count(end.err, "does not answer"), end.err)
	require.NotContains(t, end.err, "no worker polls")
}

// moves waits until the operation that is under way has moved so many events more.
func (o *outbox) moves(more int) {
	o.t.Helper()
	const done = `SELECT coalesce(max(done), 0) FROM outbox.operation WHERE finished_at IS NULL`
	begin := o.count(done)
	testenv.Eventually(o.t, 30*time.Second, func() error {
		if now := o.count(done); now < begin+more {
			return fmt.Errorf("it has moved %d more", now-begin)
		}
		return nil
	})
}
