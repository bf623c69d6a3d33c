package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// accepted is how many messages a queue holds of which none has been received.
func (q queue) accepted() int {
	q.t.Helper()
	out, err := q.sqs.GetQueueAttributes(q.t.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameApproximateNumberOfMessages},
	})
	require.NoError(q.t, err)
	n, err := strconv.Atoi(out.Attributes["ApproximateNumberOfMessages"])
	require.NoError(q.t, err)
	return n
}

// unsettled waits until something that the queue has accepted is still pending, while the
// database is away, and nothing more is accepted.
func (o *outbox) unsettled(q queue, n int) {
	o.t.Helper()
	last := -1
	testenv.Eventually(o.t, 60*time.Second, func() error {
		accepted := q.accepted()
		defer func() { last = accepted }()
		if left := accepted - (n - o.pending()); left <= 0 || accepted != last {
			time.Sleep(500 * time.Millisecond)
			return fmt.Errorf("%d are accepted and not settled", left)
		}
		return nil
	})
	o.t.Logf("%d are accepted and not settled", last-(n-o.pending()))
}

// The run has ended, and with it its batches and what their heartbeats said.
func TestOutage_OfTheDatabaseThatOutlastsARunRepeatsNothing(t *testing.T) {
	t.Parallel()
	n := many() / 2
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, hostOf(t, o.url))
	o.work("DATABASE_URL=" + line.inFrontOf(t, o.url))
	o.schedule("--every", "2s", "--run-for", "10s")
	o.inFlow("orders", n)
	line.set(refused)
	o.unsettled(q, n)
	o.runsEnd(o.openRuns())
	require.Positive(t, o.pending())
	line.set(whole)
	o.drained(90 * time.Second)
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	require.Equal(t, n, published(messages), "nothing came twice")
}

// The run has ended and all leases are over, so that either worker may claim what either
// has published; and the one that claims is the first to reach the database.
func TestOutage_OfTheDatabaseThatOutlastsALeaseRepeatsNothing(t *testing.T) {
	t.Parallel()
	n := many() / 2
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	one, two := newProxy(t, hostOf(t, o.url)), newProxy(t, hostOf(t, o.url))
	o.work("DATABASE_URL=" + one.inFrontOf(t, o.url))
	o.work("DATABASE_URL=" + two.inFrontOf(t, o.url))
	o.schedule("--every", "2s", "--run-for", "10s")
	o.inFlow("orders", n)
	one.set(silent)
	two.set(silent)
	o.unsettled(q, n)
	o.runsEnd(o.openRuns())
	o.exec(`UPDATE outbox.lane SET leased_until = now() - interval '1 second' WHERE leased_until IS NOT NULL`)
	o.exec(`UPDATE outbox.share SET leased_until = now() - interval '1 second' WHERE leased_until IS NOT NULL`)
	two.reset() // what was under way never arrives
	two.set(whole)
	testenv.Eventually(t, 60*time.Second, func() error {
		if o.count(`SELECT (SELECT count(*) FROM outbox.lane WHERE leased_until > now()) + (SELECT count(*) FROM outbox.share WHERE leased_until > now())`) == 0 {
			return errNotYet
		}
		return nil
	})
	one.reset()
	one.set(whole)
	o.drained(90 * time.Second)
	messages := q.receive(n, 60*time.Second)
	require.Len(t, bodies(messages), n, "nothing is lost")
	require.Equal(t, n, published(messages), "nothing came twice")
}

// openRuns are the runs of Relay that are open.
func (o *outbox) openRuns() (open []run) {
	o.t.Helper()
	for _, r := range o.runs(o.t.Context(), testenv.Temporal(o.t)) {
		if r.open() {
			open = append(open, r)
		}
	}
	return open
}

// runsEnd waits until some runs have ended.
func (o *outbox) runsEnd(runs []run) {
	o.t.Helper()
	c := testenv.Temporal(o.t)
	testenv.Eventually(o.t, 120*time.Second, func() error {
		for _, r := range runs {
			d, err := c.DescribeWorkflowExecution(o.t.Context(), r.id, r.runID)
			if err != nil {
				return err
			}
			if d.WorkflowExecutionInfo.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				return errNotYet
			}
		}
		return nil
	})
}
