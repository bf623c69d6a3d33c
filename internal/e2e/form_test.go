package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// typed starts a workflow as the Start Workflow form of Temporal's UI does, with a text that
// somebody has typed, and waits for its end.
func (o *outbox) typed(c client.Client, id, text string) (r workflows.OperationResult, err error) {
	o.t.Helper()
	started, err := c.WorkflowService().StartWorkflowExecution(o.t.Context(), &workflowservice.StartWorkflowExecutionRequest{
		Namespace: "default", RequestId: uuid.NewString(), WorkflowId: id,
		WorkflowType: &commonpb.WorkflowType{Name: "Operation"},
		TaskQueue:    &taskqueuepb.TaskQueue{Name: o.queue},
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{
			Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text),
		}}},
	})
	require.NoError(o.t, err)
	err = c.GetWorkflow(o.t.Context(), id, started.GetRunId()).Get(o.t.Context(), &r)
	return r, err
}

// refusesTyped starts one that has to fail, with a type and a text.
func (o *outbox) refusesTyped(c client.Client, id, text, kind, says string) {
	o.t.Helper()
	_, err := o.typed(c, id, text)
	var failure *temporal.ApplicationError
	require.True(o.t, errors.As(err, &failure), "%s: %v", text, err)
	require.Contains(o.t, failure.Message(), says, text)
	require.Less(o.t, len(failure.Message())+len(failure.Type()), 1024, text)
	if kind != "" {
		require.Equal(o.t, kind, failure.Type(), text)
		require.True(o.t, failure.NonRetryable(), text)
	}
}

// On-call needs no shell: what the starter can do to the events of a topic, the form can.
func TestOperation_StartedFromTheUIChecksCountsRecordsAndMoves(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.work()
	o.schedule()
	o.deadBesideRelay(3)
	n := 0
	id := func() string { n++; return fmt.Sprintf("%s-%d", o.queue, n) }
	const operations = `SELECT count(*) FROM outbox.operation`

	for _, wrong := range []struct{ text, kind, says string }{
		{`redrive orders, please`, "", "unable to decode"},
		{`"redrive"`, "InvalidOperation", "give one JSON object"},
		{`{}`, "InvalidOperation", "give redrive, replay, pause or resume"},
		{`{"kind": "redrive", "topic": "orders", "codes": ["Poison"], "who": "ann", "reason": "x"}`, "InvalidOperation", `field "codes" is not known: the fields are kind, topic,`},
		{`{"kind": "redrive", "topic": "orders", "who": "ann", "reason": "x"}`, "InvalidOperation", `or give "all": true`},
		{`{"kind": "redrive", "topic": "orders", "all": true, "reason": "x"}`, "InvalidOperation", "who is missing"},
		{`{"kind": "redrive", "topic": "orders", "all": true, "rate": -5, "who": "ann", "reason": "x"}`, "InvalidOperation", "rate is -5"},
		{`{"kind": "redrive", "topic": "odrers", "all": true, "who": "ann", "reason": "x"}`, "InvalidOperation", `unknown topic "odrers": known topics are orders`},
		{`{"kind": "pause", "topic": "odrers", "who": "ann", "reason": "x"}`, "InvalidOperation", `unknown topic "odrers"`},
		{`{"kind": "redrive", "topic": "orders", "code": "Nothing", "who": "ann", "reason": "x"}`, "NothingMatches", "no dead letters of orders match"},
		{`{"kind": "discard", "topic": "orders", "all": true, "who": "ann", "reason": "x"}`, "InvalidOperation", "starter dead discard"},
		{`{"kind": "replay", "topic": "orders", "key": "key-1", "who": "ann", "reason": "x"}`, "InvalidOperation", "a replay needs since and until"},
		{`{"kind": "redrive", "topic": "orders", "key": "` + strings.Repeat("k", 5000) + `", "all": 1}`, "InvalidOperation", "all is"},
	} {
		o.refusesTyped(c, id(), wrong.text, wrong.kind, wrong.says)
	}
	require.Zero(t, o.count(operations))
	require.Equal(t, 3, o.count(`SELECT count(*) FROM outbox.dead_letter`))

	dry, err := o.typed(c, id(), `{"kind": "redrive", "topic": "orders", "all": true, "dryRun": true}`)
	require.NoError(t, err)
	require.Equal(t, "3 dead letters of orders match, of 3 keys; dry run: nothing was changed", dry.Text)
	require.Zero(t, o.count(operations))

	const redrive = `{"kind": "redrive", "topic": "orders", "code": "Poison", "who": "ann", "reason": "policy repaired"}`
	done, err := o.typed(c, "redrive-"+o.queue, redrive)
	require.NoError(t, err)
	require.EqualValues(t, 3, done.Done)
	require.Equal(t, "redrive: 3 events pending again, done. Of these, 3 published, 0 still pending, 0 dead.", done.Text)
	require.Len(t, q.receive(3, 30*time.Second), 3)
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE kind = 'redrive' AND topic = 'orders' AND by = 'ann' AND reason = 'policy repaired'
	    AND selection = '{"code": "Poison"}' AND matched = 3 AND done = 3 AND outcome = 'done' AND workflow_id = 'redrive-`+o.queue+`'`))
	d, err := c.DescribeWorkflow(t.Context(), "redrive-"+o.queue, "")
	require.NoError(t, err)
	require.Equal(t, `"ann"`, string(d.Memo.GetFields()["by"].GetData()))
	require.Equal(t, `["code"]`, string(d.Memo.GetFields()["selectedBy"].GetData()))

	o.refusesTyped(c, "redrive-"+o.queue, redrive, "OperationAskedBefore", "redrive of orders")
	require.Equal(t, 1, o.count(operations), "it is not on record twice")

	// What dies again shows without a shell, too.
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'Tested', E'bell \x07')`)
	o.drained(30 * time.Second)
	again, err := o.typed(c, id(), `{"kind": "redrive", "topic": "orders", "all": true, "who": "ann", "reason": "again"}`)
	require.NoError(t, err)
	require.Equal(t, "redrive: 1 events pending again, done. Of these, 0 published, 0 still pending, 1 dead. "+
		"Dead letters: 1 with InvalidCharacter (payload has U+0007 at byte 5).", again.Text)

	replayed, err := o.typed(c, id(), fmt.Sprintf(`{"kind": "replay", "topic": "orders", "key": "key-1", "since": "1h", "until": %q, "rate": 0, "who": "ann", "reason": "they lost it"}`,
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	require.NoError(t, err)
	require.EqualValues(t, 1, replayed.Delivered.Published)
	require.Len(t, q.receive(1, 30*time.Second), 1)

	// The same is on record, and its workflow is not there yet, or not any more.
	o.exec(`INSERT INTO outbox.operation (kind, topic, by, reason, workflow_id) VALUES ('redrive', 'orders', 'bob', 'mine', '` + o.queue + `-nobody')`)
	o.refusesTyped(c, id(), `{"kind": "redrive", "topic": "orders", "all": true, "who": "ann", "reason": "again"}`, "OperationUnderWay", "by bob: mine")
	o.exec(`UPDATE outbox.operation SET at = now() - interval '1 day' WHERE by = 'bob'`)
	_, err = o.typed(c, id(), `{"kind": "redrive", "topic": "orders", "all": true, "who": "ann", "reason": "again"}`)
	require.NoError(t, err)
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE by = 'bob' AND outcome LIKE 'abandoned%'`))
}

func TestOperation_StartedFromTheUIPausesAndResumes(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.work()
	o.exec(`INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1) ON CONFLICT DO NOTHING`)
	const pause = `{"kind": "pause", "topic": "orders", "who": "ann", "reason": "their deploy"}`
	r, err := o.typed(c, o.queue+"-pause", pause)
	require.NoError(t, err)
	require.Equal(t, "orders: paused", r.Text)
	const paused = `SELECT count(*) FROM outbox.topic WHERE topic = 'orders' AND paused_by = 'ann' AND pause_reason = 'their deploy'`
	require.Equal(t, 1, o.count(paused))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE kind = 'pause' AND by = 'ann' AND workflow_id = '`+o.queue+`-pause'`))

	r, err = o.typed(c, o.queue+"-pause-2", pause)
	require.NoError(t, err)
	require.Equal(t, "orders: nothing to do: it was paused already", r.Text)

	r, err = o.typed(c, o.queue+"-resume", `{"kind": "resume", "topic": "orders", "who": "bob"}`)
	require.NoError(t, err)
	require.Equal(t, "orders: resumed", r.Text)
	require.Zero(t, o.count(paused))
	require.Equal(t, 2, o.count(`SELECT count(*) FROM outbox.operation`))
}
