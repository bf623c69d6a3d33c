package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// times are the latencies of events whose payload has the time of their writing.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

var writtenAt = regexp.MustCompile(`sound-([0-9]{13})`)

// answered notes how long the events of a request have taken. Database and test have the same clock.
func (t *times) answered(body string) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range writtenAt.FindAllStringSubmatch(body, -1) {
		ms, _ := strconv.ParseInt(m[1], 10, 64)
		t.all = append(t.all, now.Sub(time.UnixMilli(ms)))
	}
}

// taken returns how many there are, their median and the 99th percentile, and forgets them.
func (t *times) taken() (n int, median, p99 time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.all
	t.all = nil
	slices.Sort(all)
	if len(all) == 0 {
		return 0, 0, 0
	}
	return len(all), all[len(all)/2], all[len(all)*99/100]
}

// retrying are the pending activities that publish events and wait for another attempt, or make one, by
// their workflow, with the summary of each.
func (o *outbox) retrying(c client.Client) (found map[string][]string) {
	o.t.Helper()
	found = make(map[string][]string)
	for _, r := range o.runs(o.t.Context(), c) {
		if r.status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			continue
		}
		d, err := c.DescribeWorkflowExecution(o.t.Context(), r.id, r.runID)
		require.NoError(o.t, err)
		summaries := make(map[string]string)
		for _, e := range history(o.t, c, r).GetEvents() {
			if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
				summaries[a.GetActivityId()] = string(e.GetUserMetadata().GetSummary().GetData())
			}
		}
		for _, a := range d.GetPendingActivities() {
			if a.GetLastFailure() == nil || a.GetActivityType().GetName() != "PublishBatch" {
				continue
			}
			summary := summaries[a.GetActivityId()]
			if strings.Contains(summary, "worker seat") {
				continue
			}
			topic, _, _ := strings.Cut(strings.Trim(summary, `"`), " ")
			found[topic] = append(found[topic], fmt.Sprintf("%s, attempt %d, last failure %q", summary, a.GetAttempt(), a.GetLastFailure().GetMessage()))
		}
	}
	return found
}

// One of 200 topics lost its queue, one is throttled, and the destination of one does not answer.
func TestShared_ThreeTopicsInTroubleCostTheOthersNothing(t *testing.T) {
	const topics = 200
	const measure = 10 * time.Second
	broken, throttles, hangs := newQueue(t, testenv.Name(t)+"-broken"), newQueue(t, testenv.Name(t)+"-throttled"), newQueue(t, testenv.Name(t)+"-hanging")
	config := "topics:\n  broken: {sqs: " + broken.name + "}\n  throttled: {sqs: " + throttles.name + "}\n  hanging: {sqs: " + hangs.name + "}\n"
	for i := range topics - 3 {
		config += fmt.Sprintf("  sound-%d: {sqs: %s}\n", i, newQueue(t, fmt.Sprintf("%s-%d", testenv.Name(t), i)).name)
	}
	o := newOutbox(t, config)
	c := testenv.Temporal(t)
	aws := newAWSProxy(t)
	o.work(shared, "AWS_ENDPOINT_URL="+aws.url)
	o.schedule()
	o.sharesBecome(20*time.Second, 16)

	var seen times
	aws.tell(seen.answered)
	second := 0
	flow := func(trouble bool, until func(since time.Duration) bool) {
		t.Helper()
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for began := time.Now(); !until(time.Since(began)); <-tick.C {
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
			        SELECT 'sound-' || ($1::int * 25 + i) % $2::int, 'key', 'Tested', 'sound-' || (extract(epoch FROM clock_timestamp()) * 1000)::bigint
			        FROM generate_series(1, 25) i`, second, topics-3)
			if second++; trouble {
				o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
				        SELECT t, 'key-' || i, 'Tested', 'trouble' FROM unnest('{broken,throttled,hanging}'::text[]) t, generate_series(1, 5) i`)
			}
		}
	}
	flow(true, func(since time.Duration) bool { return since >= measure }) // each topic has had an event
	o.drained(20 * time.Second)
	seen.taken()
	flow(true, func(since time.Duration) bool { return since >= measure })
	before, median, p99 := seen.taken()

	broken.remove()
	var refuses throttled
	aws.answer(throttles.name, refuses.ServeHTTP)
	var nobody swallowed
	aws.answer(hangs.name, nobody.ServeHTTP)
	inTrouble := func() string {
		if _, err := c.DescribeWorkflowExecution(t.Context(), o.recoveryID("broken"), ""); err != nil {
			return "broken: " + err.Error()
		}
		retrying := o.retrying(c)
		for _, topic := range []string{"throttled", "hanging"} {
			_, err := c.DescribeWorkflowExecution(t.Context(), o.recoveryID(topic), "")
			if len(retrying[topic]) == 0 && err != nil {
				return topic + " neither retries nor recovers"
			}
		}
		return ""
	}
	checked := time.Duration(0)
	missing := ""
	flow(true, func(since time.Duration) bool {
		if since-checked >= 2*time.Second {
			checked, missing = since, inTrouble()
		}
		return since >= measure && missing == "" || since >= 60*time.Second
	})
	during, medianDuring, p99During := seen.taken()
	t.Logf("events of the others before: %d, p50 %v, p99 %v; during: %d, p50 %v, p99 %v", before, median, p99, during, medianDuring, p99During)
	require.Empty(t, missing)

	pending := o.recovering(c, "broken")
	require.Contains(t, pending.GetLastFailure().GetMessage(), "NonExistentQueue")
	for topic, batches := range o.retrying(c) {
		t.Logf("%s: %s", topic, strings.Join(batches, "; "))
		require.Contains(t, []string{"throttled", "hanging"}, topic)
	}
	status := o.starter("status", "--problems")
	t.Log(status)
	require.Contains(t, status, "197 topics without a problem")
	require.Contains(t, status, "since ", "a recovery tells since when, and when it tries again")
	if len(o.retrying(c)) > 0 {
		require.Regexp(t, `retry: attempt \d+ .*last failure: (hanging|throttled) `, status)
	}
	require.Less(t, medianDuring, median*3/2+10*time.Millisecond)
	require.Less(t, p99During, 2*p99+100*time.Millisecond)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`))

	aws.answer(throttles.name, nil)
	aws.answer(hangs.name, nil)
	newQueue(t, broken.name)
	o.drained(120 * time.Second)
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`))
}
