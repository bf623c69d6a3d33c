package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// remove deletes the queue. Its name can be used again.
func (q queue) remove() {
	q.t.Helper()
	_, err := q.sqs.DeleteQueue(q.t.Context(), &sqs.DeleteQueueInput{QueueUrl: &q.url})
	require.NoError(q.t, err)
}

func (o *outbox) recoveryID(topic string) string { return workflows.RecoveryID(o.queue, topic) }

// recovering waits until a topic's recovery waits for its next attempt, and
// returns its pending activity.
func (o *outbox) recovering(c client.Client, topic string) (pending *workflowpb.PendingActivityInfo) {
	o.t.Helper()
	return o.recoveringAs(c, o.recoveryID(topic))
}

func (o *outbox) recoveringAs(c client.Client, id string) (pending *workflowpb.PendingActivityInfo) {
	o.t.Helper()
	testenv.Eventually(o.t, 30*time.Second, func() error {
		d, err := c.DescribeWorkflowExecution(o.t.Context(), id, "")
		if err != nil {
			return err
		}
		if status := d.GetWorkflowExecutionInfo().GetStatus(); status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return fmt.Errorf("%s is %s", id, status)
		}
		activities := d.GetPendingActivities()
		if len(activities) != 1 || activities[0].GetLastFailure() == nil || activities[0].GetAttempt() < 2 {
			return fmt.Errorf("%s has no failed attempt yet: %v", id, activities)
		}
		pending = activities[0]
		return nil
	})
	o.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.TerminateWorkflow(ctx, id, "", "the test is over")
	})
	return pending
}

// ended waits for the last recovery of a topic to complete.
func (o *outbox) ended(c client.Client, topic string) (r workflows.RecoveryResult) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 90*time.Second)
	defer cancel()
	require.NoError(o.t, c.GetWorkflow(ctx, o.recoveryID(topic), "").Get(ctx, &r))
	return r
}

func (o *outbox) recoveries(c client.Client) (n int) {
	o.t.Helper()
	out, err := c.ListWorkflow(o.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("TaskQueue = '%s' AND WorkflowType = 'Recovery'", o.queue),
	})
	require.NoError(o.t, err)
	return len(out.Executions)
}

// expirePause does what time would do when nobody renews a recovery's pause.
func (o *outbox) expirePause() {
	o.t.Helper()
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = now() - interval '1 second'`)
	o.exec(`UPDATE outbox.lane SET leased_until = now() - interval '1 second' WHERE leased_until IS NOT NULL`)
}

func TestRecovery_OfABrokenDestinationIsOneAndDeliversAllWhenItIsBack(t *testing.T) {
	t.Parallel()
	const n = 3000
	broken, sound := newQueue(t, testenv.Name(t)+"-a"), newQueue(t, testenv.Name(t)+"-b")
	o := newOutbox(t, "topics:\n  broken: {sqs: "+broken.name+"}\n  sound: {sqs: "+sound.name+"}\n")
	c := testenv.Temporal(t)
	o.work()
	o.schedule()
	o.write("broken", "warm", 10, 10)
	o.drained(30 * time.Second)
	broken.receive(10, 30*time.Second)

	broken.remove()
	o.write("broken", "e", n, 500)
	pending := o.recovering(c, "broken")
	require.Regexp(t, `^broken → SQS queue `+broken.name+`: \d+ of \d+ left: NonExistentQueue: `, pending.GetLastFailure().GetMessage())
	require.Equal(t, "NonExistentQueue", pending.GetLastFailure().GetApplicationFailureInfo().GetType())
	require.NotNil(t, pending.GetScheduledTime(), "and when it is tried next")

	o.write("sound", "s", n, 500)
	testenv.Eventually(t, 30*time.Second, func() error {
		if left := o.count(`SELECT count(*) FROM outbox.pending WHERE topic = 'sound'`); left > 0 {
			return fmt.Errorf("%d events of the sound topic are pending", left)
		}
		return nil
	})
	requireOnce(t, sound.receive(n, 30*time.Second), "s", n)
	require.Equal(t, n, o.pending(), "nothing of the broken one is lost")
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`))

	back := newQueue(t, broken.name)
	r := o.ended(c, "broken")
	require.False(t, r.Lost)
	require.Positive(t, r.Published)
	o.drained(60 * time.Second)
	requireOnce(t, back.receive(n, 60*time.Second), "e", n)
	require.Equal(t, 1, o.recoveries(c))
	require.Zero(t, o.count(`SELECT count(*) FROM outbox.topic WHERE recovery_paused_until IS NOT NULL`))
}

// brokenOrders is an outbox with one worker whose topic orders has lost its queue,
// with 100 events for it and their recovery at work.
func brokenOrders(t *testing.T, env ...string) (*outbox, queue, client.Client, *worker, *workflowpb.PendingActivityInfo) {
	t.Helper()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	w := o.work(env...)
	o.schedule()
	q.remove()
	o.write("orders", "e", 100, 10)
	return o, q, c, w, o.recovering(c, "orders")
}

// brokenShown is how "status --json" and "where --json" show why a topic waits.
type brokenShown struct {
	Code, Message, Destination string
	Since, NextAttemptAt       time.Time
}

func TestRecovery_ShowsItsCauseStartAndNextStepInEveryPlace(t *testing.T) {
	t.Parallel()
	o, q, c, _, _ := brokenOrders(t)
	status := func() *brokenShown {
		topics := commandJSON[struct {
			Topics []struct{ Failure *brokenShown }
		}](o, "status").Topics
		require.Len(t, topics, 1)
		return topics[0].Failure
	}
	var f *brokenShown
	testenv.Eventually(t, 20*time.Second, func() error { // it was written by an attempt of the recovery
		if f = status(); f == nil || !f.NextAttemptAt.After(f.Since) {
			return fmt.Errorf("status says %v", f)
		}
		return nil
	})
	require.Equal(t, "NonExistentQueue", f.Code)
	require.Contains(t, f.Message, "does not exist")
	require.Equal(t, "SQS queue "+q.name, f.Destination)
	require.WithinDuration(t, time.Now(), f.Since, time.Minute)

	out := o.starter("status")
	for _, want := range []string{"by workflow " + o.recoveryID("orders"), "NonExistentQueue: ", "refused by SQS queue " + q.name, "next attempt at"} {
		require.Contains(t, out, want)
	}
	out = o.starter("where", "--topic", "orders", "--key", "key-1")
	require.Contains(t, out, "NonExistentQueue: ")
	require.Contains(t, out, "refused by SQS queue "+q.name)
	require.Equal(t, 100, o.count(`SELECT count(*) FROM outbox.status WHERE failure_code = 'NonExistentQueue' AND failure_message <> ''
	    AND failure_destination LIKE 'SQS queue %' AND failing_since < now() AND next_attempt_at > failing_since
	    AND recovery_workflow_id = '`+o.recoveryID("orders")+`'`))
	testenv.Eventually(t, 60*time.Second, func() error { // the table of Relay, in the UI
		v, err := c.QueryWorkflow(t.Context(), o.relay().Run.WorkflowID, "", "__temporal_workflow_metadata")
		if err != nil {
			return err
		}
		var shown sdkpb.WorkflowMetadata
		require.NoError(t, v.Get(&shown))
		if !strings.Contains(shown.CurrentDetails, "**destination broken**: NonExistentQueue: ") || !strings.Contains(shown.CurrentDetails, "next attempt at") {
			return errors.New(shown.CurrentDetails)
		}
		return nil
	})

	newQueue(t, q.name)
	o.ended(c, "orders")
	o.drained(30 * time.Second)
	require.Nil(t, status())
	require.Zero(t, o.count(`SELECT count(failure_code) FROM outbox.topic`))
	out = o.starter("status")
	for _, over := range []string{"by workflow", "refused by", "next attempt at", "retry"} {
		require.NotContains(t, out, over)
	}
	testenv.Eventually(t, 20*time.Second, func() error { // APART has the cause until the lanes are back in the shares
		if out := o.starter("status"); strings.Contains(out, "NonExistentQueue") {
			return errors.New(out)
		}
		return nil
	})
}

func TestRecovery_SurvivesItsRelayRunAndItsWorker(t *testing.T) {
	t.Parallel()
	o, q, c, w, _ := brokenOrders(t)
	for _, r := range o.runs(t.Context(), c) {
		if r.open() {
			require.NoError(t, c.CancelWorkflow(t.Context(), r.id, r.runID))
		}
	}
	w.kill()
	o.work()
	back := newQueue(t, q.name)
	o.ended(c, "orders")
	o.drained(30 * time.Second)
	requireOnce(t, back.receive(100, 30*time.Second), "e", 100)
}

// The hold of a terminated recovery and the leases of its lanes would last for a minute and more.
func TestRecovery_ThatIsTerminatedBeginsAgainWithinSeconds(t *testing.T) {
	for mode, batches := range map[string]string{"shared": shared, "topics": perTopic} {
		t.Run(mode, func(t *testing.T) {
			o, q, c, _, _ := brokenOrders(t, batches)
			require.NoError(t, c.TerminateWorkflow(t.Context(), o.recoveryID("orders"), "", "by mistake"))
			o.recovering(c, "orders") // another one
			require.Equal(t, 2, o.recoveries(c))
			back := newQueue(t, q.name)
			o.ended(c, "orders")
			o.drained(30 * time.Second)
			requireOnce(t, back.receive(100, 30*time.Second), "e", 100)
		})
	}
}

func TestRecovery_WhoseActivityIsPausedOrResetGoesOn(t *testing.T) {
	t.Parallel()
	o, q, c, _, pending := brokenOrders(t)
	execution := o.pauseActivity(c, pending)
	back := newQueue(t, q.name)
	// Its pause is over, and others may try the topic: they get through.
	o.expirePause()
	o.drained(30 * time.Second)
	requireOnce(t, back.receive(100, 30*time.Second), "e", 100)

	_, err := c.WorkflowService().UnpauseActivity(t.Context(), &workflowservice.UnpauseActivityRequest{
		Namespace: "default", Execution: execution,
		Activity: &workflowservice.UnpauseActivityRequest_Id{Id: pending.GetActivityId()},
	})
	require.NoError(t, err)
	_, err = c.WorkflowService().ResetActivity(t.Context(), &workflowservice.ResetActivityRequest{
		Namespace: "default", Execution: execution,
		Activity: &workflowservice.ResetActivityRequest_Id{Id: pending.GetActivityId()},
	})
	require.NoError(t, err)
	r := o.ended(c, "orders")
	require.Zero(t, r.Published, "the others were faster")
}

func TestPark_MakesDeadLettersOfFailingEventsAndLetsTheTopicGoOn(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.work()
	o.schedule()
	q.remove()
	o.write("orders", "e", 700, 100)
	o.recovering(c, "orders")
	update, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{
		WorkflowID: o.recoveryID("orders"), UpdateName: workflows.UpdatePark, WaitForStage: client.WorkflowUpdateStageCompleted,
		Args: []any{workflows.ParkRequest{By: "ann", Reason: "the queue is gone for good"}},
	})
	require.NoError(t, err)
	var parked workflows.ParkResult
	require.NoError(t, update.Get(t.Context(), &parked))
	require.Positive(t, parked.Dead)
	r := o.ended(c, "orders")
	require.Equal(t, "ann", r.Parked)
	require.False(t, r.Lost, "it kept its lanes until nothing failed")
	testenv.Eventually(t, 10*time.Second, func() error {
		if dead := o.count(`SELECT count(*) FROM outbox.dead_letter`); dead < parked.Dead {
			return fmt.Errorf("%d dead letters, want %d", dead, parked.Dead)
		}
		return nil
	})
	require.Equal(t, 700, o.pending()+o.count(`SELECT count(*) FROM outbox.dead_letter`), "nothing is lost")
	if o.pending() > 0 { // what was in other batches is tried, and recovered, by itself
		o.recovering(c, "orders")
	}
}

// A new version of the worker takes a recovery over.
func TestRecovery_SurvivesADeploy(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	version := func(build string) []string {
		return []string{"TEMPORAL_DEPLOYMENT_NAME=" + o.queue, "TEMPORAL_WORKER_BUILD_ID=" + build}
	}
	old := o.startWorker(version("one")...)
	testenv.Eventually(t, 30*time.Second, func() error {
		_, err := o.tryStarter("promote", "--deployment", o.queue, "--build-id", "one")
		return err
	})
	o.schedule()
	q.remove()
	o.write("orders", "e", 100, 10)
	o.recovering(c, "orders")
	o.startWorker(version("two")...)
	testenv.Eventually(t, 30*time.Second, func() error {
		_, err := o.tryStarter("promote", "--deployment", o.queue, "--build-id", "two")
		return err
	})
	old.stop()
	back := newQueue(t, q.name)
	o.ended(c, "orders")
	o.drained(90 * time.Second)
	requireOnce(t, back.receive(100, 30*time.Second), "e", 100)
	d, err := c.DescribeWorkflowExecution(t.Context(), o.recoveryID("orders"), "")
	require.NoError(t, err)
	require.Equal(t, enumspb.VERSIONING_BEHAVIOR_AUTO_UPGRADE, d.GetWorkflowExecutionInfo().GetVersioningInfo().GetBehavior())
}
