package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// operate runs an operation whose activity answers with answers, one after the other.
func (e *env) operate(kind string, answers ...any) (r workflows.OperationResult, asked []activities.OperateRequest, ended activities.EndRequest, err error) {
	e.t.Helper()
	return e.runOperation(workflows.OperationInput{Operation: 7, Kind: kind, Topic: "orders", Matched: 30, PerSecond: 50}, answers...)
}

func (e *env) runOperation(in workflows.OperationInput, answers ...any) (r workflows.OperationResult, asked []activities.OperateRequest, ended activities.EndRequest, err error) {
	e.t.Helper()
	e.RegisterWorkflow(workflows.Operation)
	do := map[string]any{relay.Redrive: act.Redrive, relay.Discard: act.Discard, relay.Replay: act.Replay}[in.Kind]
	last := activities.OperateResult{}
	if do != nil {
		e.OnActivity(do, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.OperateRequest) (activities.OperateResult, error) {
			asked = append(asked, r)
			answer := answers[min(len(asked), len(answers))-1]
			if err, ok := answer.(error); ok {
				return last, err
			}
			last = answer.(activities.OperateResult)
			return last, nil
		})
	}
	e.OnActivity(act.EndOperation, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.EndRequest) (activities.OperateResult, error) {
		ended = r
		return activities.OperateResult{Done: last.Done, Over: true}, nil
	})
	e.ExecuteWorkflow(workflows.Operation, in)
	err = e.GetWorkflowError()
	if err == nil {
		require.NoError(e.t, e.GetWorkflowResult(&r))
	}
	return r, asked, ended, err
}

func TestOperation_ContinuesUntilAllEventsAreMovedAndRecordsItsEnd(t *testing.T) {
	for _, kind := range []string{relay.Redrive, relay.Discard, relay.Replay} {
		r, asked, ended, err := newEnv(t).operate(kind, activities.OperateResult{Done: 10}, errors.New("the database was away"),
			activities.OperateResult{Done: 20}, activities.OperateResult{Done: 30, Over: true})
		require.NoError(t, err)
		require.EqualValues(t, 30, r.Done)
		require.Len(t, asked, 4)
		require.Equal(t, activities.OperateRequest{Operation: 7, PerSecond: 50, For: workflows.OperateFor}, asked[0])
		require.Equal(t, activities.EndRequest{Operation: 7, Outcome: "done", Moved: 30}, ended)
	}
}

// A restore replaced the database by an earlier state before the end was recorded.
func TestOperation_ContinuesIfItsRecordDiffersFromItsLastAttempt(t *testing.T) {
	e := newEnv(t)
	began := e.Now()
	e.OnActivity(act.EndOperation, mock.Anything, activities.EndRequest{Operation: 7, Outcome: "done", Holder: "first", Moved: 30}).
		Return(activities.OperateResult{Done: 10, Again: true}, nil).Once()
	r, asked, ended, err := e.operate(relay.Replay, activities.OperateResult{Done: 30, Over: true, Holder: "first"}, activities.OperateResult{Done: 29, Over: true})
	require.NoError(t, err)
	require.Len(t, asked, 2)
	require.Equal(t, activities.EndRequest{Operation: 7, Outcome: "done", Moved: 29}, ended, "a worker of an earlier version gives no holder")
	require.EqualValues(t, 29, r.Done)
	require.GreaterOrEqual(t, e.Now().Sub(began), time.Second, "the operation waits before it tries again")
}

// The worker reads two databases in turn.
func TestOperation_ContinuesAsNewIfItsEndCannotBeRecorded(t *testing.T) {
	e := newEnv(t)
	e.SetCurrentHistoryLength(2_000)
	e.OnActivity(act.EndOperation, mock.Anything, mock.Anything).Return(activities.OperateResult{Again: true}, nil)
	_, _, _, err := e.operate(relay.Replay, activities.OperateResult{Done: 30, Over: true})
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, err, &next)
}

// An answer without a wait must not inherit the wait of the answer before.
func TestOperation_WaitsOnlyIfItsLastAnswerAsksForAWait(t *testing.T) {
	e := newEnv(t)
	began := e.Now()
	_, _, _, err := e.operate(relay.Replay, activities.OperateResult{Done: 1, Wait: time.Hour}, activities.OperateResult{Done: 2}, activities.OperateResult{Done: 3, Over: true})
	require.NoError(t, err)
	require.Less(t, e.Now().Sub(began), 2*time.Hour)
}

func TestOperation_CancelledWhileItsHistoryIsLongEnds(t *testing.T) {
	e := newEnv(t)
	e.SetCurrentHistoryLength(2_000)
	e.OnActivity(act.EndOperation, mock.Anything, mock.Anything).Return(func(context.Context, activities.EndRequest) (activities.OperateResult, error) {
		e.CancelWorkflow()
		return activities.OperateResult{Again: true}, nil
	}).Once()
	_, _, ended, err := e.operate(relay.Replay, activities.OperateResult{Done: 30, Over: true})
	require.True(t, temporal.IsCanceledError(err), err)
	require.Equal(t, "cancelled", ended.Outcome)
}

// A long operation has several runs, so that no history is too long.
func TestOperation_CountsItsDurationFromItsFirstRun(t *testing.T) {
	begin := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	first := newEnv(t)
	first.SetStartTime(begin)
	first.SetCurrentHistoryLength(2_000)
	_, _, ended, err := first.operate(relay.Replay, activities.OperateResult{Done: 10})
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, err, &next)
	require.Zero(t, ended, "it goes on")
	var in workflows.OperationInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	require.Equal(t, workflows.OperationInput{Operation: 7, Kind: relay.Replay, Topic: "orders", Matched: 30, PerSecond: 50, Began: begin}, in)

	second := newEnv(t)
	second.SetStartTime(begin.Add(time.Hour))
	r, _, _, err := second.runOperation(in, activities.OperateResult{Done: 30, Over: true})
	require.NoError(t, err)
	require.Equal(t, "1h0m0s", r.Lasted)
}

func TestOperation_RecordsThatItWasCancelled(t *testing.T) {
	e := newEnv(t)
	e.RegisterDelayedCallback(e.CancelWorkflow, 10*time.Second)
	_, _, ended, err := e.operate(relay.Redrive, temporal.NewCanceledError())
	require.True(t, temporal.IsCanceledError(err))
	require.Equal(t, "cancelled", ended.Outcome)
}

func TestOperation_FailsAtOnceIfItIsOverOrUnknown(t *testing.T) {
	over := temporal.NewNonRetryableApplicationError("the operation is over", activities.TypeOperationOver, nil)
	_, asked, ended, err := newEnv(t).operate(relay.Redrive, over)
	require.ErrorContains(t, err, "the operation is over")
	require.Len(t, asked, 1)
	require.Equal(t, "the operation is over", ended.Outcome)
	_, _, _, err = newEnv(t).operate("republish")
	require.ErrorContains(t, err, "unknown kind of operation: republish")
}
