package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
)

const (
	// rollRate is how many events a second are written while versions replace each other.
	rollRate = 200
	rollKeys = 20
	// gapMost is how long an event may wait from its commit to its reception while
	// versions replace each other in order.
	gapMost = 3 * time.Second
	// gapKilledMost is the same after SIGKILL: nothing ends the activities of a worker that
	// is gone but their heartbeat timeout.
	gapKilledMost = 12 * time.Second
	// gapReplacedMost is the same where the run has to be replaced: until it is noticed, and
	// the batches of the old run have left their lanes.
	gapReplacedMost = 10 * time.Second
)

// traffic writes events at a steady rate, one commit for one event of each topic, and receives
// them, so that a test sees how long the relay did nothing.
type traffic struct {
	t      *testing.T
	stop   context.CancelFunc
	ends   sync.WaitGroup
	topics []string
	client *sqs.Client

	mu       sync.Mutex
	written  int // commits
	err      error
	waited   []waited       // of each first reception, in their order
	received map[string]int // by body
	order    map[string]int // the last number of each topic and key
	inverted []string
}

// waited says when an event was committed, and when it was first received.
type waited struct{ committed, received time.Time }

// traffic is that of the topic orders.
func (o *outbox) traffic(q queue) *traffic {
	return o.trafficOf(rollRate, map[string]queue{"orders": q})
}

// trafficOf writes so many events of each topic in a second.
func (o *outbox) trafficOf(rate int, queues map[string]queue) *traffic {
	ctx, stop := context.WithCancel(o.t.Context())
	tr := &traffic{
		t: o.t, stop: stop, topics: slices.Sorted(maps.Keys(queues)), received: map[string]int{}, order: map[string]int{},
		client: sqs.NewFromConfig(testenv.AWS(o.t)),
	}
	commits := make(map[int]time.Time)
	var mu sync.Mutex
	tr.ends.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			n := tr.written
			_, err := o.db.Exec(context.WithoutCancel(ctx),
				`INSERT INTO outbox.event (topic, key, type, payload)
				 SELECT topic, 'key-' || $1::int % $2, 'Tested', $1::text FROM unnest($3::text[]) topic`, n, rollKeys, tr.topics)
			if err != nil {
				tr.fail(fmt.Errorf("event %d: %w", n, err))
				return
			}
			mu.Lock()
			commits[n] = time.Now()
			mu.Unlock()
			tr.mu.Lock()
			tr.written++
			tr.mu.Unlock()
		}
	})
	receiving, stopReceiving := context.WithCancel(context.WithoutCancel(o.t.Context()))
	o.t.Cleanup(stopReceiving)
	for topic, q := range queues {
		receive := func() {
			for receiving.Err() == nil {
				out, err := tr.client.ReceiveMessage(receiving, &sqs.ReceiveMessageInput{
					QueueUrl: &q.url, MaxNumberOfMessages: 10, WaitTimeSeconds: 1,
					MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameMessageGroupId},
				})
				if err != nil {
					if receiving.Err() == nil {
						tr.fail(err)
					}
					return
				}
				now := time.Now()
				var gone []types.DeleteMessageBatchRequestEntry
				tr.mu.Lock()
				for i, m := range out.Messages {
					n := number(aws.ToString(m.Body))
					gone = append(gone, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
					event := topic + "/" + aws.ToString(m.Body)
					if tr.received[event]++; tr.received[event] > 1 {
						continue
					}
					mu.Lock()
					committed, ok := commits[n]
					mu.Unlock()
					if !ok {
						committed = now // it overtook the note of its commit
					}
					tr.waited = append(tr.waited, waited{committed, now})
					key := topic + "/" + m.Attributes["MessageGroupId"]
					if last, ok := tr.order[key]; ok && last > n {
						tr.inverted = append(tr.inverted, fmt.Sprintf("%s of %s after %d", event, key, last))
					}
					tr.order[key] = n
				}
				tr.mu.Unlock()
				if len(gone) > 0 {
					if _, err := tr.client.DeleteMessageBatch(receiving, &sqs.DeleteMessageBatchInput{QueueUrl: &q.url, Entries: gone}); err != nil && receiving.Err() == nil {
						tr.fail(err)
						return
					}
				}
			}
		}
		go receive()
		if len(queues) == 1 {
			go receive()
		}
	}
	o.t.Cleanup(stop)
	return tr
}

func number(body string) int {
	n, err := strconv.Atoi(body)
	if err != nil {
		return -1
	}
	return n
}

func (tr *traffic) fail(err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.err == nil {
		tr.err = err
	}
}

// passes waits until the traffic goes on: n more events have arrived.
func (tr *traffic) passes(n int) {
	tr.t.Helper()
	begin := tr.arrived()
	testenv.Eventually(tr.t, 60*time.Second, func() error {
		if got := tr.arrived() - begin; got < n {
			return fmt.Errorf("%d of %d events have arrived", got, n)
		}
		return nil
	})
}

// lasts waits until the traffic has gone on for a time.
func (tr *traffic) lasts(d time.Duration) {
	tr.t.Helper()
	for until := time.Now().Add(d); time.Now().Before(until); {
		tr.passes(len(tr.topics))
	}
}

func (tr *traffic) arrived() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.received)
}

// longest is the longest that an event waited that was committed since then.
func (tr *traffic) longest(since time.Time) (most time.Duration) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, w := range tr.waited {
		if w.committed.After(since) {
			most = max(most, w.received.Sub(w.committed))
		}
	}
	return most
}

// next is how long it took from then until an event arrived, whenever it was committed.
func (tr *traffic) next(since time.Time) time.Duration {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, w := range tr.waited {
		if w.received.After(since) {
			return w.received.Sub(since)
		}
	}
	return time.Since(since)
}

// end stops writing, waits for the rest, and requires that every event arrived in the
// order of its key. It returns how many came more than once.
func (tr *traffic) end() (again int) {
	tr.t.Helper()
	tr.stop()
	tr.ends.Wait()
	testenv.Eventually(tr.t, 60*time.Second, func() error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.err != nil {
			return nil
		}
		if all := tr.written * len(tr.topics); len(tr.received) < all {
			return fmt.Errorf("%d of %d events have arrived", len(tr.received), all)
		}
		return nil
	})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	require.NoError(tr.t, tr.err)
	require.Empty(tr.t, tr.inverted, "the order of keys")
	for _, times := range tr.received {
		again += times - 1
	}
	return again
}

// version is the environment of a worker of a version.
func (o *outbox) version(build string) []string {
	return []string{"TEMPORAL_DEPLOYMENT_NAME=" + o.queue, "TEMPORAL_WORKER_BUILD_ID=" + build}
}

// promoteByAPI makes a version current as Temporal's own tools and the worker controller
// do: without the starter.
func (o *outbox) promoteByAPI(build string) {
	o.t.Helper()
	c := testenv.Temporal(o.t)
	testenv.Eventually(o.t, 30*time.Second, func() error {
		_, err := c.WorkerDeploymentClient().GetHandle(o.queue).
			SetCurrentVersion(o.t.Context(), client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build})
		return err
	})
}

func (o *outbox) promote(build string) {
	o.t.Helper()
	o.starter("promote", "--deployment", o.queue, "--build-id", build)
}

// stopAll sends SIGTERM to workers at once and waits for their end.
func stopAll(workers ...*worker) {
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(w.stop)
	}
	all.Wait()
}

func TestRollover_TenTimesInARowLeavesNoGapLosesAndRepeatsNothing(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	old := []*worker{o.startWorker(o.version("v0")...), o.startWorker(o.version("v0")...)}
	o.promote("v0")
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	first := time.Now()
	for i := 1; i <= 10; i++ {
		build := fmt.Sprintf("v%d", i)
		next := []*worker{o.work(o.version(build)...), o.work(o.version(build)...)}
		began := time.Now()
		switch i % 3 {
		case 0: // by the starter
			o.promote(build)
			stopAll(old...)
		case 1: // as other tools do
			o.promoteByAPI(build)
			stopAll(old...)
		case 2: // the old workers leave while the new version becomes current
			var both sync.WaitGroup
			both.Go(func() { stopAll(old...) })
			o.promoteByAPI(build)
			both.Wait()
		}
		old = next
		tr.passes(rollRate)
		t.Logf("%s: %v at most", build, tr.longest(began).Round(time.Millisecond))
		require.Less(t, tr.longest(began), gapMost, "%s", build)
	}
	require.Zero(t, tr.end(), "repetitions")
	require.Less(t, tr.longest(first), gapMost, "also of events that arrived after their round")
	// No run ended by a limit or by a hand, and no task was lost with a worker that stopped.
	c := testenv.Temporal(t)
	for _, r := range o.runs(t.Context(), c) {
		require.Contains(t, []string{"Completed", "Running", "ContinuedAsNew"}, r.status.String())
		for _, e := range history(t, c, r).GetEvents() {
			if late := e.GetWorkflowTaskTimedOutEventAttributes(); late != nil {
				require.Equal(t, enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, late.GetTimeoutType(), "%s", e)
			}
			require.Nil(t, e.GetActivityTaskStartedEventAttributes().GetLastFailure().GetTimeoutFailureInfo(), "%s", e)
		}
	}
}

func TestRollover_OfWorkersWithoutVersionsLeavesNoGap(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	old := o.work()
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	first := time.Now()
	for range 5 {
		next := o.work()
		began := time.Now()
		old.stop()
		old = next
		tr.passes(rollRate)
		require.Less(t, tr.longest(began), gapMost)
	}
	require.Zero(t, tr.end(), "repetitions")
	require.Less(t, tr.longest(first), gapMost)
}

// The old workers are gone before the new version is current: nobody may work in between,
// and the gap counts from the promotion.
func TestRollover_AfterTheOldWorkersHaveGoneBeginsAtOnce(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	old := o.startWorker(o.version("one")...)
	o.promote("one")
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	o.work(o.version("two")...)
	old.stop()
	began := time.Now()
	o.promoteByAPI("two")
	tr.passes(rollRate)
	t.Logf("%v until the next event arrived", tr.next(began))
	require.Less(t, tr.next(began), gapMost)
	require.Less(t, tr.longest(began), gapMost)
	require.Zero(t, tr.end(), "repetitions")
}

func TestRollover_AfterSIGKILLResumesWithinAHeartbeatTimeout(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	old := o.startWorker(o.version("one")...)
	o.promote("one")
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	o.work(o.version("two")...)
	began := time.Now()
	o.promoteByAPI("two")
	old.kill()
	tr.passes(int(gapKilledMost/time.Second+1) * rollRate)
	t.Logf("%v at most", tr.longest(began))
	require.Less(t, tr.longest(began), gapKilledMost)
	tr.end()
}

// A run that the version before has pinned to itself is taken over when its workers are gone.
func TestRollover_FromAVersionThatPinsItsRunsLeavesNoRunBehind(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.programs = build(t, pinning)
	old := o.startWorker(o.version("one")...)
	o.promote("one")
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	o.programs = programs
	o.starter("migrate")
	o.work(o.version("two")...)
	began := time.Now()
	o.promoteByAPI("two")
	old.stop()
	tr.passes(10 * rollRate)
	t.Logf("%v at most", tr.longest(began))
	require.Less(t, tr.longest(began), 2*gapMost)
	require.Zero(t, tr.end(), "repetitions")
}

// reset begins a workflow anew from its first decision.
func (o *outbox) reset(id string) {
	o.t.Helper()
	c := testenv.Temporal(o.t)
	history := c.GetWorkflowHistory(o.t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		e, err := history.Next()
		require.NoError(o.t, err)
		if e.EventType != enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			continue
		}
		_, err = c.ResetWorkflowExecution(o.t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
			Namespace: client.DefaultNamespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id},
			Reason: "a test", WorkflowTaskFinishEventId: e.EventId, RequestId: uuid.NewString(),
		})
		require.NoError(o.t, err)
		return
	}
	o.t.Fatalf("%s has decided nothing", id)
}

// pinning is the last version whose runs of Relay were pinned.
const pinning = "12a5c5b45b070999fd27197b3b36307c3e66d2b5"

// A new deployment, as the worker controller makes one under its own name, takes over from a
// version that pins its runs.
func TestRollover_ToAnotherDeploymentTakesOverPinnedRuns(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.programs = build(t, pinning)
	old := o.startWorker(o.version("one")...)
	o.promote("one")
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	o.programs = programs
	o.starter("migrate")
	other := o.queue + "-b"
	o.work("TEMPORAL_DEPLOYMENT_NAME="+other, "TEMPORAL_WORKER_BUILD_ID=one")
	began := time.Now()
	o.starter("promote", "--deployment", other, "--build-id", "one")
	old.stop()
	tr.passes(10 * rollRate)
	t.Logf("%v at most", tr.longest(began))
	require.Less(t, tr.longest(began), 2*gapMost)
	require.Zero(t, tr.end(), "repetitions")
}

// A version that gets all traffic as the ramping one takes over as well.
func TestRollover_ByARampToAllTakesOverPinnedRuns(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.programs = build(t, pinning)
	old := o.startWorker(o.version("one")...)
	o.promote("one")
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	o.programs = programs
	o.starter("migrate")
	o.work(o.version("two")...)
	began := time.Now()
	testenv.Eventually(t, 30*time.Second, func() error {
		_, err := testenv.Temporal(t).WorkerDeploymentClient().GetHandle(o.queue).
			SetRampingVersion(t.Context(), client.WorkerDeploymentSetRampingVersionOptions{BuildID: "two", Percentage: 100})
		return err
	})
	old.stop()
	tr.passes(10 * rollRate)
	t.Logf("%v at most", tr.longest(began))
	require.Less(t, tr.longest(began), 2*gapMost)
	require.Zero(t, tr.end(), "repetitions")
}

// differing builds workers whose workflows cannot replay what this version records.
func differing(t *testing.T) (programs string) {
	t.Helper()
	dir := t.TempDir()
	const first = "\tin = in.withDefaults(workflow.Now(ctx))\n"
	file, err := filepath.Abs(filepath.Join("..", "..", "workflows", "relay.go"))
	require.NoError(t, err)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	changed := strings.Replace(string(text), first, first+"\t_ = workflow.Sleep(ctx, time.Millisecond)\n", 1)
	require.NotEqual(t, string(text), changed)
	other := filepath.Join(dir, "relay.go")
	require.NoError(t, os.WriteFile(other, []byte(changed), 0o600))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: other}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir, "../../worker", "../../starter").CombinedOutput()
	require.NoError(t, err, string(out))
	return dir
}

// Its workers are up before the run begins, as in a roll-out that waits for an approval.
func TestRollover_ToAVersionThatCannotReplayTheRunReplacesItAndBack(t *testing.T) {
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	other := differing(t)
	one := o.startWorker(o.version("one")...)
	o.promote("one")
	o.programs = other
	two := o.work(o.version("two")...)
	o.programs = programs
	o.schedule()
	tr := o.traffic(q)
	tr.passes(100)
	began := time.Now()
	o.promoteByAPI("two")
	one.stop()
	tr.passes(10 * rollRate)
	t.Logf("%v at most", tr.longest(began))
	require.Less(t, tr.longest(began), gapReplacedMost)

	o.work(o.version("three")...)
	began = time.Now()
	o.promoteByAPI("three")
	two.stop()
	tr.passes(10 * rollRate)
	t.Logf("%v at most, back", tr.longest(began))
	require.Less(t, tr.longest(began), gapReplacedMost)
	tr.end()
}

// A recovery that is reset to its beginning after the workers of the version that began it
// have gone.
func TestRollover_ARecoveryResetToItsBeginningGoesOnOnTheCurrentVersion(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	old := o.startWorker(o.version("one")...)
	o.promote("one")
	o.schedule()
	q.remove()
	o.write("orders", "e", 100, 10)
	o.recovering(c, "orders")
	o.work(o.version("two")...)
	o.promoteByAPI("two")
	old.stop()
	o.reset(o.recoveryID("orders"))
	back := newQueue(t, q.name)
	o.ended(c, "orders")
	o.drained(90 * time.Second)
	requireOnce(t, back.receive(100, 30*time.Second), "e", 100)
	d, err := c.DescribeWorkflowExecution(t.Context(), o.recoveryID("orders"), "")
	require.NoError(t, err)
	require.Equal(t, enumspb.VERSIONING_BEHAVIOR_AUTO_UPGRADE, d.GetWorkflowExecutionInfo().GetVersioningInfo().GetBehavior())
}
