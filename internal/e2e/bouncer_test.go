package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// inOrder checks that what write wrote came once each, and each key's in order.
func inOrder(t *testing.T, q queue, prefix string, n, keys int, within time.Duration) {
	t.Helper()
	messages := q.receive(n, within)
	requireOnce(t, messages, prefix, n)
	last := make(map[int]int, keys)
	for _, m := range messages {
		i := numberOf(t, *m.Body, prefix)
		require.Less(t, last[i%keys], i, "key-%d", i%keys)
		last[i%keys] = i
	}
}

func numberOf(t *testing.T, body, prefix string) int {
	t.Helper()
	i, err := strconv.Atoi(strings.TrimPrefix(body, prefix+"-"))
	require.NoError(t, err)
	return i
}

func TestPgBouncer_InTransactionModeLetsAWorkerPublishOnceAndInOrder(t *testing.T) {
	t.Parallel()
	n, keys := many()/4, 200
	standard, fifo := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+standard.name+"}\n  ledger: {sqs: "+fifo.name+"}\n")
	bounced := "DATABASE_URL=" + testenv.PgBouncer(t, o.url, 4)
	o.work(bounced)
	o.work(bounced)
	o.schedule()
	o.write("orders", "o", n, keys)
	o.write("ledger", "l", n, keys)
	o.drained(60 * time.Second)
	requireOnce(t, standard.receive(n, 60*time.Second), "o", n)
	inOrder(t, fifo, "l", n, keys, 60*time.Second)

	o.env = append(o.env, bounced) // people run the starter beside it
	require.Contains(t, o.starter("status"), "ledger")
}
