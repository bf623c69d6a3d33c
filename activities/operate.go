package activities

import (
	"cmp"
	"context"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	// stepEvents is how much of an operation is moved at once.
	stepEvents = 1000
	// A step's lanes are reserved for reserveFor, and again after half of it, as long as
	// their batches take to end.
	reserveFor = 4 * time.Second
)

// OperationStore is the part of Store that an operation under way needs.
type OperationStore interface {
	Operation(ctx context.Context, id int64) (relay.OperationState, error)
	TakeOperation(ctx context.Context, id int64) (relay.OperationState, error)
	Bounds(ctx context.Context, u relay.OperationState) (first, last int64, err error)
	NextStep(ctx context.Context, u relay.OperationState, from relay.Cursor, most int) (relay.Step, error)
	Reserve(ctx context.Context, topic string, lanes []int16, d time.Duration) error
	Move(ctx context.Context, u relay.OperationState, moves []relay.Move) (lanes []int16, moved int, err error)
	Advance(ctx context.Context, u relay.OperationState, to relay.Cursor) (relay.OperationState, error)
	CompleteOperation(ctx context.Context, id int64, holder string, moved int64) error
	EndOperation(ctx context.Context, id int64, outcome string, done int64) error
	EnsureLanes(ctx context.Context, topics []string) error
}

// OperateRequest names an operation that is on record.
type OperateRequest struct {
	Operation int64 `json:"operation"`
	// PerSecond is how many events are moved in a second at most. 0: no limit.
	PerSecond float64 `json:"perSecond,omitempty"`
	// For is how long to go on before answering.
	For time.Duration `json:"for"`
}

// OperateResult says how far an operation is.
type OperateResult struct {
	Done int64 `json:"done"` // events moved, in all
	Over bool  `json:"over,omitempty"`
	// Wait is how long to wait before going on, so that the rate is kept. It is there when
	// it is 0, because an answer is read over the one before.
	Wait time.Duration `json:"wait"`
	// Holder is the attempt that says so. It is "" from workers of earlier versions.
	Holder string `json:"holder"`
	// Again says that the operation could not end: its record is not as its last attempt
	// left it, because the database was replaced or another attempt went on.
	Again bool `json:"again,omitempty"`
}

// EndRequest says how an operation ended.
type EndRequest struct {
	Operation int64  `json:"operation"`
	Outcome   string `json:"outcome"`
	// Done is how many events were moved, where that is not on record yet.
	Done int64 `json:"done,omitempty"`
	// Holder is the attempt that was the last to move events, and Moved how many were moved
	// then. If the record says otherwise, an operation whose outcome is "done" stays under
	// way. If both are missing, it ends in any case.
	Holder string `json:"holder,omitempty"`
	Moved  int64  `json:"moved,omitempty"`
}

// Redrive makes dead letters pending again.
func (a *Activities) Redrive(ctx context.Context, r OperateRequest) (OperateResult, error) {
	return a.operate(ctx, r)
}

// Discard drops dead letters for good, and keeps on record which.
func (a *Activities) Discard(ctx context.Context, r OperateRequest) (OperateResult, error) {
	return a.operate(ctx, r)
}

// Replay makes published events pending again.
func (a *Activities) Replay(ctx context.Context, r OperateRequest) (OperateResult, error) {
	return a.operate(ctx, r)
}

// EndOperation records the end of an operation, and returns its result.
func (a *Activities) EndOperation(ctx context.Context, r EndRequest) (OperateResult, error) {
	var err error
	if r.Holder != "" || r.Moved > 0 {
		err = a.operations.CompleteOperation(ctx, r.Operation, r.Holder, r.Moved)
	} else {
		err = a.operations.EndOperation(ctx, r.Operation, r.Outcome, r.Done)
	}
	if err != nil {
		return OperateResult{}, failure(ctx, err, nil)
	}
	u, err := a.operations.Operation(ctx, r.Operation)
	return OperateResult{Done: u.Done, Over: true, Again: u.Finished == nil}, failure(ctx, err, nil)
}

// operate does a part of an operation. It may be interrupted anywhere and begun again: each
// transaction that moves events also records the progress.
func (a *Activities) operate(ctx context.Context, r OperateRequest) (OperateResult, error) {
	defer beat(ctx)()
	u, err := a.operations.TakeOperation(ctx, r.Operation)
	if err == nil {
		u, err = a.bounded(ctx, u)
	}
	result := OperateResult{Done: u.Done, Holder: u.Holder}
	for until := time.Now().Add(r.For); err == nil && !result.Over && !stopping(ctx); {
		result, err = a.step(ctx, &u, r.PerSecond)
		if left := time.Until(until); err != nil || left < result.Wait {
			break // the workflow waits
		}
		wait(ctx, result.Wait)
		result.Wait = 0
	}
	return result, failure(ctx, err, result)
}

// beat heartbeats until it is told to stop: a step may take longer than Temporal waits
// for a sign of life.
func beat(ctx context.Context) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			activity.RecordHeartbeat(ctx)
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-time.After(heartbeatEvery):
			}
		}
	}()
	return func() {
		close(done)
		<-ended // no heartbeat after the activity has ended
	}
}

// stopping reports whether the worker shuts down: the next attempt goes on elsewhere.
func stopping(ctx context.Context) bool {
	select {
	case <-activity.GetWorkerStopChannel(ctx):
		return true
	default:
		return false
	}
}

// bounded looks up where a replay begins and ends.
func (a *Activities) bounded(ctx context.Context, u relay.OperationState) (relay.OperationState, error) {
	if u.Kind != relay.Replay {
		return u, nil
	}
	first, last, err := a.operations.Bounds(ctx, u)
	if err != nil {
		return u, err
	}
	u.Last = last
	u.From.ID = max(u.From.ID, first-1)
	return u, a.operations.EnsureLanes(ctx, []string{u.Topic})
}

// step does the next step of an operation, and says how long its rate asks to wait.
func (a *Activities) step(ctx context.Context, u *relay.OperationState, perSecond float64) (OperateResult, error) {
	began := time.Now()
	most := stepEvents
	if perSecond > 0 {
		most = max(1, min(most, int(perSecond)))
	}
	step, err := a.operations.NextStep(ctx, *u, u.From, most)
	moved := 0
	if err == nil {
		moved, err = a.move(ctx, u, step.Moves)
	}
	if err == nil {
		*u, err = a.operations.Advance(ctx, *u, step.Next)
	}
	result := OperateResult{Done: u.Done, Holder: u.Holder}
	if err != nil {
		return result, err
	}
	u.From, result.Over = step.Next, step.Over
	if perSecond > 0 && !step.Over {
		result.Wait = max(0, time.Duration(float64(moved)/perSecond*float64(time.Second))-time.Since(began))
	}
	return result, ctx.Err()
}

// move moves the events of a step, lane after lane as their batches end.
func (a *Activities) move(ctx context.Context, u *relay.OperationState, moves []relay.Move) (moved int, err error) {
	renew := every(reserveFor / 2)
	for reserved := false; len(moves) > 0; {
		lanes, n, err := a.operations.Move(ctx, *u, moves)
		moved += n
		u.Done += int64(n)
		if err != nil {
			return moved, err
		}
		moves = slices.DeleteFunc(moves, func(m relay.Move) bool { return slices.Contains(lanes, m.Lane) })
		if len(moves) == 0 {
			return moved, nil
		}
		if !reserved || renew() {
			if err := a.operations.Reserve(ctx, u.Topic, relay.LanesOf(moves), reserveFor); err != nil {
				return moved, err
			}
			reserved = true
		}
		wait(ctx, a.cfg.PollEvery)
		if ctx.Err() != nil || stopping(ctx) {
			return moved, cmp.Or(ctx.Err(), relay.ErrStopped)
		}
	}
	return moved, nil
}

// wait waits for so long, unless the activity or its worker is stopped.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-activity.GetWorkerStopChannel(ctx):
	case <-time.After(d):
	}
}
