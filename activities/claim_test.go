package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/relay"
)

var someBatches = []relay.Batch{{Topic: "orders", ClaimID: "c", Lanes: []int16{1}, Events: 3}}

func (e *env) claim(t *testing.T, wait time.Duration) (r ClaimResult, err error) {
	t.Helper()
	v, err := e.ExecuteActivity(e.ClaimBatches, ClaimRequest{Batches: 4, PerTopic: 2, Wait: wait})
	if err == nil {
		require.NoError(t, v.Get(&r))
	}
	return r, err
}

func TestClaimBatches_AnswersAsSoonAsAnEventIsPending(t *testing.T) {
	e := newEnv(t)
	e.store.claim = func(n int) ([]relay.Batch, error) {
		if n < 5 {
			return nil, nil
		}
		return someBatches, nil
	}
	r, err := e.claim(t, time.Hour)
	require.NoError(t, err)
	require.Equal(t, someBatches, r.Batches)
	require.Equal(t, 5, e.store.claims)
}

func TestClaimBatches_AnswersWithNothingWhenItsWaitIsOver(t *testing.T) {
	e := newEnv(t)
	r, err := e.claim(t, 50*time.Millisecond)
	require.NoError(t, err)
	require.Empty(t, r.Batches)
	require.Greater(t, e.store.claims, 1)
}

func TestClaimBatches_LooksOnceWithoutTimeToWait(t *testing.T) {
	e := newEnv(t)
	e.store.claim = func(int) ([]relay.Batch, error) { return someBatches, nil }
	r, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Equal(t, someBatches, r.Batches)
}

func TestClaimBatches_EndsAtOnceWhenItsWorkerStops(t *testing.T) {
	e := newEnv(t)
	stop := make(chan struct{})
	e.SetWorkerStopChannel(stop)
	e.store.claim = func(n int) ([]relay.Batch, error) {
		if n == 3 {
			close(stop)
		}
		return nil, nil
	}
	r, err := e.claim(t, time.Hour)
	require.NoError(t, err)
	require.Empty(t, r.Batches)
}

func TestClaimBatches_PollsForAtMostAFifthOfTheTime(t *testing.T) {
	e := newEnv(t)
	const looking = 20 * time.Millisecond // a database with very many topics
	e.store.claim = func(int) ([]relay.Batch, error) {
		time.Sleep(looking)
		return nil, nil
	}
	began := time.Now()
	_, err := e.claim(t, 500*time.Millisecond)
	require.NoError(t, err)
	share := float64(e.store.claims) * float64(looking) / float64(time.Since(began)+pollShare*looking)
	require.LessOrEqual(t, share, 1.0/pollShare)
}

func TestClaimBatches_FailsForTemporalToRetryWhenTheDatabaseIsAway(t *testing.T) {
	e := newEnv(t)
	e.store.claim = func(int) ([]relay.Batch, error) { return nil, errAway }
	_, err := e.claim(t, time.Hour)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeDatabase, failure.Type())
	require.False(t, failure.NonRetryable())
}

func TestClaimBatches_AnswersARetryWithTheClaimOfTheFirstAttempt(t *testing.T) {
	e := newEnv(t)
	e.store.claim = func(int) ([]relay.Batch, error) {
		e.store.earlier = someBatches // it claims, and its answer is lost
		return nil, errAway
	}
	var suite testsuite.WorkflowTestSuite
	w := suite.NewTestWorkflowEnvironment()
	w.RegisterActivity(e.Activities)
	w.ExecuteWorkflow(func(ctx workflow.Context) (r ClaimResult, err error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
		err = workflow.ExecuteActivity(ctx, e.ClaimBatches, ClaimRequest{Batches: 1, Wait: time.Hour}).Get(ctx, &r)
		return r, err
	})
	var r ClaimResult
	require.NoError(t, w.GetWorkflowResult(&r))
	require.Equal(t, someBatches, r.Batches)
	require.Equal(t, 1, e.store.claims, "the retry claims nothing more")
}
