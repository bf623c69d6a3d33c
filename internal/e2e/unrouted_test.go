package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// steady writes events of a topic at a steady rate for some time, and returns how long the
// slowest of a hundred and the median took from before their commit to their reception.
func (o *outbox) steady(topic string, q queue, perSecond int, during time.Duration) (p99, median time.Duration) {
	o.t.Helper()
	n := int(during.Seconds()) * perSecond
	took := make([]time.Duration, 0, n)
	ctx, cancel := context.WithTimeout(o.t.Context(), during+60*time.Second)
	defer cancel()
	var consumer sync.WaitGroup
	consumer.Go(func() {
		for len(took) < n {
			out, err := q.sqs.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &q.url, MaxNumberOfMessages: 10, WaitTimeSeconds: 5})
			if err != nil {
				o.t.Errorf("%d of %d received: %v", len(took), n, err)
				return
			}
			now := time.Now()
			for _, m := range out.Messages {
				written, err := strconv.ParseInt(*m.Body, 10, 64)
				if err != nil {
					o.t.Errorf("payload: %v", err)
					return
				}
				took = append(took, now.Sub(time.Unix(0, written)))
			}
			q.delete(out.Messages)
		}
	})
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	for i := range n {
		<-ticker.C
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, 'T', $3)`, topic, "key-"+strconv.Itoa(i%50), strconv.FormatInt(time.Now().UnixNano(), 10))
	}
	consumer.Wait()
	require.Len(o.t, took, n)
	slices.Sort(took)
	return took[n*99/100], took[n/2]
}

// unroutedIn is what the histories of runs tell of topics without a route.
var unroutedIn = regexp.MustCompile(`"unrouted":\d+|no route: lost-\d+`)

// A service writes to topics that nobody has configured. They wait; a few of them have a
// recovery, which shows why; and a new version of the worker publishes what it has a route
// for, also beside workers of the version before.
func TestUnrouted_ThousandsOfTopicsHarmNoOtherAndGoOnWhenTheyAreRouted(t *testing.T) {
	const topics, rate = 2000, 20
	const during = 20 * time.Second
	q, late := newQueue(t, testenv.Name(t)), newQueue(t, testenv.Name(t)+"-late")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	w := o.work()
	o.schedule("--run-for", "20s", "--every", "5s")
	o.steady("orders", q, rate, 3*time.Second)
	alone, _ := o.steady("orders", q, rate, during)

	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT 'lost-' || to_char(i, 'FM0000'), 'k', 'T', 'e-' || i FROM generate_series(1, $1::int) i`, topics)
	first, median := o.steady("orders", q, rate, during)
	then, _ := o.steady("orders", q, rate, during)
	t.Logf("slowest of a hundred: %v alone, %v while %d topics without a route appear (median %v), %v beside them", alone, first, topics, median, then)
	require.Less(t, then, 2*alone+200*time.Millisecond)
	require.Less(t, first, 4*alone+500*time.Millisecond)
	o.drainedTopic("orders", 10*time.Second) // the last one may be received and not settled yet
	require.Equal(t, topics, o.pending(), "they wait")
	require.LessOrEqual(t, o.recoveries(c), 3)
	require.Positive(t, o.recoveries(c))

	// The table is readable, and says how many there are.
	testenv.Eventually(t, 120*time.Second, func() error {
		var told []string
		runs := o.runs(t.Context(), c)
		for _, r := range runs[:min(2, len(runs))] { // the newest
			text := historyText(t, c, r)
			told = append(told, fmt.Sprintf("%s, %s, %d lines of history", r.id, r.status, strings.Count(text, "\n")))
			told = append(told, unroutedIn.FindAllString(text, -1)...)
			if strings.Contains(text, "no route: lost-") && strings.Contains(text, `"unrouted":1997`) {
				return nil
			}
		}
		return fmt.Errorf("no run has been told of all, but of %q", told)
	})

	// One that waits and one in recovery are routed by the next version, beside this one.
	var inRecovery string
	require.NoError(t, o.db.QueryRow(t.Context(), `SELECT topic FROM outbox.topic WHERE recovery_paused_until > now() ORDER BY topic LIMIT 1`).Scan(&inRecovery))
	config := filepath.Join(t.TempDir(), "next.yaml")
	require.NoError(t, os.WriteFile(config, []byte(fmt.Sprintf("topics:\n  orders: {sqs: %s}\n  lost-1999: {sqs: %s}\n  %s: {sqs: %s}\n", q.name, late.name, inRecovery, late.name)), 0o600))
	began := time.Now()
	o.work("OUTBOX_CONFIG=" + config)
	o.drainedTopic("lost-1999", 60*time.Second)
	o.drainedTopic(inRecovery, 60*time.Second)
	t.Logf("both arrived %v after the new worker's start", time.Since(began).Round(time.Millisecond))
	require.Len(t, late.receive(2, 10*time.Second), 2)
	w.stop()
	require.LessOrEqual(t, o.recoveries(c), 5)
}
