package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// moments is a store that calls at before each of an operation's statements, with its number.
type moments struct {
	*Store
	n  int
	at func(n int)
}

func (m *moments) next() {
	m.at(m.n)
	m.n++
}

func (m *moments) Operation(ctx context.Context, id int64) (relay.OperationState, error) {
	m.next()
	return m.Store.Operation(ctx, id)
}

func (m *moments) TakeOperation(ctx context.Context, id int64) (relay.OperationState, error) {
	m.next()
	return m.Store.TakeOperation(ctx, id)
}

func (m *moments) Bounds(ctx context.Context, u relay.OperationState) (first, last int64, err error) {
	m.next()
	return m.Store.Bounds(ctx, u)
}

func (m *moments) NextStep(ctx context.Context, u relay.OperationState, from relay.Cursor, most int) (relay.Step, error) {
	m.next()
	return m.Store.NextStep(ctx, u, from, most)
}

func (m *moments) Move(ctx context.Context, u relay.OperationState, moves []relay.Move) (lanes []int16, moved int, err error) {
	m.next()
	return m.Store.Move(ctx, u, moves)
}

func (m *moments) Advance(ctx context.Context, u relay.OperationState, to relay.Cursor) (relay.OperationState, error) {
	m.next()
	return m.Store.Advance(ctx, u, to)
}

func (m *moments) CompleteOperation(ctx context.Context, id int64, holder string, moved int64) error {
	m.next()
	return m.Store.CompleteOperation(ctx, id, holder, moved)
}

// ofOperations are the tables that an operation changes, apart from lanes.
var ofOperations = []string{"operation", "pending", "dead_letter", "discarded"}

// keep keeps the state that a standby that lags has.
func (o testOutbox) keep(standby string) {
	for _, table := range ofOperations {
		o.exec(fmt.Sprintf(`DROP TABLE IF EXISTS %[1]s_%[2]s; CREATE TABLE %[1]s_%[2]s AS SELECT * FROM outbox.%[2]s`, standby, table))
	}
}

// promote replaces the database by a standby.
func (o testOutbox) promote(standby string) {
	for _, table := range ofOperations {
		o.exec(fmt.Sprintf(`DELETE FROM outbox.%[2]s; INSERT INTO outbox.%[2]s SELECT * FROM %[1]s_%[2]s`, standby, table))
	}
}

// noPublisher is for operations, which publish nothing.
type noPublisher struct{ activities.Publisher }

// run has the workflow of an operation do it, with the activities and a store.
func (o testOutbox) run(u relay.OperationState, s activities.Store) error {
	o.t.Helper()
	a, err := activities.New(activities.Config{Store: s, Publisher: noPublisher{}})
	require.NoError(o.t, err)
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	e := suite.NewTestWorkflowEnvironment()
	e.SetTestTimeout(time.Minute)
	e.RegisterWorkflow(workflows.Operation)
	e.RegisterActivity(a)
	e.ExecuteWorkflow(workflows.Operation, workflows.OperationInput{Operation: u.ID, Kind: u.Kind, Topic: u.Topic})
	return e.GetWorkflowError()
}

const inTwoSteps = 1010

// finished is how many events an operation has moved, by their own rows and not by its record.
var finished = map[string]string{
	relay.Replay:  `SELECT count(*)::int FROM outbox.pending WHERE replay > 0`,
	relay.Redrive: `SELECT count(*)::int FROM outbox.pending`,
	relay.Discard: `SELECT count(*)::int FROM outbox.discarded`,
}

// selected writes events that an operation of a kind is for.
func (o testOutbox) selected(kind string, events int) {
	o.t.Helper()
	o.exec(fmt.Sprintf(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'k' || n, 'T', 'x' FROM generate_series(1, %d) n`, events))
	if kind == relay.Replay {
		require.Len(o.t, o.publishAll(), events)
		return
	}
	for n := 0; n < events; { // page by page
		n += len(o.bury("Poison"))
	}
}

// The standby stopped before one statement of the operation, and is promoted before another.
func TestOperation_MovesEverythingWheneverTheDatabaseIsReplaced(t *testing.T) {
	for kind, count := range finished {
		t.Run(kind, func(t *testing.T) {
			o := open(t)
			o.selected(kind, inTwoSteps)
			u := o.begin(kind, relay.Selection{})
			o.keep("begin")
			first := &moments{Store: o.Store, at: func(int) {}}
			require.NoError(t, o.run(u, first))
			require.Equal(t, inTwoSteps, query[int](o, count))
			require.Greater(t, first.n, 7, "it has two steps")
			for stops := range first.n {
				for promoted := stops; promoted < first.n; promoted++ {
					o.promote("begin")
					s := &moments{Store: o.Store, at: func(n int) {
						if n == stops {
							o.keep("standby")
						}
						if n == promoted {
							o.promote("standby")
						}
					}}
					require.NoError(t, o.run(u, s))
					name := fmt.Sprintf("it stopped before statement %d and was promoted before %d", stops, promoted)
					require.Equal(t, inTwoSteps, query[int](o, count), name)
					record := o.underWay(u.ID)
					require.Equal(t, "done", record.Outcome, name)
					require.EqualValues(t, inTwoSteps, record.Done, name)
				}
			}
		})
	}
}

// Some of a step's lanes wait for a batch, and its other lanes were moved.
func TestOperation_MovesAgainWhatAFailoverTookFromAStepUnderWay(t *testing.T) {
	for kind, count := range finished {
		o := open(t)
		o.selected(kind, 40)
		u := o.begin(kind, relay.Selection{})
		lane := query[int16](o, `SELECT lane FROM outbox.event ORDER BY id LIMIT 1`)
		o.exec(`UPDATE outbox.lane SET holder = gen_random_uuid(), leased_until = now() + interval '1 hour' WHERE lane = $1`, lane)
		o.keep("standby")
		promoted := false
		s := &moments{Store: o.Store, at: func(int) {
			if n := query[int](o, count); n > 0 && n < 40 && !promoted {
				promoted = true
				o.promote("standby")
				o.exec(`UPDATE outbox.lane SET holder = NULL, leased_until = NULL`)
			}
		}}
		require.NoError(t, o.run(u, s))
		require.True(t, promoted)
		require.Equal(t, 40, query[int](o, count), kind)
		require.EqualValues(t, 40, o.underWay(u.ID).Done, kind)
	}
}

// An attempt that Temporal thinks dead goes on, and then its successor begins.
func TestOperation_CountsNoMovesOfAnAttemptThatWasFollowed(t *testing.T) {
	for kind, count := range finished {
		o := open(t)
		o.selected(kind, 40)
		before := o.begin(kind, relay.Selection{})
		step, err := o.NextStep(t.Context(), before, before.From, 100)
		require.NoError(t, err)
		u, err := o.TakeOperation(t.Context(), before.ID)
		require.NoError(t, err)
		_, _, err = o.Move(t.Context(), before, step.Moves)
		require.ErrorIs(t, err, relay.ErrOperationElsewhere, kind)
		require.Zero(t, query[int](o, count), kind)
		if kind == relay.Replay {
			_, err = o.Advance(t.Context(), before, step.Next)
			require.ErrorIs(t, err, relay.ErrOperationElsewhere)
		}
		require.NoError(t, o.CompleteOperation(t.Context(), before.ID, before.Holder, 0))
		require.Nil(t, o.underWay(u.ID).Finished, kind)
		moved, _ := o.move(&u, step.Moves)
		require.Equal(t, 40, moved, kind)
	}
}

// Its worker is of the version before: it knows of no holder.
func TestCompleteOperation_WithoutAHolderNeedsWhatWasMovedOnRecord(t *testing.T) {
	o := open(t)
	o.selected(relay.Replay, 5)
	u := o.begin(relay.Replay, relay.Selection{})
	for moved, ends := range map[int64]bool{1: false, 0: true} {
		require.NoError(t, o.CompleteOperation(t.Context(), u.ID, "", moved))
		require.Equal(t, ends, o.underWay(u.ID).Finished != nil)
		o.exec(`UPDATE outbox.operation SET finished_at = NULL`)
	}
}

func TestTakeOperation_OfWhatHasEndedOrNeverWasSaysSo(t *testing.T) {
	o := open(t)
	u := o.begin(relay.Replay, relay.Selection{})
	require.NoError(t, o.EndOperation(t.Context(), u.ID, "cancelled", 0))
	_, err := o.TakeOperation(t.Context(), u.ID)
	require.ErrorIs(t, err, relay.ErrOperationOver)
	_, err = o.TakeOperation(t.Context(), 4711)
	require.ErrorIs(t, err, relay.ErrUnknownOperation)
}
