package activities

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
)

// operations has one operation with an event for each lane. What it does right is
// tested on PostgreSQL, in internal/postgres.
type operations struct {
	OperationStore
	mu       sync.Mutex
	u        relay.OperationState
	busy     map[int16]int // how many more looks a lane stays busy
	steps    [][]relay.Move
	moved    []relay.Move
	reserved [][]int16
	cursors  []relay.Cursor
	moveErr  error
	take     func()
}

func (o *operations) Operation(context.Context, int64) (relay.OperationState, error) { return o.u, nil }

func (o *operations) TakeOperation(context.Context, int64) (relay.OperationState, error) {
	if o.u.Finished != nil {
		return o.u, relay.ErrOperationOver
	}
	if o.take != nil {
		o.take()
	}
	o.u.Holder = "this attempt"
	return o.u, nil
}

func (o *operations) NextStep(_ context.Context, _ relay.OperationState, from relay.Cursor, most int) (relay.Step, error) {
	n := int(from.ID)
	step := relay.Step{Moves: slices.Clone(o.steps[n][:min(most, len(o.steps[n]))]), Next: relay.Cursor{ID: from.ID + 1}, Over: n == len(o.steps)-1}
	step.Moves = slices.DeleteFunc(step.Moves, func(m relay.Move) bool { return slices.Contains(o.moved, m) })
	return step, nil
}

func (o *operations) Reserve(_ context.Context, _ string, lanes []int16, _ time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reserved = append(o.reserved, lanes)
	return nil
}

func (o *operations) Move(_ context.Context, _ relay.OperationState, moves []relay.Move) (lanes []int16, moved int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range moves {
		if o.busy[m.Lane] > 0 {
			o.busy[m.Lane]--
		} else {
			lanes, moved = append(lanes, m.Lane), moved+1
			o.moved = append(o.moved, m)
		}
	}
	return lanes, moved, o.moveErr
}

func (o *operations) Advance(_ context.Context, u relay.OperationState, to relay.Cursor) (relay.OperationState, error) {
	o.cursors = append(o.cursors, to)
	return u, nil
}

func (o *operations) CompleteOperation(_ context.Context, _ int64, holder string, moved int64) error {
	o.u.Finished = nil
	if now := time.Now(); o.u.Holder == holder && o.u.Done == moved {
		o.u.Finished = &now
	}
	return nil
}

func onLanes(lanes ...int16) (moves []relay.Move) {
	for _, l := range lanes {
		moves = append(moves, relay.Move{Ref: relay.Ref{Lane: l}})
	}
	return moves
}

func redrive(t *testing.T, o *operations, r OperateRequest) (result OperateResult, err error) {
	t.Helper()
	e := newEnv(t)
	o.u.Kind = relay.Redrive
	e.store.OperationStore = o
	v, err := e.ExecuteActivity(e.Redrive, r)
	if err == nil {
		require.NoError(t, v.Get(&result))
	}
	return result, err
}

func TestRedrive_MovesIdleLanesAtOnceAndReservesTheOthers(t *testing.T) {
	o := &operations{steps: [][]relay.Move{onLanes(1, 2, 3), onLanes(4)}, busy: map[int16]int{2: 3}}
	result, err := redrive(t, o, OperateRequest{For: time.Minute})
	require.NoError(t, err)
	require.Equal(t, OperateResult{Done: 4, Over: true, Holder: "this attempt"}, result)
	require.Equal(t, onLanes(1, 3, 2, 4), o.moved)
	require.Equal(t, [][]int16{{2}}, o.reserved, "only what is busy, and not at every look")
	require.Equal(t, []relay.Cursor{{ID: 1}, {ID: 2}}, o.cursors, "a step is done when all its lanes are")
}

// It waits for locks, for nearly as long as Temporal waits for a sign of life.
func TestRedrive_HeartbeatsWhileItTakesTheOperation(t *testing.T) {
	e := newEnv(t)
	beats := make(chan struct{}, 1)
	e.SetOnActivityHeartbeatListener(func(*activity.Info, converter.EncodedValues) {
		select {
		case beats <- struct{}{}:
		default:
		}
	})
	o := &operations{u: relay.OperationState{Operation: relay.Operation{Kind: relay.Redrive}}, steps: [][]relay.Move{onLanes(1)}}
	o.take = func() {
		select {
		case <-beats:
		case <-time.After(10 * time.Second):
			t.Error("no heartbeat")
		}
	}
	e.store.OperationStore = o
	_, err := e.ExecuteActivity(e.Redrive, OperateRequest{For: time.Minute})
	require.NoError(t, err)
}

func TestRedrive_KeepsToItsRateAndAnswersWhenItsTimeIsOver(t *testing.T) {
	o := &operations{steps: [][]relay.Move{onLanes(1, 2), onLanes(3, 4), onLanes(5, 6), onLanes(7, 8)}}
	began := time.Now()
	result, err := redrive(t, o, OperateRequest{PerSecond: 20, For: 150 * time.Millisecond})
	require.NoError(t, err)
	require.EqualValues(t, 4, result.Done, "it began the second step within its time, and no third")
	require.GreaterOrEqual(t, time.Since(began)+result.Wait, 200*time.Millisecond, "four events at twenty a second")
	require.Positive(t, result.Wait, "it does not wait beyond its time: the workflow does")
}

func TestEndOperation_SaysThatTheRecordIsNotAsItsHolderLeftIt(t *testing.T) {
	o := &operations{u: relay.OperationState{Done: 3, Holder: "this attempt"}}
	for ask, want := range map[EndRequest]OperateResult{
		{Holder: "this attempt", Moved: 4}:    {Done: 3, Over: true, Again: true},
		{Holder: "another attempt", Moved: 3}: {Done: 3, Over: true, Again: true},
		{Holder: "another attempt"}:           {Done: 3, Over: true, Again: true},
		{Holder: "this attempt", Moved: 3}:    {Done: 3, Over: true},
	} {
		e := newEnv(t)
		e.store.OperationStore = o
		ask.Operation, ask.Outcome = 7, "done"
		v, err := e.ExecuteActivity(e.EndOperation, ask)
		require.NoError(t, err)
		var got OperateResult
		require.NoError(t, v.Get(&got))
		require.Equal(t, want, got)
	}
}

func TestRedrive_KeepsItsMovesAndSaysThatItWasEndedOrFailed(t *testing.T) {
	at := time.Now()
	_, err := redrive(t, &operations{u: relay.OperationState{Finished: &at}}, OperateRequest{For: time.Minute})
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, TypeOperationOver, failure.Type())
	require.True(t, failure.NonRetryable())

	o := &operations{steps: [][]relay.Move{onLanes(1)}, moveErr: errors.New("the database is away")}
	_, err = redrive(t, o, OperateRequest{For: time.Minute})
	require.ErrorAs(t, err, &failure)
	require.Equal(t, TypeDatabase, failure.Type())
	require.False(t, failure.NonRetryable())
	require.Empty(t, o.cursors, "the step is done again")
}
