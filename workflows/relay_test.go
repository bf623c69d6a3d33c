package workflows_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// act refers to activities by method.
var act *activities.Activities

// env is Temporal's test environment. Its clock skips every wait.
type env struct {
	*testsuite.TestWorkflowEnvironment
	t *testing.T

	mu     sync.Mutex
	claims []activities.ClaimRequest
	began  []string // claim ids of batches
}

func newEnv(t *testing.T) *env {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	e := &env{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), t: t}
	e.SetTestTimeout(20 * time.Second)
	e.RegisterActivity(act)
	e.RegisterWorkflow(workflows.Relay)
	e.RegisterWorkflow(workflows.Recovery)
	return e
}

// onClaim answers the nth claim (from 1) after a second with batches(n).
func (e *env) onClaim(batches func(n int, r activities.ClaimRequest) []relay.Batch) {
	e.OnActivity(act.ClaimBatches, mock.Anything, mock.Anything).After(time.Second).Return(
		func(_ context.Context, r activities.ClaimRequest) (activities.ClaimResult, error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.claims = append(e.claims, r)
			return activities.ClaimResult{Batches: batches(len(e.claims), r)}, nil
		})
}

// claimOnce gives batches to the first claim and nothing to later ones.
func (e *env) claimOnce(batches ...relay.Batch) {
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch {
		if n == 1 {
			return batches
		}
		return nil
	})
}

// onPublish lets every batch take some time.
func (e *env) onPublish(takes time.Duration, publish func(r activities.PublishRequest) (activities.PublishResult, error)) {
	e.OnActivity(act.PublishBatch, mock.Anything, mock.Anything).After(takes).Return(
		func(_ context.Context, r activities.PublishRequest) (activities.PublishResult, error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.began = append(e.began, r.Batch.ClaimID)
			return publish(r)
		})
}

func published(r activities.PublishRequest) (activities.PublishResult, error) {
	return activities.PublishResult{Published: r.Batch.Events}, nil
}

func (e *env) run(in workflows.RelayInput) (r workflows.RelayResult) {
	e.t.Helper()
	e.ExecuteWorkflow(workflows.Relay, in)
	require.True(e.t, e.IsWorkflowCompleted())
	require.NoError(e.t, e.GetWorkflowError())
	require.NoError(e.t, e.GetWorkflowResult(&r))
	return r
}

func batch(topic string, n int) relay.Batch {
	return relay.Batch{Topic: topic, ClaimID: fmt.Sprint(topic, n), Lanes: []int16{int16(n % 16)}, Events: 10}
}

func TestRelay_ReportsPublishedEventsByTopic(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("orders", 1), batch("audit", 1), batch("orders", 2))
	e.onPublish(time.Second, published)
	require.Equal(t, workflows.RelayResult{
		Published: 30, Batches: 3,
		Topics: []workflows.TopicResult{
			{Topic: "audit", Published: 10, Batches: 1},
			{Topic: "orders", Published: 20, Batches: 2},
		},
	}, e.run(workflows.RelayInput{RunFor: 10 * time.Second}))
}

func TestRelay_ClaimsUntilItsDeadlineAndNoClaimWaitsLonger(t *testing.T) {
	e := newEnv(t)
	e.onClaim(func(int, activities.ClaimRequest) []relay.Batch { return nil })
	began := e.Now()
	e.run(workflows.RelayInput{})
	require.Equal(t, workflows.RunFor, e.Now().Sub(began))
	require.Len(t, e.claims, int(workflows.RunFor/time.Second))
	require.Equal(t, workflows.ClaimWait, e.claims[0].Wait)
	require.Equal(t, time.Second, e.claims[len(e.claims)-1].Wait, "the last one ends with the run")
}

func TestRelay_HasAtMostOneBatchInFlightPerSlot(t *testing.T) {
	e := newEnv(t)
	var inFlight, most int
	e.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if info.ActivityType.Name == "PublishBatch" {
			inFlight++
			most = max(most, inFlight)
		}
	})
	e.SetOnActivityCompletedListener(func(info *activity.Info, _ converter.EncodedValue, _ error) {
		if info.ActivityType.Name == "PublishBatch" {
			inFlight--
		}
	})
	e.onClaim(func(n int, r activities.ClaimRequest) []relay.Batch {
		if r.Batches < 1 || r.Batches > 8 || r.PerTopic != 2 {
			t.Errorf("a claim asks for %d batches, %d a topic; want at most 8, and a quarter a topic", r.Batches, r.PerTopic)
		}
		var batches []relay.Batch
		for i := range r.Batches {
			batches = append(batches, batch(fmt.Sprint("topic", (n+i)%4), n*100+i))
		}
		return batches
	})
	e.onPublish(2500*time.Millisecond, published)
	r := e.run(workflows.RelayInput{Slots: 8, RunFor: 30 * time.Second})
	require.Equal(t, 8, most)
	require.Greater(t, r.Batches, 50)
}

func TestRelay_WaitsForItsLastBatches(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("orders", 1))
	e.onPublish(2*time.Second+workflows.DrainFor/2, published)
	r := e.run(workflows.RelayInput{RunFor: 2 * time.Second})
	require.Equal(t, 10, r.Published)
	require.Zero(t, r.Cancelled)
}

func TestRelay_CancelsAndReleasesBatchesThatStillFailAtItsEnd(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("broken", 1), batch("orders", 1))
	e.onPublish(time.Millisecond, func(r activities.PublishRequest) (activities.PublishResult, error) {
		if r.Batch.Topic == "broken" {
			return activities.PublishResult{}, temporal.NewApplicationError("broken: 10 of 10 left: no", "NotFound")
		}
		return published(r)
	})
	var released []string
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(func(_ context.Context, b relay.Batch) error {
		released = append(released, b.Topic)
		return nil
	})
	began := e.Now()
	r := e.run(workflows.RelayInput{RunFor: 20 * time.Second})
	require.Equal(t, workflows.RelayResult{
		Published: 10, Batches: 1, Cancelled: 1,
		Topics: []workflows.TopicResult{{Topic: "orders", Published: 10, Batches: 1}},
	}, r)
	require.Equal(t, []string{"broken"}, released)
	require.Equal(t, 20*time.Second+workflows.DrainFor, e.Now().Sub(began))
	require.Greater(t, len(e.began), 5, "the run retried the batch until then")
}

func TestRelay_RetriesARefusedBatchUntilItSucceeds(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("orders", 1))
	e.onPublish(time.Millisecond, func(r activities.PublishRequest) (activities.PublishResult, error) {
		if len(e.began) < 6 {
			return activities.PublishResult{}, temporal.NewApplicationError("orders: 10 of 10 left: no", "Throttled")
		}
		return published(r)
	})
	require.Equal(t, 10, e.run(workflows.RelayInput{}).Published)
}

func TestRelay_CountsABatchThatAnotherClaimHasAsLost(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("orders", 1), batch("orders", 2))
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		if r.Batch.ClaimID == "orders1" {
			return activities.PublishResult{}, temporal.NewNonRetryableApplicationError("lost", activities.TypeClaimLost, nil)
		}
		return published(r)
	})
	r := e.run(workflows.RelayInput{RunFor: 10 * time.Second})
	require.Equal(t, 1, r.Lost)
	require.Equal(t, 10, r.Published)
}

func TestRelay_ContinuesAsNewWithTheSameDeadlineIfItsHistoryIsLong(t *testing.T) {
	e := newEnv(t)
	began := e.Now()
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch { return []relay.Batch{batch("orders", n)} })
	e.RegisterDelayedCallback(func() { e.SetCurrentHistoryLength(2_000) }, 2500*time.Millisecond)
	e.onPublish(time.Second, published)
	e.ExecuteWorkflow(workflows.Relay, workflows.RelayInput{Slots: 8})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, e.GetWorkflowError(), &again)
	require.Len(t, e.claims, 3)
	require.Len(t, e.began, 3, "the run publishes its batches first")

	var in workflows.RelayInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &in))
	require.WithinDuration(t, began.Add(workflows.RunFor), in.Before.Deadline, 0)
	require.Equal(t, 30, in.Before.Result.Published)
	require.Equal(t, 8, in.Slots)

	next := newEnv(t)
	next.SetStartTime(in.Before.Deadline.Add(-10 * time.Second))
	next.claimOnce(batch("orders", 4))
	next.onPublish(time.Second, published)
	require.Equal(t, 40, next.run(in).Published, "the result covers the whole chain")
	require.WithinDuration(t, in.Before.Deadline, next.Now(), time.Second)
}

// The next run begins when all batches have ended, so they end at the same time.
func TestRelay_PlansItsEndBeforeItsHistoryIsTooLong(t *testing.T) {
	e := newEnv(t)
	began := e.Now()
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch { return []relay.Batch{batch("orders", n)} })
	e.RegisterDelayedCallback(func() { e.SetCurrentHistoryLength(800) }, 2500*time.Millisecond)
	var lasts []time.Duration
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		lasts = append(lasts, r.For)
		return published(r)
	})
	e.ExecuteWorkflow(workflows.Relay, workflows.RelayInput{})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, e.GetWorkflowError(), &again)
	require.Equal(t, workflows.BatchFor, lasts[0])
	for i := 4; i < len(lasts); i++ {
		require.Less(t, lasts[i], lasts[i-1], "later batches end at the same time")
	}
	require.GreaterOrEqual(t, len(e.claims), 7, "the run claims meanwhile")
	require.Less(t, e.Now().Sub(began), 2500*time.Millisecond+workflows.BatchFor+3*time.Second)
}

// Another decision than the recorded one ends a run that is under way when its worker is replaced.
func TestRelay_OfAnEarlierVersionMayHaveALongHistory(t *testing.T) {
	e := newEnv(t)
	e.OnGetVersion("short-history", workflow.DefaultVersion, 1).Return(workflow.DefaultVersion)
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch { return []relay.Batch{batch("orders", n)} })
	e.RegisterDelayedCallback(func() { e.SetCurrentHistoryLength(19_999) }, 2500*time.Millisecond)
	e.RegisterDelayedCallback(func() { e.SetCurrentHistoryLength(20_000) }, 30500*time.Millisecond)
	e.onPublish(time.Second, published)
	e.ExecuteWorkflow(workflows.Relay, workflows.RelayInput{})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, e.GetWorkflowError(), &again)
	require.Len(t, e.claims, 31)
}

func TestRelay_ReleasesItsBatchesAndEndsAsCancelledWhenCancelled(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("orders", 1))
	e.onPublish(time.Hour, published)
	var released []string
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(func(_ context.Context, b relay.Batch) error {
		released = append(released, b.Topic)
		return nil
	})
	e.RegisterDelayedCallback(e.CancelWorkflow, 5*time.Second)
	e.ExecuteWorkflow(workflows.Relay, workflows.RelayInput{})
	require.True(t, temporal.IsCanceledError(e.GetWorkflowError()), "%v", e.GetWorkflowError())
	require.Equal(t, []string{"orders"}, released)
}
