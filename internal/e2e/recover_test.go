package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// destination is one that a test holds in its hands: each attempt is shown to the test,
// and ends as that says.
type destination struct {
	attempts atomic.Int64
	// answer says when an attempt that has a page gets its answer, and whether that is
	// accepted.
	answer func(parks bool) (accept bool)
}

func (d *destination) Destination(string) string { return "a queue" }

func (d *destination) Ordered(string) bool { return false }

func (d *destination) Publish(_ context.Context, r relay.PublishRequest) (p relay.PublishResult, err error) {
	d.attempts.Add(1)
	for page := range r.Events {
		accept := d.answer(r.Isolate)
		outcomes := make([]relay.Outcome, len(page))
		for i, e := range page {
			outcomes[i].Ref = e.Ref
			if !accept {
				outcomes[i].Err = &relay.PublishError{Code: "AccessDenied", Message: "not you", Class: relay.ClassDestination, Whole: true}
			}
		}
		r.Report(outcomes)
	}
	return p, nil
}

// held is an outbox whose topic orders has n events, and a recovery in this process that
// has all of them in its batch. Without a destination nobody works for it.
func held(t *testing.T, n int, d *destination) (*outbox, client.Client) {
	t.Helper()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	c := testenv.Temporal(t)
	store, err := postgres.Open(t.Context(), postgres.Config{URL: o.url})
	require.NoError(t, err)
	t.Cleanup(store.Close)
	require.NoError(t, store.EnsureLanes(t.Context(), []string{"orders"}))
	o.write("orders", "e", n, n)
	batches, err := store.Claim(t.Context(), relay.ClaimRequest{By: "a test", Batches: 1, PerTopic: 1})
	require.NoError(t, err)
	require.Len(t, batches, 1)
	require.Equal(t, n, batches[0].Events)
	if d != nil {
		a, err := activities.New(activities.Config{Store: store, Publisher: d})
		require.NoError(t, err)
		w := sdkworker.New(c, o.queue, sdkworker.Options{})
		workflows.Register(w, a)
		require.NoError(t, w.Start())
		t.Cleanup(w.Stop)
	}
	_, err = c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: o.recoveryID("orders"), TaskQueue: o.queue},
		workflows.Recovery, workflows.RecoveryInput{Batch: batches[0], Concurrency: 1, Reason: "AccessDenied: not you"})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.TerminateWorkflow(ctx, o.recoveryID("orders"), "", "the test is over")
	})
	return o, c
}

// attempted waits until a destination has seen so many attempts.
func (o *outbox) attempted(d *destination, n int64) {
	o.t.Helper()
	testenv.Eventually(o.t, 30*time.Second, func() error {
		if seen := d.attempts.Load(); seen < n {
			return fmt.Errorf("%d attempts have begun, not %d", seen, n)
		}
		return nil
	})
}

// record is what outbox.operation says, a line for each command.
func (o *outbox) record() (lines []string) {
	o.t.Helper()
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), `SELECT coalesce(array_agg(kind || ' by ' || by || ': ' || outcome
	    || CASE WHEN finished_at IS NULL THEN 'open' ELSE '' END ORDER BY id), '{}') FROM outbox.operation`).Scan(&lines))
	return lines
}

func TestRecover_NowHasAnotherAttemptFollowOneThatIsUnderWay(t *testing.T) {
	repaired, answered := atomic.Bool{}, make(chan struct{})
	d := &destination{}
	d.answer = func(bool) bool {
		if d.attempts.Load() == 4 {
			<-answered // it began before the repair
			return false
		}
		return repaired.Load()
	}
	o, c := held(t, 20, d)
	o.attempted(d, 4)
	repaired.Store(true)
	asked := make(chan ran, 1)
	go func() { asked <- o.command("recover", "orders", "--now", "--by", "ada", "--reason", "repaired") }()
	testenv.Eventually(t, 30*time.Second, func() error {
		if lines := o.record(); len(lines) == 0 {
			return errors.New("nothing is on record")
		}
		return nil
	})
	require.Equal(t, []string{"recover-now by ada: open"}, o.record(), "before it is done")
	close(answered)
	began := time.Now()
	require.Equal(t, "orders: tries now, after an attempt that was under way\n", (<-asked).out)
	require.Equal(t, 20, o.ended(c, "orders").Published)
	require.Less(t, time.Since(began), 8*time.Second, "the fifth attempt was due after 8 s")
	require.EqualValues(t, 5, d.attempts.Load())
	require.Equal(t, []string{"recover-now by ada: tries now, after an attempt that was under way"}, o.record())
}

func TestRecover_NowSaysThatThereIsNoAttemptToHurry(t *testing.T) {
	t.Parallel()
	o, _ := held(t, 20, nil)
	r := o.command("recover", "orders", "--now", "--by", "ada", "--reason", "repaired")
	require.Equal(t, 3, r.status)
	require.Contains(t, r.err, "no attempt is under way or due")
	require.Empty(t, o.record(), "nothing was done")
}

// The terminal gives up waiting; the recovery does not, and has the last word.
func TestPark_ThatNobodyWaitsForStaysOpenOnRecordUntilItIsOver(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	d := &destination{answer: func(parks bool) bool {
		if parks {
			<-goOn
		}
		return false
	}}
	o, c := held(t, 20, d)
	o.attempted(d, 1)
	park := []string{"recover", "orders", "--park", "--reason", "gone"}
	asks := o.command(append(park, "--by", "ada")...)
	require.Equal(t, 2, asks.status, "somebody has to be asked")
	require.Contains(t, asks.err, "20 events are pending in the batch of "+o.recoveryID("orders")+", lanes 0-15, of 20 pending in orders")
	require.Contains(t, asks.err, "add --yes, or count first with --dry-run")
	dry := o.command("recover", "orders", "--park", "--dry-run")
	require.Equal(t, "dry run: nothing was changed\n", dry.out)
	require.Empty(t, o.record())

	late := o.command(append(park, "--by", "ada", "--yes", "--wait", "15s")...)
	require.Equal(t, 1, late.status)
	require.Contains(t, late.err, "no answer: park: ")
	first := o.count(`SELECT id FROM outbox.operation`)
	require.Contains(t, late.err, fmt.Sprintf("it may still be done; operation %d in outbox.operation then shows it", first))
	require.Equal(t, []string{"recover-park by ada: open"}, o.record())

	// The same, asked again, waits for the same.
	again := make(chan ran, 1)
	go func() { again <- o.command(append(park, "--by", "bob", "--yes", "--json")...) }()
	testenv.Eventually(t, 30*time.Second, func() error {
		if lines := o.record(); len(lines) < 2 {
			return fmt.Errorf("on record is %v", lines)
		}
		return nil
	})
	close(goOn)
	r := <-again
	require.Zero(t, r.status, r.err)
	var parked parkedJSON
	require.NoError(t, json.Unmarshal([]byte(r.out), &parked))
	require.True(t, parked.Joined)
	require.Equal(t, []int{first, 20, 20, 0, 0}, []int{parked.Operation, parked.Matched, parked.Dead, parked.Published, parked.Pending})
	require.Contains(t, r.err, "already requested at")
	require.Equal(t, 20, o.ended(c, "orders").Dead)
	require.Equal(t, []string{
		"recover-park by ada: parked: 0 published, 20 dead letters", fmt.Sprint("recover-park by bob: joined operation ", first),
	}, o.record())
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE finished_at - at > interval '15 seconds' AND done = 20 AND matched = 20`))
}

func TestPark_WhoseTerminalIsGoneHasItsRecordEndedByTheRecovery(t *testing.T) {
	t.Parallel()
	d := &destination{answer: func(bool) bool { return false }}
	o, c := held(t, 20, d)
	o.attempted(d, 1)
	o.exec(`INSERT INTO outbox.operation (kind, topic, by, reason) VALUES ('recover-park', 'orders', 'ada', 'gone')`)
	_, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{
		WorkflowID: o.recoveryID("orders"), UpdateName: workflows.UpdatePark, WaitForStage: client.WorkflowUpdateStageAccepted,
		Args: []any{workflows.ParkRequest{By: "ada", Reason: "gone", Operation: int64(o.count(`SELECT id FROM outbox.operation`))}},
	})
	require.NoError(t, err)
	require.Equal(t, 20, o.ended(c, "orders").Dead)
	require.Equal(t, []string{"recover-park by ada: parked: 0 published, 20 dead letters"}, o.record())
}

func TestPark_ThatFindsTheDestinationBackIsOnRecordAsSuch(t *testing.T) {
	t.Parallel()
	answered := make(chan struct{})
	d := &destination{answer: func(bool) bool { <-answered; return true }}
	o, c := held(t, 20, d)
	o.attempted(d, 1)
	asked := make(chan ran, 1)
	go func() {
		asked <- o.command("recover", "orders", "--park", "--yes", "--by", "ada", "--reason", "gone")
	}()
	testenv.Eventually(t, 30*time.Second, func() error {
		info, err := c.DescribeWorkflowExecution(t.Context(), o.recoveryID("orders"), "")
		if err != nil {
			return err
		}
		for _, a := range info.PendingActivities {
			if a.State == enumspb.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED {
				return nil
			}
		}
		return errors.New("the attempt under way is not to be ended yet")
	})
	close(answered) // it gets through all the same
	const outcome = "not parked, because the destination recovered first: 20 published, 0 dead letters"
	require.Equal(t, "orders: "+outcome+"\n", (<-asked).out)
	require.Empty(t, o.ended(c, "orders").Parked)
	require.Equal(t, []string{"recover-park by ada: " + outcome}, o.record())
}
