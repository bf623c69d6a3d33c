package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	sdkpb "go.temporal.io/api/sdk/v1"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// fromBefore is the last version whose workflow ids had topics as they are.
const fromBefore = "12a5c5b45b070999fd27197b3b36307c3e66d2b5"

// Temporal's SDK refuses a workflow id that has any of these characters, or has it look
// like another one's. First each destination is missing, which is what a recovery is for.
func TestTopics_OfAnyCharactersRecoverAndAreRedrivenAndReplayed(t *testing.T) {
	t.Parallel()
	const n = 20
	topics := []string{"größe", "a/b", "100% \x1b[31mred"}
	queues := make([]queue, len(topics))
	config := "topics:\n"
	for i, topic := range topics {
		queues[i] = newQueue(t, fmt.Sprintf("%s-%d", testenv.Name(t), i))
		config += fmt.Sprintf("  %s: {sqs: %s}\n", strconv.Quote(topic), queues[i].name)
	}
	o := newOutbox(t, config)
	c := testenv.Temporal(t)
	o.work()
	o.schedule()
	for i, topic := range topics {
		queues[i].remove()
		o.write(topic, "e", n, 1)
	}
	for _, topic := range topics {
		pending := o.recovering(c, topic)
		require.Equal(t, "NonExistentQueue", pending.GetLastFailure().GetApplicationFailureInfo().GetType())
		require.Contains(t, o.command("status", "--json").out, strconv.Quote(o.recoveryID(topic)))
	}
	o.found(c, len(topics), `OutboxState = "recovering"`)
	o.found(c, 1, `OutboxState = "recovering" AND OutboxTopic = "größe"`)
	require.Equal(t, len(topics), o.recoveries(c))

	for _, topic := range topics {
		parked := commandJSON[parkedJSON](o, "recover", topic, "--park", "--yes", "--by", "ada", "--reason", "a test")
		require.Equal(t, o.recoveryID(topic), parked.WorkflowID)
		require.Equal(t, n, parked.Dead)
	}
	for i, topic := range topics {
		queues[i] = newQueue(t, queues[i].name)
		done := commandJSON[operated](o, "dead", "redrive", topic, "--all", "--by", "ada", "--reason", "a test", "--yes")
		require.EqualValues(t, n, done.Done)
		require.Equal(t, workflows.OperationIDPrefix(o.queue, "redrive", topic)+strconv.FormatInt(done.Operation, 10), done.WorkflowID)
		o.drainedTopic(topic, 30*time.Second)
		done = commandJSON[operated](o, "replay", topic, "--all", "--by", "ada", "--reason", "a test", "--yes")
		require.EqualValues(t, n, done.Done)
		o.drainedTopic(topic, 30*time.Second)
		require.Len(t, queues[i].receive(n, 30*time.Second), 2*n)
	}
	o.found(c, 2, `WorkflowType = "Operation" AND OutboxTopic = "größe"`)
}

// The id of the recovery of topic "a/b" was that of topic "b" of task queue "…/a", too.
func TestTopics_OfTwoTaskQueuesHaveRecoveriesOfTheirOwn(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  a/b: {sqs: "+q.name+"}\n")
	other := newOutbox(t, "topics:\n  b: {sqs: "+q.name+"}\n")
	other.queue = o.queue + "/a"
	other.env = append(other.env, "OUTBOX_TASK_QUEUE="+other.queue)
	c := testenv.Temporal(t)
	q.remove()
	for _, one := range []*outbox{o, other} {
		one.work()
		one.schedule()
	}
	o.write("a/b", "e", 20, 5)
	other.write("b", "o", 20, 5)
	require.Equal(t, workflows.EarlierRecoveryID(o.queue, "a/b"), workflows.EarlierRecoveryID(other.queue, "b"))
	require.NotEqual(t, o.recoveryID("a/b"), other.recoveryID("b"))
	o.recovering(c, "a/b")
	other.recovering(c, "b")
	for topic, one := range map[string]*outbox{"a/b": o, "b": other} {
		parked := commandJSON[parkedJSON](one, "recover", topic, "--park", "--yes", "--by", "ada", "--reason", "a test")
		require.Equal(t, one.recoveryID(topic), parked.WorkflowID)
		require.Equal(t, 20, parked.Dead)
	}
}

func TestTaskQueue_ThatTemporalWouldNotTakeIsRefusedBeforeAnything(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: none}\n")
	env := append(slices.Clone(o.env), "OUTBOX_TASK_QUEUE=größe")
	const says = `"größe": Temporal accepts only printable ASCII characters`
	require.Contains(t, o.refused("OUTBOX_TASK_QUEUE=größe"), "OUTBOX_TASK_QUEUE is "+says)
	for _, args := range [][]string{
		{"schedule"}, {"recover", "orders", "--now", "--reason", "x"}, {"replay", "orders", "--all", "--reason", "x"},
	} {
		r := o.commandIn(env, args...)
		require.Equal(t, 2, r.status, "%v", args)
		require.Contains(t, r.err, "the task queue (--task-queue, OUTBOX_TASK_QUEUE) is "+says)
	}
}

// A recovery under way goes on under the id with which an earlier version began it. No other
// begins beside it, though its pause is over and the relay tries the topic.
func TestUpgrade_ARecoveryGoesOnUnderTheIDThatItBeganWith(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  a/b: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.programs = build(t, fromBefore)
	old := o.work()
	o.schedule("--run-for", "10s", "--every", "5s")
	q.remove()
	o.write("a/b", "e", 100, 10)
	id := workflows.EarlierRecoveryID(o.queue, "a/b")
	require.NotEqual(t, id, o.recoveryID("a/b"))
	pending := o.recoveringAs(c, id)

	o.programs = programs
	o.work()
	old.stop()
	// Its lanes stay with it. Other lanes are refused as well, by a run that began with the
	// new version.
	o.write("a/b", "m", 100, 100)
	testenv.Eventually(t, 60*time.Second, func() error {
		o.exec(`UPDATE outbox.topic SET recovery_paused_until = now() - interval '1 second'`)
		for _, r := range o.runs(t.Context(), c) {
			for _, e := range history(t, c, r).Events {
				if e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == "RecoveryRuns" {
					return nil
				}
			}
		}
		return errors.New("no run has looked for a recovery of an earlier version")
	})
	testenv.Eventually(t, 30*time.Second, func() error {
		if n := o.count(fmt.Sprintf(`SELECT count(*) FROM outbox.topic WHERE recovery_workflow_id = '%s' AND recovery_paused_until > now()`, id)); n != 1 {
			return errors.New("the topic is not paused in its name")
		}
		return nil
	})
	require.Equal(t, 1, o.recoveries(c), "one recovery")
	require.Contains(t, o.command("status", "--json").out, strconv.Quote(id))
	d, err := c.DescribeWorkflowExecution(t.Context(), id, "")
	require.NoError(t, err)
	require.Equal(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, d.GetWorkflowExecutionInfo().GetStatus())
	require.Equal(t, pending.GetActivityId(), d.GetPendingActivities()[0].GetActivityId())

	back := newQueue(t, q.name)
	now := commandJSON[parkedJSON](o, "recover", "a/b", "--now", "--by", "ada", "--reason", "repaired")
	require.Equal(t, id, now.WorkflowID)
	var r workflows.RecoveryResult
	require.NoError(t, c.GetWorkflow(t.Context(), id, "").Get(t.Context(), &r))
	require.False(t, r.Lost)
	require.Positive(t, r.Published)
	o.drained(60 * time.Second)
	require.Len(t, back.receive(200, 60*time.Second), 200)

	back.remove()
	o.write("a/b", "n", 10, 10)
	o.recovering(c, "a/b")
}

// A producer chooses topics, keys and payloads, an operator reasons, and a destination texts.
// People read them on terminals, in the Temporal UI and in logs.
func TestControlCharacters_ReachNoTerminalUIOrLog(t *testing.T) {
	t.Parallel()
	const evil, shown = "\x1b[31mred\u202e\u009b1m", `\u001b[31mred\u202e\u009b1m`
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, fmt.Sprintf("topics:\n  %s: {sqs: %s}\n", strconv.Quote(evil), q.name))
	c := testenv.Temporal(t)
	w := o.work("OUTBOX_LOG_FORMAT=text")
	o.schedule()
	q.remove()
	// The first is a dead letter at once, because SQS takes neither its key nor its payload.
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT $1, key, 'T' || chr(8238), key FROM unnest(ARRAY[$1, 'k-1', 'k-2']) key`, evil)
	pending := o.recovering(c, evil)
	status := commandJSON[struct{ Topics []struct{ Topic string } }](o, "status")
	require.Equal(t, evil, status.Topics[0].Topic, "programs get them as they are")

	said := map[string]string{"failure": pending.GetLastFailure().GetMessage()}
	say := func(args ...string) {
		r := o.command(args...)
		require.Zero(t, r.status, "%v: %s", args, r.err)
		said[strings.Join(args[:2], " ")] = r.out + r.err
	}
	say("status", "--every", "1s")
	say("where", "--topic", evil, "--key", evil)
	say("recover", evil, "--park", "--yes", "--by", "ada", "--reason", evil)
	say("dead", "list")
	say("dead", "list", evil)
	say("pause", evil, "--by", "ada", "--reason", evil)
	var id string
	require.NoError(t, o.db.QueryRow(t.Context(), `SELECT event_id::text FROM outbox.event ORDER BY id LIMIT 1`).Scan(&id))
	say("where", id)
	say("dead", "show", id, "--payload")
	said["check"], _ = o.check(nil)
	r := o.command("dead", "discard", evil+"x", "--all", "--reason", evil, "--yes")
	require.Equal(t, 2, r.status)
	said["unknown topic"] = r.err
	say("dead", "discard", evil, "--all", "--by", evil, "--reason", evil, "--yes")
	for v, workflow := range map[string]string{
		"metadata of the recovery":  o.recoveryID(evil),
		"metadata of the operation": workflows.OperationIDPrefix(o.queue, "discard", evil) + fmt.Sprint(o.count(`SELECT max(id) FROM outbox.operation`)),
	} {
		answer, err := c.QueryWorkflow(t.Context(), workflow, "", "__temporal_workflow_metadata")
		require.NoError(t, err)
		var metadata sdkpb.WorkflowMetadata
		require.NoError(t, answer.Get(&metadata))
		require.NotEmpty(t, metadata.GetCurrentDetails())
		said[v] = metadata.GetCurrentDetails()
	}
	said["log"] = w.text()
	for where, text := range said {
		require.Equal(t, printable.Text(text), text, where)
	}
	for _, where := range []string{"failure", "status --every", "recover " + evil, "dead list", "pause " + evil, "where " + id, "dead show", "check", "unknown topic"} {
		require.Contains(t, said[where], shown, where)
	}
	for _, one := range o.runs(t.Context(), c) {
		for _, e := range history(t, c, one).Events {
			summary := string(e.GetUserMetadata().GetSummary().GetData())
			if json.Valid([]byte(summary)) {
				require.NoError(t, json.Unmarshal([]byte(summary), &summary))
			}
			require.Equal(t, printable.Text(summary), summary)
		}
	}
}
