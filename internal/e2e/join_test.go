package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// Between putting an operation on record and starting its workflow a command may be held
// up, and another that finds the record must neither end it nor do a second time what it
// is about.
func TestOperation_HeldUpBeforeItsWorkflowStartsIsJoinedAndNotEnded(t *testing.T) {
	t.Parallel()
	o, first, line := heldUp(t)
	second := o.command(discarding(0, "--yes", "--json", "--by", "bob")...)
	require.Zero(t, second.status, second.err)
	require.Contains(t, second.err, "under way since ")
	require.Contains(t, second.err, "by ada: test data")
	var did operated
	require.NoError(t, json.Unmarshal([]byte(second.out), &did))
	require.True(t, did.Joined)
	require.EqualValues(t, 20, did.Done)
	line.set(whole)
	end := first.ends()
	require.Zero(t, end.status, end.out)
	require.Contains(t, end.out, "done: 20 dead letters of orders")
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation`))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE by = 'ada' AND outcome = 'done' AND done = 20`))
	require.Equal(t, 20, o.count(`SELECT count(*) FROM outbox.discarded`))
}

// heldUp is a command that has put its operation on record, and does not reach Temporal.
func heldUp(t *testing.T) (o *outbox, held *running, line *proxy) {
	t.Helper()
	q := newQueue(t, testenv.Name(t))
	o = newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(20, 2)
	o.work()
	line = newProxy(t, os.Getenv("TEMPORAL_ADDRESS"))
	held = o.onTerminal([]string{"TEMPORAL_ADDRESS=" + line.address}, discarding(0)...)
	held.says("discard 20 dead letters of orders? [y/N]")
	line.set(silent)
	held.answer("y")
	testenv.Eventually(t, 20*time.Second, func() error {
		if o.count(`SELECT count(*) FROM outbox.operation`) == 0 {
			return errors.New("it is not on record yet")
		}
		return nil
	})
	return o, held, line
}

// What an operation selects is counted before it is confirmed, and its time is that of the
// count: it may be old when its workflow is about to start.
func TestOperation_ThatWasConfirmedLateIsJoinedAndNotEnded(t *testing.T) {
	t.Parallel()
	o, first, line := heldUp(t)
	o.exec(`UPDATE outbox.operation SET at = at + interval '-10 minutes'`)
	o.exec(`UPDATE outbox.dead_letter SET dead_at = dead_at - interval '1 hour'`)
	second := o.begin(nil, discarding(0, "--yes", "--json", "--by", "bob")...)
	second.says(fmt.Sprint("operation ", o.count(`SELECT id FROM outbox.operation`)) + ", by ada, has no workflow yet: waiting a moment for it")
	line.set(whole)
	end := second.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, `"joined":true`)
	end = first.ends()
	require.Zero(t, end.status, end.out)
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE by = 'ada' AND outcome = 'done' AND done = 20`))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation`))
}

func TestOperation_StartedManyTimesAtOnceIsDoneOnceAndTheOthersJoin(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(150, 10)
	o.work()
	var all []*running
	for range 5 {
		all = append(all, o.begin(nil, discarding(10, "--yes", "--json")...))
	}
	began := 0
	for _, r := range all {
		end := r.ends()
		require.Zero(t, end.status, end.err)
		var did operated
		require.NoError(t, json.Unmarshal([]byte(end.out), &did))
		require.EqualValues(t, 150, did.Done)
		if !did.Joined {
			began++
			require.NotContains(t, end.err, "under way since")
			continue
		}
		require.Contains(t, end.err, "under way since")
	}
	require.Equal(t, 1, began)
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE outcome = 'done'`))
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation`))
}

// That a workflow is not found proves nothing where it may be the wrong Temporal that was
// asked.
func TestOperation_UnderWayInAnotherNamespaceIsNotEndedFromHere(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(200, 10)
	o.work()
	r := o.begin(nil, discarding(10, "--yes")...)
	r.says(" of 200\n")
	here := o.env
	_, namespace := o.namespaced(testenv.Temporal(t))
	elsewhere := o.begin(nil, discarding(10, "--yes")...).ends()
	o.env = here
	require.Equal(t, 1, elsewhere.status, elsewhere.err)
	require.Contains(t, elsewhere.err, "namespace "+namespace+" at ")
	require.Contains(t, elsewhere.err, "use the namespace in which the operation was started")
	end := r.ends()
	require.Zero(t, end.status, end.err)
	require.Contains(t, end.out, "done: 200 dead letters of orders")
}

func TestOperation_OfAnotherTaskQueueWithoutAWorkflowIsNotStartedOnThisOne(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.dead(2, 1)
	o.exec(`INSERT INTO outbox.operation (kind, topic, by, reason, workflow_id) VALUES ('discard', 'orders', 'x', 'y', $1)`,
		"outbox-discard/"+o.queue+"-other/orders/1")
	before := o.state()
	r := o.begin(nil, discarding(0, "--yes")...).ends()
	require.Equal(t, 2, r.status, r.err)
	require.Contains(t, r.err, "on another task queue than "+o.queue)
	require.Equal(t, before, o.state(), "nothing changed")
}
