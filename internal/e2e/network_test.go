package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

// inFlight is the most that one topic has under way: a page for each of its four
// batches.
const inFlight = 4 * 500

// published counts what was sent to a queue, whatever of it was received twice.
func published(messages []types.Message) int {
	different := make(map[string]bool, len(messages))
	for _, m := range messages {
		different[*m.MessageId] = true
	}
	return len(different)
}

// unleased waits until no lane is anybody's.
func (o *outbox) unleased() {
	o.t.Helper()
	testenv.Eventually(o.t, 15*time.Second, func() error {
		if n := o.count(`SELECT count(*) FROM outbox.lane WHERE leased_until IS NOT NULL`); n > 0 {
			return fmt.Errorf("%d lanes are leased", n)
		}
		return nil
	})
}

// A silent database is worse than one that says no: nobody knows what it has done.
// Here it has done nothing.
// What was acknowledged meanwhile goes from attempt to attempt in heartbeats.
func TestOutage_OfADatabaseThatFallsSilentLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	n := many() / 2
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, hostOf(t, o.url))
	o.work("DATABASE_URL=" + line.inFrontOf(t, o.url))
	o.schedule()
	o.inFlow("orders", n)
	line.set(silent)
	// More than an attempt waits to settle, less than its lease.
	time.Sleep(8 * time.Second)
	require.Positive(t, o.pending(), "it was cut in full flow")
	line.reset() // what was under way never arrives
	line.set(whole)
	mended := time.Now()
	o.drained(60 * time.Second)
	t.Logf("drained %v after it was back", time.Since(mended).Round(time.Millisecond))
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	require.Equal(t, n, published(messages), "nothing came twice")
	o.unleased()
}

// A destination that is away is tried less and less often. The database is what all
// topics wait for.
func TestOutage_OfTheDatabaseHasEveryBatchTriedWithinSeconds(t *testing.T) {
	t.Parallel()
	n := many() / 2
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, hostOf(t, o.url))
	o.work(perTopic, "DATABASE_URL="+line.inFrontOf(t, o.url))
	o.schedule()
	o.inFlow("orders", n)
	line.set(refused)
	c := testenv.Temporal(t)
	testenv.Eventually(t, 60*time.Second, func() error {
		for _, r := range o.runs(t.Context(), c) {
			if !r.open() {
				continue
			}
			d, err := c.DescribeWorkflowExecution(t.Context(), r.id, r.runID)
			require.NoError(t, err)
			for _, a := range d.PendingActivities {
				// Doubled each time, the pause after the sixth attempt would be 16 s.
				if a.ActivityType.GetName() == "PublishBatch" && a.Attempt >= 7 {
					require.LessOrEqual(t, a.CurrentRetryInterval.AsDuration(), 5*time.Second)
					return nil
				}
			}
		}
		return errNotYet
	})
	line.set(whole)
	o.drained(60 * time.Second)
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	require.Equal(t, n, published(messages), "nothing came twice")
}

func TestOutage_LosingEveryDatabaseConnectionLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	n := many() / 2
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, hostOf(t, o.url))
	o.work("DATABASE_URL=" + line.inFrontOf(t, o.url))
	o.schedule()
	o.inFlow("orders", n)
	line.reset()
	require.Positive(t, o.pending(), "it was in full flow")
	o.drained(60 * time.Second)
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	require.Equal(t, n, published(messages), "nothing came twice")
	o.unleased()
}

// Without Temporal nobody decides what is published next: batches end what they
// have begun, and what comes then waits.
func TestOutage_OfTemporalPublishesNothingNewAndFlowResumesByItself(t *testing.T) {
	t.Parallel()
	n, late := many()/2, 1000
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	w := o.work(perTopic, "TEMPORAL_ADDRESS="+line.address)
	o.schedule()
	o.inFlow("orders", n)
	line.set(refused)
	cut := time.Now()
	o.unheld()
	o.write("orders", "late", late, 100)
	left := o.pending()
	time.Sleep(time.Until(cut.Add(13 * time.Second)))
	require.Equal(t, left, o.pending(), "something was published that no workflow knows of")
	line.set(whole)
	mended := time.Now()
	testenv.Eventually(t, 60*time.Second, func() error {
		if o.pending() == left {
			return errNotYet
		}
		return nil
	})
	t.Logf("%d were left, and flow again after %v", left, time.Since(mended).Round(time.Millisecond))
	o.drained(60 * time.Second)
	messages := q.receive(n+late, 60*time.Second)
	require.Len(t, bodies(messages), n+late, "nothing is lost")
	t.Logf("%d of %d came twice", published(messages)-n-late, n+late)
	require.LessOrEqual(t, published(messages)-n-late, inFlight)
	select {
	case <-w.done:
		t.Fatal("the worker did not survive")
	default:
	}
	o.unleased()
}

// unheld waits until nobody publishes, which is what a batch does for five seconds
// at most. A claim may be made all the same, and expires.
func (o *outbox) unheld() {
	o.t.Helper()
	testenv.Eventually(o.t, 10*time.Second, func() error {
		if n := o.count(`SELECT count(*) FROM outbox.lane WHERE holder IS NOT NULL`); n > 0 {
			return fmt.Errorf("%d lanes are held", n)
		}
		return nil
	})
}

// A worker that holds shares goes on without Temporal until its seat ends, and for timing.SeatGrace.
func TestOutage_OfTemporalEndsPublishingInSharesWithTheSeat(t *testing.T) {
	t.Parallel()
	const runFor, late = 5 * time.Second, 1000
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	w := o.work(shared, "TEMPORAL_ADDRESS="+line.address)
	o.schedule("--every", "2s", "--run-for", runFor.String())
	o.sharesBecome(20*time.Second, 16)
	line.set(refused)
	o.write("orders", "e", late, 100)
	o.drained(10 * time.Second)
	t.Logf("the shares are given back after %v", o.sharesBecome(runFor+timing.SeatGrace+15*time.Second, 0))
	o.write("orders", "late", late, 100)
	<-time.After(5 * time.Second) // the promise is that nothing is published
	require.Equal(t, late, o.pending(), "something was published that no workflow knows of")
	line.set(whole)
	mended := time.Now()
	o.drained(60 * time.Second)
	t.Logf("flow again after %v at most", time.Since(mended).Round(time.Millisecond))
	require.Len(t, q.receive(2*late, 60*time.Second), 2*late, "nothing is lost, and nothing came twice")
	select {
	case <-w.done:
		t.Fatal("the worker did not survive")
	default:
	}
}
