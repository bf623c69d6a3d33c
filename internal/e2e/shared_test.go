package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

const (
	// shared makes a worker hold lanes of all topics, which is the default.
	shared = "OUTBOX_BATCHES=shared"
	// perTopic makes it publish batches of single topics.
	perTopic = "OUTBOX_BATCHES=topics"
)

// sharedOutbox routes topics t0, t1 and so on to FIFO queues of their own.
func sharedOutbox(t *testing.T, topics int) (*outbox, []queue) {
	queues := make([]queue, topics)
	config := "topics:\n"
	for i := range topics {
		queues[i] = newQueue(t, fmt.Sprintf("%s-%d.fifo", testenv.Name(t), i))
		config += fmt.Sprintf("  t%d: {sqs: %s}\n", i, queues[i].name)
	}
	return newOutbox(t, config), queues
}

// sharesOf returns how many shares each worker holds, ascending.
func (o *outbox) sharesOf() (held []int) {
	o.t.Helper()
	rows, err := o.db.Query(o.t.Context(), `
		SELECT count(s.lane)::int FROM outbox.worker w LEFT JOIN outbox.share s ON s.worker = w.id AND s.leased_until >= now()
		WHERE w.seen_at > now() - interval '3 seconds' GROUP BY w.id`)
	require.NoError(o.t, err)
	defer rows.Close()
	for rows.Next() {
		var n int
		require.NoError(o.t, rows.Scan(&n))
		held = append(held, n)
	}
	slices.Sort(held)
	return held
}

// sharesBecome waits until the workers hold so many shares each.
func (o *outbox) sharesBecome(within time.Duration, want ...int) (took time.Duration) {
	o.t.Helper()
	began := time.Now()
	testenv.Eventually(o.t, within, func() error {
		if held := o.sharesOf(); !slices.Equal(held, want) {
			return fmt.Errorf("the workers hold %v shares", held)
		}
		return nil
	})
	return time.Since(began)
}

func TestShared_ManyTopicsFlowInOrder(t *testing.T) {
	t.Parallel()
	const topics, n, keys = 20, 200, 10
	o, queues := sharedOutbox(t, topics)
	o.work(shared)
	o.schedule()
	t.Logf("shares after %v", o.sharesBecome(20*time.Second, 16))
	for i := range topics {
		o.write(fmt.Sprint("t", i), "e", n, keys)
	}
	o.drained(60 * time.Second)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.lane WHERE claim_id IS NOT NULL`), "nothing was claimed by topic")
	for _, q := range queues {
		inOrder(t, q, "e", n, keys, 30*time.Second)
	}
	require.Contains(t, strings.ToLower(o.starter("status")), "t19")
}

// even is how long after a worker has come or gone some may still hold more than one share more than others.
const even = 5 * time.Second

// slack is how much longer that may take on a machine that is busy.
const slack = 2 * time.Second

func TestShared_WorkersShareEvenlyAndTakeOverFromTheDead(t *testing.T) {
	o, queues := sharedOutbox(t, 5)
	first := o.work(shared)
	o.schedule()
	o.sharesBecome(20*time.Second, 16)
	second := o.work(shared)
	t.Logf("even %v after a worker joined", o.sharesBecome(even+slack, 8, 8))
	third := o.work(shared)
	t.Logf("even %v after another one joined", o.sharesBecome(even+slack, 5, 5, 6))
	second.kill()
	t.Logf("taken over %v after a worker was killed", o.sharesBecome(even+slack, 8, 8))
	o.write("t3", "e", 100, 50)
	o.drained(20 * time.Second)
	third.signal(syscall.SIGTERM)
	t.Logf("handed over %v after a worker was told to stop", o.sharesBecome(even, 16))
	<-third.done
	require.NoError(t, third.err, third.text())
	o.write("t3", "f", 100, 50)
	o.drained(20 * time.Second)
	require.Len(t, queues[3].receive(200, 20*time.Second), 200)
	require.Nil(t, first.err)
}

func TestShared_ATopicWithAProblemLeavesTheOthersAlone(t *testing.T) {
	const topics = 6
	o, queues := sharedOutbox(t, topics)
	c := testenv.Temporal(t)
	o.work(shared)
	o.schedule()
	o.sharesBecome(20*time.Second, 16)

	// A missing destination has its own batches and its own recovery.
	queues[0].remove()
	o.write("t0", "e", 50, 5)
	o.recovering(c, "t0")
	for i := 1; i < topics; i++ {
		o.write(fmt.Sprint("t", i), "e", 50, 5)
	}
	for i := 1; i < topics; i++ {
		o.drainedTopic(fmt.Sprint("t", i), 10*time.Second)
	}
	back := newQueue(t, queues[0].name)
	o.drainedTopic("t0", 90*time.Second)
	requireOnce(t, back.receive(50, 30*time.Second), "e", 50)

	// A pause.
	o.starter("pause", "t1", "--by", "ada", "--reason", "a test")
	<-time.After(time.Second) // the promise is that a pause takes effect within that time
	o.write("t1", "p", 20, 5)
	o.write("t2", "p", 20, 5)
	o.drainedTopic("t2", 10*time.Second)
	require.Equal(t, 20, o.count(`SELECT count(*) FROM outbox.pending WHERE topic = 't1'`))
	o.starter("resume", "t1", "--by", "ada", "--reason", "a test")
	o.drainedTopic("t1", 20*time.Second)

	// Dead letters and a redrive, and a replay.
	done := commandJSON[operated](o, "replay", "t3", "--all", "--by", "ada", "--reason", "a test", "--yes")
	require.EqualValues(t, 50, done.Done)
	o.drainedTopic("t3", 20*time.Second)
	queues[4].remove()
	o.write("t4", "d", 20, 5)
	o.recovering(c, "t4")
	parked := commandJSON[parkedJSON](o, "recover", "t4", "--park", "--yes", "--by", "ada", "--reason", "a test")
	require.Equal(t, 20, parked.Dead)
	again := newQueue(t, queues[4].name)
	done = commandJSON[operated](o, "dead", "redrive", "t4", "--all", "--by", "ada", "--reason", "a test", "--yes")
	require.EqualValues(t, 20, done.Done)
	o.drainedTopic("t4", 30*time.Second)
	requireOnce(t, again.receive(20, 30*time.Second), "d", 20)
	// All lanes come back.
	testenv.Eventually(t, 30*time.Second, func() error {
		if n := o.count(`SELECT count(*) FROM outbox.lane WHERE apart`); n > 0 {
			return fmt.Errorf("%d lanes are apart", n)
		}
		return nil
	})
}
