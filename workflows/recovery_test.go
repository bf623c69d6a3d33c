package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// refused returns a failure of PublishBatch that starts a recovery.
func refused() error {
	return temporal.NewApplicationErrorWithOptions("orders: 10 of 10 left: AuthorizationError: not you", "AuthorizationError",
		temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{activities.PublishResult{Published: 3, Dead: 1}}})
}

// onResume records the requests to resume topics.
func (e *env) onResume() *[]activities.TopicRequest {
	var resumed []activities.TopicRequest
	e.OnActivity(act.ResumeTopic, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.TopicRequest) error {
		resumed = append(resumed, r)
		return nil
	})
	return &resumed
}

func (e *env) recover() (r workflows.RecoveryResult) {
	e.t.Helper()
	e.ExecuteWorkflow(workflows.Recovery, workflows.RecoveryInput{Batch: batch("orders", 1), Concurrency: 4, Reason: "AuthorizationError: not you"})
	require.True(e.t, e.IsWorkflowCompleted())
	require.NoError(e.t, e.GetWorkflowError())
	require.NoError(e.t, e.GetWorkflowResult(&r))
	return r
}

func TestRecovery_EndsWhenAnOperatorPausesItsTopic(t *testing.T) {
	e := newEnv(t)
	e.onPublish(time.Second, func(activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{Published: 3, PausedBy: "ada"}, nil
	})
	resumed := e.onResume()
	r := e.recover()
	require.Equal(t, "ada", r.Paused)
	require.Equal(t, 3, r.Published, "by earlier attempts")
	require.Len(t, *resumed, 1, "claims may take the topic when the operator resumes it")
}

func TestRelay_HandsAFailedBatchToARecoveryAndContinues(t *testing.T) {
	e := newEnv(t)
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch {
		return []relay.Batch{batch([]string{"orders", "audit"}[n%2], n)}
	})
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		if r.Batch.ClaimID == "audit1" {
			return activities.PublishResult{}, refused()
		}
		return published(r)
	})
	var children []workflows.RecoveryInput
	e.OnWorkflow(workflows.Recovery, mock.Anything, mock.Anything).Return(
		func(_ workflow.Context, in workflows.RecoveryInput) (workflows.RecoveryResult, error) {
			children = append(children, in)
			return workflows.RecoveryResult{}, nil
		})
	r := e.run(workflows.RelayInput{RunFor: 20 * time.Second})
	require.Equal(t, 1, r.Recovering)
	require.Equal(t, 1, r.Dead)
	require.Equal(t, 3, r.Topics[0].Published%10, "events that were published before count")
	require.Greater(t, r.Topics[1].Published, 50)
	require.Len(t, children, 1)
	require.Equal(t, "audit1", children[0].Batch.ClaimID)
	require.Equal(t, "orders: AuthorizationError: not you", children[0].Reason, "without the number of events, because it changes")
}

func TestRelay_ReleasesABatchWhoseTopicIsInRecoveryAlready(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(batch("orders", 1), batch("orders", 2))
	e.onPublish(time.Second, func(activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{}, refused()
	})
	e.OnWorkflow(workflows.Recovery, mock.Anything, mock.Anything).After(time.Hour).Return(workflows.RecoveryResult{}, nil)
	var released []string
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(func(_ context.Context, b relay.Batch) error {
		released = append(released, b.ClaimID)
		return nil
	})
	require.Equal(t, 2, e.run(workflows.RelayInput{RunFor: 20 * time.Second}).Recovering)
	require.Len(t, released, 1)
}

func TestRelay_SlowBatchesLeaveTheirSlotsToOthers(t *testing.T) {
	e := newEnv(t)
	e.onClaim(func(n int, r activities.ClaimRequest) []relay.Batch {
		if n == 1 {
			return []relay.Batch{batch("hangs", 1), batch("hangs", 2)}
		}
		return []relay.Batch{batch("orders", n)}
	})
	e.OnActivity(act.PublishBatch, mock.Anything, mock.MatchedBy(func(r activities.PublishRequest) bool { return r.Batch.Topic == "hangs" })).
		After(90*time.Second).Return(activities.PublishResult{}, nil)
	e.onPublish(time.Second, published)
	r := e.run(workflows.RelayInput{Slots: 2})
	require.Equal(t, "orders", r.Topics[1].Topic)
	require.Greater(t, r.Topics[1].Batches, 20)
}

func TestRelay_GivesAThrottledTopicFewerRequests(t *testing.T) {
	e := newEnv(t)
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch { return []relay.Batch{batch("orders", n)} })
	var concurrency []int
	e.onPublish(time.Millisecond, func(r activities.PublishRequest) (activities.PublishResult, error) {
		concurrency = append(concurrency, r.Concurrency)
		return activities.PublishResult{Throttled: map[bool]int{true: 1}[len(concurrency) == 1]}, nil
	})
	e.run(workflows.RelayInput{RunFor: 6 * time.Second, Concurrency: 8})
	require.Equal(t, []int{8, 4, 5, 6, 7}, concurrency[:5])
}

func TestRelay_LeavesTheRequestsToTheLimiterUnlessANumberIsGiven(t *testing.T) {
	for given, want := range map[int]activities.PublishRequest{
		0: {FindLevel: true, Concurrency: 4}, // 4 is for workers of an earlier version
		4: {Concurrency: 4},
		9: {Concurrency: 9},
	} {
		e := newEnv(t)
		e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch { return []relay.Batch{batch("orders", n)} })
		e.onPublish(time.Millisecond, func(r activities.PublishRequest) (activities.PublishResult, error) {
			require.Equal(t, want.FindLevel, r.FindLevel)
			require.Equal(t, want.Concurrency, r.Concurrency)
			return activities.PublishResult{}, nil
		})
		e.run(workflows.RelayInput{RunFor: time.Second, Concurrency: given})
	}
}

func TestRecovery_RetriesUntilItsBatchSucceedsAndResumesItsTopic(t *testing.T) {
	e := newEnv(t)
	resumed := e.onResume()
	attempts := 0
	began := e.Now()
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		require.True(t, r.Recovering)
		require.Equal(t, "default-test-workflow-id", r.RecoveryID)
		if attempts++; attempts < 8 {
			return activities.PublishResult{}, temporal.NewApplicationError("not you", "AuthorizationError")
		}
		return activities.PublishResult{Published: 10}, nil
	})
	r := e.recover()
	require.Equal(t, 10, r.Published)
	require.Greater(t, e.Now().Sub(began), 2*time.Minute, "at growing intervals")
	require.Equal(t, []activities.TopicRequest{{Topic: "orders", RecoveryID: "default-test-workflow-id"}}, *resumed)
}

func TestRecovery_EndsAndResumesItsTopicIfAnotherClaimHasItsBatch(t *testing.T) {
	e := newEnv(t)
	resumed := e.onResume()
	e.onPublish(time.Second, func(activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{}, temporal.NewNonRetryableApplicationError("lost", activities.TypeClaimLost, nil)
	})
	require.True(t, e.recover().Lost)
	require.Len(t, *resumed, 1)
}

func TestPark_MakesDeadLettersUntilNoEventFails(t *testing.T) {
	e := newEnv(t)
	resumed := e.onResume()
	parks := 0
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		if !r.Park {
			return activities.PublishResult{}, temporal.NewApplicationError("not you", "AuthorizationError")
		}
		if parks++; parks == 3 {
			return activities.PublishResult{Published: 4}, nil
		}
		return activities.PublishResult{Published: 1, Dead: 250}, nil
	})
	var result workflows.ParkResult
	e.RegisterDelayedCallback(func() {
		e.UpdateWorkflow(workflows.UpdatePark, "", &updates{onComplete: func(v any, err error) {
			require.NoError(t, err)
			result = v.(workflows.ParkResult)
		}}, workflows.ParkRequest{By: "ann", Reason: "the queue is gone for good"})
	}, 20*time.Second)
	r := e.recover()
	require.Equal(t, "ann", r.Parked)
	require.Equal(t, 500, r.Dead)
	require.Equal(t, workflows.ParkResult{Published: 6, Dead: 500, State: workflows.StateParked}, result)
	require.Len(t, *resumed, 1)
}

func TestPark_RefusesARequestWithoutAName(t *testing.T) {
	e := newEnv(t)
	e.onResume()
	attempts := 0
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		require.False(t, r.Park)
		if attempts++; attempts < 10 {
			return activities.PublishResult{}, temporal.NewApplicationError("not you", "AuthorizationError")
		}
		return activities.PublishResult{}, nil
	})
	var rejected error
	e.RegisterDelayedCallback(func() {
		e.UpdateWorkflow(workflows.UpdatePark, "", &updates{onReject: func(err error) { rejected = err }}, workflows.ParkRequest{})
	}, 10*time.Second)
	e.recover()
	require.ErrorContains(t, rejected, "name the person who parks")
}

func TestRecovery_ReleasesItsLanesAndResumesItsTopicWhenCancelled(t *testing.T) {
	e := newEnv(t)
	resumed := e.onResume()
	e.onPublish(time.Second, func(activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{}, errors.New("away")
	})
	released := 0
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(func(context.Context, relay.Batch) error {
		released++
		return nil
	})
	e.RegisterDelayedCallback(e.CancelWorkflow, time.Minute)
	e.ExecuteWorkflow(workflows.Recovery, workflows.RecoveryInput{Batch: batch("orders", 1)})
	require.True(t, temporal.IsCanceledError(e.GetWorkflowError()), "%v", e.GetWorkflowError())
	require.Equal(t, 1, released)
	require.Len(t, *resumed, 1)
}

// updates takes the answers to an update.
type updates struct {
	onComplete func(any, error)
	onReject   func(error)
}

func (u *updates) Accept() {}

func (u *updates) Reject(err error) {
	if u.onReject != nil {
		u.onReject(err)
	}
}

func (u *updates) Complete(v any, err error) {
	if u.onComplete != nil {
		u.onComplete(v, err)
	}
}
