package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/workflows"
)

// onParking answers rounds of parking like a worker whose topic has traffic. Each round gives up a page.
// The round after the given number finds no more events that were pending when parking began.
// onParking returns the requests.
func (e *env) onParking(rounds int) *[]activities.PublishRequest {
	var asked []activities.PublishRequest
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		if !r.Park {
			return activities.PublishResult{}, temporal.NewApplicationError("not you", "AuthorizationError")
		}
		asked = append(asked, r)
		switch {
		case len(asked) > rounds+100:
			return activities.PublishResult{}, temporal.NewNonRetryableApplicationError("parking does not end", "Endless", nil)
		case r.Bound:
			return activities.PublishResult{ParkUpTo: 500, More: true}, nil
		case len(asked) <= rounds:
			return activities.PublishResult{Published: 1, Dead: 250, ParkUpTo: r.ParkUpTo, More: true}, nil
		}
		return activities.PublishResult{Dead: 3, ParkUpTo: r.ParkUpTo}, nil
	})
	return &asked
}

// parkAfter sends the update after d, and returns a pointer to the later answer.
func (e *env) parkAfter(d time.Duration, p workflows.ParkRequest) *workflows.ParkResult {
	answer := &workflows.ParkResult{}
	e.RegisterDelayedCallback(func() {
		e.UpdateWorkflow(workflows.UpdatePark, "", &updates{onComplete: func(v any, err error) {
			require.NoError(e.t, err)
			*answer = v.(workflows.ParkResult)
		}}, p)
	}, d)
	return answer
}

func TestPark_EndsAtTheEventsThatWerePendingWhenItBegan(t *testing.T) {
	e := newEnv(t)
	resumed := e.onResume()
	asked := e.onParking(3)
	answer := e.parkAfter(20*time.Second, workflows.ParkRequest{By: "ann", Reason: "gone"})
	r := e.recover()
	require.Len(t, *asked, 4)
	require.True(t, (*asked)[0].Bound, "the bound is known before anything is given up")
	for _, round := range (*asked)[1:] {
		require.False(t, round.Bound)
		require.EqualValues(t, 500, round.ParkUpTo, "and is fixed once")
	}
	require.Equal(t, 503, r.Dead)
	require.Equal(t, workflows.ParkResult{Published: 2, Dead: 503, State: workflows.StateParked}, *answer)
	require.Equal(t, "parked: 2 published, 503 dead letters", answer.Outcome())
	require.Len(t, *resumed, 1)
}

// The answer to the update asks for the same update again, because no update outlives its run.
func TestPark_ContinuesAsNewWithoutLossIfItsHistoryIsLong(t *testing.T) {
	e := newEnv(t)
	resumed := e.onResume()
	asked := e.onParking(1000)
	e.RegisterDelayedCallback(func() { e.SetCurrentHistoryLength(2_000) }, 24*time.Second)
	first := e.parkAfter(20*time.Second, workflows.ParkRequest{By: "ann", Reason: "gone", Operation: 17})
	began := e.Now()
	e.ExecuteWorkflow(workflows.Recovery, workflows.RecoveryInput{Batch: batch("orders", 1), Concurrency: 4, Reason: "AuthorizationError: not you"})
	require.True(t, e.IsWorkflowCompleted())
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, e.GetWorkflowError(), &next)
	require.True(t, first.GoesOn, "the update is answered")
	require.Positive(t, first.Dead)
	var in workflows.RecoveryInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	require.Equal(t, batch("orders", 1), in.Batch)
	require.EqualValues(t, 500, in.Before.ParkUpTo)
	require.Equal(t, &workflows.ParkRequest{By: "ann", Reason: "gone", Operation: 17}, in.Before.Park)
	require.Equal(t, first.Dead, in.Before.Result.Dead)
	require.WithinDuration(t, began, in.Before.Began, time.Second)
	require.Empty(t, *resumed, "claims still leave the topic out")
	before := len(*asked)
	require.Equal(t, 250*(before-1), first.Dead)

	e = newEnv(t)
	resumed = e.onResume()
	ends := e.onEnd()
	asked = e.onParking(2)
	second := e.parkAfter(time.Second/2, workflows.ParkRequest{By: "ann", Reason: "gone", Operation: 17})
	e.ExecuteWorkflow(workflows.Recovery, in)
	require.NoError(t, e.GetWorkflowError())
	for _, round := range *asked {
		require.False(t, round.Bound)
		require.EqualValues(t, 500, round.ParkUpTo)
	}
	require.Equal(t, workflows.ParkResult{Published: before + 1, Dead: first.Dead + 503, State: workflows.StateParked}, *second)
	require.Len(t, *ends, 1)
	require.Len(t, *resumed, 1)
	var r workflows.RecoveryResult
	require.NoError(t, e.GetWorkflowResult(&r))
	require.Equal(t, "ann", r.Parked)
	require.Equal(t, e.Now().Sub(in.Before.Began).Round(time.Second).String(), r.Lasted, "since it began, not since it continued")
}

// onEnd records the requests to end operations.
func (e *env) onEnd() *[]activities.EndRequest {
	var ends []activities.EndRequest
	e.OnActivity(act.EndOperation, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.EndRequest) (activities.OperateResult, error) {
		ends = append(ends, r)
		return activities.OperateResult{}, nil
	})
	return &ends
}

func TestPark_RecordsItsEndEvenIfNoCommandWaits(t *testing.T) {
	e := newEnv(t)
	e.onResume()
	ends := e.onEnd()
	e.onParking(3)
	e.parkAfter(20*time.Second, workflows.ParkRequest{By: "ann", Reason: "gone"}) // from the UI
	e.parkAfter(21*time.Second, workflows.ParkRequest{By: "bob", Reason: "gone", Operation: 17})
	r := e.recover()
	require.Equal(t, "ann", r.Parked, "the first")
	require.Equal(t, []activities.EndRequest{{Operation: 17, Outcome: "parked: 2 published, 503 dead letters", Done: 503}}, *ends)
}

func TestPark_ReportsThatTheDestinationRecoveredFirst(t *testing.T) {
	e := newEnv(t)
	e.OnActivity(act.ResumeTopic, mock.Anything, mock.Anything).After(time.Minute).Return(nil)
	e.onPublish(time.Second, func(r activities.PublishRequest) (activities.PublishResult, error) {
		require.False(t, r.Park)
		return activities.PublishResult{Published: 10}, nil
	})
	answer := e.parkAfter(30*time.Second, workflows.ParkRequest{By: "ann", Reason: "gone", Operation: 17})
	r := e.recover()
	require.Equal(t, workflows.RecoveryResult{Published: 10, Lasted: r.Lasted}, r, "not parked")
	require.Equal(t, workflows.ParkResult{Published: 10, State: workflows.StateRecovered}, *answer)
}

func TestPark_ReportsTheStateInWhichTheRecoveryEnded(t *testing.T) {
	for state, says := range map[string]string{
		"":                       "parked: 3 published, 4 dead letters", // of an earlier version
		workflows.StateParked:    "parked: 3 published, 4 dead letters",
		workflows.StateLost:      "lost to another claim before all events were parked: 3 published, 4 dead letters",
		workflows.StateCancelled: "cancelled before all events were parked: 3 published, 4 dead letters",
		workflows.StateFailed:    "failed before all events were parked: 3 published, 4 dead letters",
		workflows.StateRecovered: "not parked, because the destination recovered first: 3 published, 4 dead letters",
	} {
		require.Equal(t, says, workflows.ParkResult{Published: 3, Dead: 4, State: state}.Outcome())
	}
}
