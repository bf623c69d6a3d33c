package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/workflows"
)

func seat(id string) relay.Batch { return relay.Batch{ClaimID: id, Shared: true} }

// onSeat lets a seat last for the time that it is given, and batches end at once.
func (e *env) onSeat(end func(r activities.PublishRequest) (activities.PublishResult, error)) *[]activities.PublishRequest {
	var asked []activities.PublishRequest
	e.OnActivity(act.PublishBatch, mock.Anything, mock.MatchedBy(func(r activities.PublishRequest) bool { return r.Batch.Shared })).
		Return(func(_ context.Context, r activities.PublishRequest) (activities.PublishResult, error) {
			e.mu.Lock()
			asked = append(asked, r)
			e.mu.Unlock()
			return end(r)
		})
	return &asked
}

func TestSeat_LastsForTheRestOfTheRunAndHeartbeatsRarely(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(seat("a"))
	var info activity.Info
	e.SetOnActivityStartedListener(func(i *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if i.ActivityType.Name == "PublishBatch" {
			info = *i
		}
	})
	asked := e.onSeat(func(activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{
			Published: 40, MoreTopics: 1,
			Topics: []activities.TopicCount{{Topic: "orders", Published: 30}, {Topic: "audit", Published: 8}},
		}, nil
	})
	r := e.run(workflows.RelayInput{RunFor: 100 * time.Second})
	require.Len(t, *asked, 1)
	require.Equal(t, 99*time.Second, (*asked)[0].For)
	require.Equal(t, timing.SeatHeartbeatTimeout, info.HeartbeatTimeout)
	require.Equal(t, workflows.RelayResult{
		Published: 40, Topics: []workflows.TopicResult{{Topic: "audit", Published: 8}, {Topic: "orders", Published: 30}},
	}, r, "a seat is no batch")
}

func TestSeat_ThatFailsOrLosesItsWorkerCountsAsNothing(t *testing.T) {
	for name, failure := range map[string]error{
		"not retried":             temporal.NewNonRetryableApplicationError("no", "Any", nil),
		"of an earlier version":   temporal.NewNonRetryableApplicationError("lost", activities.TypeClaimLost, nil),
		"retried and not ended":   errors.New("refused"),
		"ended by its own worker": temporal.NewCanceledError(),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.claimOnce(seat("a"))
			e.onSeat(func(activities.PublishRequest) (activities.PublishResult, error) {
				return activities.PublishResult{}, failure
			})
			e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(nil)
			require.Equal(t, workflows.RelayResult{}, e.run(workflows.RelayInput{RunFor: 10 * time.Second}))
		})
	}
}

func TestSeat_OfADeadWorkerDelaysTheEndOfARunByASecondAtMost(t *testing.T) {
	e := newEnv(t)
	e.claimOnce(seat("a"))
	e.OnActivity(act.PublishBatch, mock.Anything, mock.Anything).After(time.Hour).Return(activities.PublishResult{}, nil)
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(nil)
	began := e.Now()
	e.run(workflows.RelayInput{RunFor: 20 * time.Second})
	require.LessOrEqual(t, e.Now().Sub(began), 20*time.Second+workflows.DrainFor+time.Second)
}

// Earlier versions count a seat as a batch. A run that both decide about must not differ.
func TestSeat_TakesASlotUntilItIsSlowAsABatchDoes(t *testing.T) {
	e := newEnv(t)
	var at []time.Time
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch {
		at = append(at, e.Now())
		if n == 1 {
			return []relay.Batch{seat("a"), seat("b")}
		}
		return nil
	})
	e.OnActivity(act.PublishBatch, mock.Anything, mock.Anything).After(28*time.Second).Return(activities.PublishResult{}, nil)
	e.run(workflows.RelayInput{Slots: 2, RunFor: 30 * time.Second})
	require.Equal(t, timing.BatchSlow+time.Second, at[1].Sub(at[0]))
	require.Equal(t, time.Second, at[2].Sub(at[1]))
}

func TestSeat_DoesNotDelayARunThatContinuesAsNew(t *testing.T) {
	e := newEnv(t)
	e.onClaim(func(n int, _ activities.ClaimRequest) []relay.Batch {
		if n == 1 {
			return []relay.Batch{seat("a")}
		}
		return []relay.Batch{batch("orders", n)}
	})
	e.RegisterDelayedCallback(func() { e.SetCurrentHistoryLength(2_000) }, 3500*time.Millisecond)
	e.OnActivity(act.PublishBatch, mock.Anything, mock.MatchedBy(func(r activities.PublishRequest) bool { return r.Batch.Shared })).
		After(time.Hour).Return(activities.PublishResult{}, nil)
	e.onPublish(time.Second, published)
	e.OnActivity(act.ReleaseBatch, mock.Anything, mock.Anything).Return(nil)
	began := e.Now()
	e.ExecuteWorkflow(workflows.Relay, workflows.RelayInput{})
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, e.GetWorkflowError(), &again)
	require.LessOrEqual(t, e.Now().Sub(began), 5*time.Second)
	var in workflows.RelayInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &in))
	require.Zero(t, in.Before.Result.Cancelled)
	require.Equal(t, 30, in.Before.Result.Published)
}

func TestRelay_AddsWhatClaimsTellOfSharesToItsResult(t *testing.T) {
	e := newEnv(t)
	e.OnActivity(act.ClaimBatches, mock.Anything, mock.Anything).After(4*time.Second).Return(
		activities.ClaimResult{Published: []activities.TopicCount{{Topic: "orders", Published: 5}, {Topic: "audit", Published: 1}}}, nil)
	require.Equal(t, workflows.RelayResult{
		Published: 12, Topics: []workflows.TopicResult{{Topic: "audit", Published: 2}, {Topic: "orders", Published: 10}},
	}, e.run(workflows.RelayInput{RunFor: 8 * time.Second}))
}
