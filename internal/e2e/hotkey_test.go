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

// laneOf is the lane of a key of a topic.
func (o *outbox) laneOf(topic, key string) (lane int16) {
	o.t.Helper()
	tx, err := o.db.Begin(o.t.Context())
	require.NoError(o.t, err)
	defer func() { _ = tx.Rollback(o.t.Context()) }()
	require.NoError(o.t, tx.QueryRow(o.t.Context(), `
	    INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, 'Tested', 'e') RETURNING lane`, topic, key).Scan(&lane))
	return lane
}

// A FIFO destination that answers after 15 ms accepts 66 events of a key each second. Here a key has 150.
func TestHotKey_DelaysNeitherItsLaneNorTheOthers(t *testing.T) {
	w := newWire(t)
	w.delay = 15 * time.Millisecond
	o := w.outbox(1)
	beside, elsewhere := "", ""
	for i, hot := 0, o.laneOf("t0", "hot"); beside == "" || elsewhere == ""; i++ {
		if key := fmt.Sprint("key-", i); o.laneOf("t0", key) == hot {
			beside = key
		} else {
			elsewhere = key
		}
	}
	o.work(shared)
	o.schedule()
	o.sharesBecome(30*time.Second, 16)

	// Each tick writes three events of the hot key, and one of each other key.
	const ticks, every = 500, 20 * time.Millisecond
	written := make([]time.Time, ticks)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := range written {
		<-tick.C
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
		        SELECT 't0', 'hot', 'Tested', 'hot-' || 3 * $1::int + i FROM generate_series(1, 3) i
		        UNION ALL VALUES ('t0', $2, 'Tested', 'beside-' || $1::int + 1), ('t0', $3, 'Tested', 'elsewhere-' || $1::int + 1)`,
			n, beside, elsewhere)
		written[n] = time.Now()
	}
	w.eventually("t0", "beside", ticks, 5*time.Second)
	w.eventually("t0", "elsewhere", ticks, 5*time.Second)
	require.Positive(t, o.pending(), "the hot key has more events than its destination accepts")
	w.eventually("t0", "hot", 3*ticks, 60*time.Second)
	require.Zero(t, w.repeats("t0"))

	came := map[string]int{}
	took := map[string][]time.Duration{}
	for _, a := range w.of("t0") {
		prefix, _, _ := strings.Cut(a.body, "-")
		n, _ := numberIn(a.body, prefix)
		require.Equal(t, came[prefix]+1, n, "%s is out of order", a.body)
		came[prefix] = n
		if prefix != "hot" {
			took[prefix] = append(took[prefix], a.at.Sub(written[n-1]))
		}
	}
	for prefix, all := range took {
		slices.Sort(all)
		p99 := all[len(all)*99/100]
		t.Logf("%s: p50 %v, p99 %v, longest %v", prefix, all[len(all)/2], p99, all[len(all)-1])
		require.LessOrEqual(t, p99, 500*time.Millisecond, prefix)
	}
}

// A request with several events of a key keeps their order at the destination.
func TestHotKey_IsSentInFewRequestsIfItsTopicAllowsIt(t *testing.T) {
	const n = 600
	requests := func(keyRequests string) float64 {
		q := newQueue(t, fmt.Sprintf("%s-%s.fifo", testenv.Name(t), keyRequests))
		o := newOutbox(t, fmt.Sprintf("topics:\n  ledger: {sqs: %s, keyRequests: %s}\n", q.name, keyRequests))
		o.write("ledger", "e", n, 1)
		worker := o.work(shared)
		o.schedule()
		o.drained(60 * time.Second)
		inOrder(t, q, "e", n, 1, 30*time.Second)
		m, _ := worker.metrics()
		return m[`outbox_requests_total{outcome="answered",topic="ledger"}`]
	}
	require.EqualValues(t, n, requests("single"))
	require.Less(t, requests("batched"), float64(n)/5)
}
