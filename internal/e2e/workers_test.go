package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// many is how many events a test of full flow takes: fewer against LocalStack,
// which accepts a fifth of what the other emulator does.
func many() int {
	if os.Getenv("INTEROP") != "" {
		return 4000
	}
	return 20_000
}

// inFlow makes a backlog and waits until the given workers have published some
// of it.
func (o *outbox) inFlow(topic string, n int) {
	o.t.Helper()
	o.write(topic, "e", n, 500)
	testenv.Eventually(o.t, 30*time.Second, func() error {
		if left := o.pending(); left > n*9/10 {
			return errNotYet
		}
		return nil
	})
	require.Positive(o.t, o.pending(), "it is still in full flow")
}

func TestWorker_TwoShareAnOutboxAndPublishNothingTwice(t *testing.T) {
	t.Parallel()
	const n = 5000
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	o.work()
	o.schedule("--concurrency", "2")
	o.write("orders", "e", n, 500)
	o.drained(60 * time.Second)
	requireOnce(t, q.receive(n, 60*time.Second), "e", n)
}

func TestWorker_StoppedInFullFlowLosesAndRepeatsNothingAndLeavesNoLease(t *testing.T) {
	t.Parallel()
	n := many()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work()
	o.schedule()
	o.inFlow("orders", n)
	began := time.Now()
	w.stop()
	t.Logf("stopped in %v", time.Since(began))
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.lane WHERE leased_until IS NOT NULL`), "leased")
	require.Positive(t, o.pending(), "it was stopped in full flow")
	o.work()
	o.drained(60 * time.Second)
	requireOnce(t, q.receive(n, 60*time.Second), "e", n)
}

func TestWorker_GoesOnWhenTheOtherIsStopped(t *testing.T) {
	t.Parallel()
	n := many()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work()
	o.work()
	o.schedule()
	o.inFlow("orders", n)
	w.stop()
	o.drained(60 * time.Second)
	requireOnce(t, q.receive(n, 60*time.Second), "e", n)
}

func TestWorker_ThatIsKilledLosesNothingAndTheNextAttemptTakesItsLanes(t *testing.T) {
	t.Parallel()
	n := many()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work(perTopic)
	o.schedule()
	o.inFlow("orders", n)
	w.kill()
	require.Positive(t, o.count(`SELECT count(*) FROM outbox.lane WHERE leased_until > now()`), "its lanes are still leased")
	o.secondAttempt(testenv.Temporal(t))
	o.work(perTopic)
	o.drained(120 * time.Second)
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	// What was sent and not yet settled is sent again: at most a page for each of
	// the four batches that one topic has in flight.
	require.LessOrEqual(t, len(messages)-n, 4*500)
	t.Logf("%d of %d came twice", len(messages)-n, n)
}

func TestWorker_ThatIsKilledRepeatsAtMostTheEventsInHandOfItsShares(t *testing.T) {
	t.Parallel()
	n := many()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work(shared)
	o.schedule()
	o.inFlow("orders", n)
	w.kill()
	require.Equal(t, 16, o.count(`SELECT count(*) FROM outbox.share WHERE leased_until > now()`), "its shares are still leased")
	o.work(shared)
	o.drained(60 * time.Second)
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	require.LessOrEqual(t, len(messages)-n, 1000)
	t.Logf("%d of %d came twice", len(messages)-n, n)
}

func TestRelay_RunsFollowEachOtherAndNoneEndsByALimit(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	o.schedule("--every", "2s", "--run-for", "3s")
	c := testenv.Temporal(t)
	written := 0
	o.completed(c, 3, func(cond func() error) {
		testenv.Eventually(t, 60*time.Second, func() error {
			written++
			o.exec(`INSERT INTO outbox.event (topic, type, payload) VALUES ('orders', 'T', 'e-' || $1::int)`, written)
			return cond()
		})
	})
	o.drained(20 * time.Second)
	requireOnce(t, q.receive(written, 20*time.Second), "e", written)
	for _, r := range o.runs(t.Context(), c) {
		require.Contains(t, []string{"Completed", "Running"}, r.status.String())
	}
}

func TestWorker_OfAVersionWaitsUntilItIsCurrentAndSaysSo(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	deployment := testenv.Name(t)
	version := func(build string) []string {
		return []string{"TEMPORAL_DEPLOYMENT_NAME=" + deployment, "TEMPORAL_WORKER_BUILD_ID=" + build}
	}
	w := o.work(version("v1")...)
	o.schedule("--every", "2s", "--run-for", "3s")
	testenv.Eventually(t, 20*time.Second, func() error { return w.ready("has no current version") })

	require.Contains(t, o.starter("promote", "--deployment", deployment, "--build-id", "v1"), "is current")
	o.starter("promote", "--deployment", deployment, "--build-id", "v1") // again changes nothing
	testenv.Eventually(t, 20*time.Second, func() error { return w.ready("ready\n") })
	o.write("orders", "one", 10, 3)
	requireOnce(t, q.receive(10, 30*time.Second), "one", 10)

	// A new version takes over in full flow.
	o.work(version("v2")...)
	o.write("orders", "two", 1000, 50)
	o.starter("promote", "--deployment", deployment, "--build-id", "v2")
	c := testenv.Temporal(t)
	testenv.Eventually(t, 60*time.Second, func() error {
		d, err := c.DescribeWorkflowExecution(t.Context(), o.runs(t.Context(), c)[0].id, "")
		if err != nil {
			return err
		}
		if d.WorkflowExecutionInfo.GetVersioningInfo().GetDeploymentVersion().GetBuildId() != "v2" {
			return errNotYet
		}
		return nil
	})
	o.drained(60 * time.Second)
	requireOnce(t, q.receive(1000, 30*time.Second), "two", 1000)
}

func TestPromote_OfAVersionThatNobodyRunsSaysSo(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	out, err := o.tryStarter("promote", "--deployment", testenv.Name(t), "--build-id", "v1", "--wait", "1s")
	require.Error(t, err)
	require.Contains(t, out, "no worker of that version polls")
}

func TestSchedule_GivenAgainChangesNothingAndKeepsAnOperatorsPause(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.schedule()
	require.Contains(t, o.starter("schedule", "--maintain-every", "0"), "unchanged")
	c := testenv.Temporal(t)
	h := c.ScheduleClient().GetHandle(t.Context(), o.queue)
	require.NoError(t, h.Pause(t.Context(), client.SchedulePauseOptions{Note: "maintenance"}))
	out := o.starter("schedule", "--maintain-every", "0", "--slots", "8")
	require.Contains(t, out, "updated")
	require.Contains(t, out, "maintenance")
	d, err := h.Describe(t.Context())
	require.NoError(t, err)
	require.True(t, d.Schedule.State.Paused)
	require.Contains(t, o.starter("schedule", "--maintain-every", "0", "--slots", "8"), "unchanged")
}
