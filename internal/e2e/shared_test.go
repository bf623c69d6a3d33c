package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// shared makes a worker hold lanes of all topics.
const shared = "OUTBOX_BATCHES=shared"

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
	const topics, n, keys = 20, 200, 10
	o, queues := sharedOutbox(t, topics)
	o.work(shared)
	o.schedule()
	t.Logf("shares after %v", o.sharesBecome(20*time.Second, 16))
	for range 4 {
		for i := range topics {
			o.write(fmt.Sprint("t", i), fmt.Sprintf("e%d", time.Now().UnixNano()), n/4, keys)
		}
	}
	o.drained(60 * time.Second)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.lane WHERE claim_id IS NOT NULL`), "nothing was claimed by topic")
	for i, q := range queues {
		require.Len(t, q.receive(n, 30*time.Second), n, i)
	}
	require.Contains(t, strings.ToLower(o.starter("status")), "t19")
}

func TestShared_WorkersShareEvenlyAndTakeOverFromTheDead(t *testing.T) {
	o, queues := sharedOutbox(t, 5)
	first := o.work(shared)
	o.schedule()
	o.sharesBecome(20*time.Second, 16)
	second := o.work(shared)
	t.Logf("even %v after a worker joined", o.sharesBecome(15*time.Second, 8, 8))
	third := o.work(shared)
	t.Logf("even %v after another one joined", o.sharesBecome(15*time.Second, 5, 5, 6))
	second.kill()
	t.Logf("taken over %v after a worker was killed", o.sharesBecome(15*time.Second, 8, 8))
	o.write("t3", "e", 100, 50)
	o.drained(20 * time.Second)
	began := time.Now()
	go third.stop()
	o.sharesBecome(20*time.Second, 16)
	t.Logf("handed over %v after a worker was told to stop", time.Since(began))
	o.write("t3", "f", 100, 50)
	o.drained(20 * time.Second)
	require.Len(t, queues[3].receive(200, 20*time.Second), 200)
	require.Nil(t, first.err)
}
