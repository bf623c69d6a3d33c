package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// redriven has n dead letters of a topic pending again, and returns the number of the
// operation that did it.
func (o testOutbox) redriven(n int) (operation int64) {
	o.t.Helper()
	o.write("orders", n)
	o.bury("Poison")
	require.Equal(o.t, n, o.operate(relay.Redrive, relay.Selection{}, 1000))
	return o.last()
}

// last is the number of the newest operation.
func (o testOutbox) last() int64 {
	return query[int64](o, `SELECT max(id) FROM outbox.operation`)
}

// outcomes gives the first events that are pending their codes, as dead letters. It settles
// the others.
func (o testOutbox) outcomes(codes ...string) {
	o.t.Helper()
	for _, b := range o.claim() {
		lease, err := o.TakeOver(o.t.Context(), b)
		require.NoError(o.t, err)
		refs := o.load(lease)
		dead := min(len(refs), len(codes))
		for i, code := range codes[:dead] {
			require.NoError(o.t, o.DeadLetter(o.t.Context(), lease, "relay-1", refusedAs(code, refs[i])))
		}
		codes = codes[dead:]
		require.NoError(o.t, o.Settle(o.t.Context(), b.Topic, refs[dead:]))
		require.NoError(o.t, o.Release(o.t.Context(), lease, relay.Read{Next: lease.LowID}))
	}
}

func (o testOutbox) delivered(operation int64) relay.Delivered {
	o.t.Helper()
	d, err := o.Delivered(o.t.Context(), operation, 0)
	require.NoError(o.t, err)
	return d
}

func TestDelivered_CountsWhatARedriveMadePendingAndNothingElse(t *testing.T) {
	o := open(t)
	number := o.redriven(6)
	require.Equal(t, relay.Delivered{Moved: 6, Pending: 6, Taken: []int64{}}, o.delivered(number))

	o.outcomes("Other", "Poison", "Poison")
	o.write("orders", 5) // written since: some of them die, and some are pending
	o.outcomes("Unrelated", "Unrelated")
	o.write("orders", 1)
	o.write("audit", 1)
	d := o.delivered(number)
	require.False(t, d.Confirmed())
	require.True(t, d.Over())
	require.Equal(t, relay.Delivered{Moved: 6, Published: 3, Dead: 3, Taken: []int64{}, Causes: []relay.Cause{
		{Code: "Poison", Message: "it says so", Events: 2}, {Code: "Other", Message: "it says so", Events: 1},
	}}, d)
}

func TestDelivered_IsConfirmedWhenAllOfARedriveWerePublished(t *testing.T) {
	o := open(t)
	number := o.redriven(3)
	o.outcomes()
	d := o.delivered(number)
	require.Equal(t, relay.Delivered{Moved: 3, Published: 3, Taken: []int64{}}, d)
	require.True(t, d.Confirmed())
	_, err := o.Delivered(t.Context(), 4711, 0)
	require.ErrorIs(t, err, relay.ErrUnknownOperation)
}

func TestDelivered_NamesTheMostFrequentCodesOnly(t *testing.T) {
	o := open(t)
	number := o.redriven(7)
	o.outcomes("A", "B", "B", "C", "C", "C", "D")
	d := o.delivered(number)
	require.EqualValues(t, 7, d.Dead)
	require.Len(t, d.Causes, relay.MostCauses)
	require.Equal(t, relay.Cause{Code: "C", Message: "it says so", Events: 3}, d.Causes[0])
	require.Equal(t, "A", d.Causes[2].Code, "of those that are as frequent, the first by name")
}

// A replay is of rows of its own, whichever version has moved them.
func TestDelivered_CountsAReplayByItsNumber(t *testing.T) {
	o := open(t)
	o.write("orders", 4)
	require.Len(t, o.publishAll(), 4)
	require.Equal(t, 4, o.operate(relay.Replay, relay.Selection{}, 1000))
	number := o.last()
	require.Equal(t, relay.Delivered{Moved: 4, Pending: 4, Taken: []int64{}}, o.delivered(number))
	o.outcomes("Poison")
	o.exec(`UPDATE outbox.dead_letter SET operation = NULL`) // as of a worker of the version before
	require.Equal(t, relay.Delivered{Moved: 4, Published: 3, Dead: 1, Taken: []int64{}, Causes: []relay.Cause{{Code: "Poison", Message: "it says so", Events: 1}}}, o.delivered(number))

	require.Equal(t, 1, o.operate(relay.Redrive, relay.Selection{}, 10))
	require.Equal(t, []int64{o.last()}, o.delivered(number).Taken)
	require.EqualValues(t, 1, o.delivered(o.last()).Pending, "the redrive's, and not the replay's")
	require.EqualValues(t, 0, o.delivered(number).Pending)
}

// Another operation has them now: this one's command must not say that they arrived.
func TestDelivered_OfEventsThatAnotherOperationHasMovedSinceIsNotConfirmed(t *testing.T) {
	for _, kind := range []string{relay.Redrive, relay.Discard} {
		o := open(t)
		number := o.redriven(3)
		o.outcomes("Poison")
		require.Equal(t, 1, o.operate(kind, relay.Selection{}, 10), kind)
		d := o.delivered(number)
		require.Zero(t, d.Dead+d.Pending)
		require.Equal(t, []int64{o.last()}, d.Taken, kind)
		require.False(t, d.Confirmed(), kind)

		// One that has moved other dead letters is no matter.
		o.outcomes()
		number = o.redriven(2)
		o.outcomes()
		o.write("orders", 1)
		o.bury("Poison")
		require.Equal(t, 1, o.operate(kind, relay.Selection{}, 10), kind)
		require.True(t, o.delivered(number).Confirmed(), kind)
	}
}

// It puts no number on the rows, and carries none over.
func TestDelivered_IsNotKnownOfWhatAWorkerOfTheVersionBeforeHasDone(t *testing.T) {
	o := open(t)
	number := o.redriven(4)
	o.exec(`UPDATE outbox.pending SET operation = NULL WHERE id IN (SELECT id FROM outbox.pending LIMIT 3); UPDATE outbox.operation SET marked = 1`)
	d := o.delivered(number)
	require.Equal(t, relay.Delivered{Moved: 4, Pending: 1, NotKnown: 3, Taken: []int64{}}, d)
	o.outcomes()
	require.False(t, o.delivered(number).Confirmed())

	number = o.redriven(4)
	o.outcomes("Poison", "Poison")
	o.exec(`UPDATE outbox.dead_letter SET operation = NULL`)
	d = o.delivered(number)
	require.EqualValues(t, 2, d.Published)
	require.EqualValues(t, 2, d.NotKnown)
	require.False(t, d.Confirmed())

	o = open(t)
	number = o.redriven(1)
	o.outcomes("Poison")
	require.Equal(t, 1, o.operate(relay.Discard, relay.Selection{}, 10))
	o.exec(`UPDATE outbox.operation SET marked = 0, took = '{}' WHERE kind = 'discard'`)
	require.Equal(t, []int64{o.last()}, o.delivered(number).Taken, "it may have been one of these")
}

// Beside a worker of this version, one of the version before makes dead letters of a redrive's
// events, and another operation takes them: nobody can say that they arrived.
func TestDelivered_IsNotConfirmedIfAnotherTookDeadLettersWithoutANumber(t *testing.T) {
	for _, kind := range []string{relay.Redrive, relay.Discard} {
		o := open(t)
		first := o.redriven(3)
		o.outcomes("Poison", "Poison", "Poison")
		o.exec(`UPDATE outbox.dead_letter SET operation = NULL`) // as of a worker of the version before
		require.EqualValues(t, 3, o.delivered(first).NotKnown, kind)

		require.Equal(t, 3, o.operate(kind, relay.Selection{}, 1), "in steps of one")
		second := o.last()
		d := o.delivered(first)
		require.Equal(t, []int64{second}, d.Taken, kind)
		require.False(t, d.Confirmed(), kind)
		require.Equal(t, 1, query[int](o, `SELECT cardinality(took) FROM outbox.operation WHERE id = $1`, second), kind)

		o.outcomes()
		require.False(t, o.delivered(first).Confirmed(), kind)
		if kind == relay.Redrive {
			require.True(t, o.delivered(second).Confirmed(), "it has put its own number on them")
		}
	}
}

// Dead letters that are older than the column have no number either. A redrive of them is
// confirmed, and does not put in doubt one that began after they had died.
// The owner of the tables may have written any time.
func TestRedrive_TakesALetterWhoseDeathHasNoDate(t *testing.T) {
	for _, date := range []string{"-infinity", "infinity"} {
		t.Run(date, func(t *testing.T) {
			o := open(t)
			o.write("orders", 2)
			o.bury("Poison")
			o.exec(`UPDATE outbox.dead_letter SET operation = NULL`)
			o.exec(`UPDATE outbox.dead_letter SET dead_at = $1::timestamptz WHERE id = (SELECT min(id) FROM outbox.dead_letter)`, date)
			require.Equal(t, 2, o.operate(relay.Redrive, relay.Selection{}, 10))
		})
	}
}

func TestDelivered_IsConfirmedIfAnotherTookOnlyOlderDeadLetters(t *testing.T) {
	o := open(t)
	o.write("orders", 2)
	o.bury("Poison")
	o.exec(`UPDATE outbox.dead_letter SET operation = NULL, dead_at = dead_at - interval '1 hour'`)
	o.write("orders", 2)
	o.bury("Other")
	require.Equal(t, 2, o.operate(relay.Redrive, relay.Selection{Code: "Other"}, 10))
	first := o.last()
	require.Equal(t, 2, o.operate(relay.Redrive, relay.Selection{Code: "Poison"}, 10))
	o.outcomes()
	require.True(t, o.delivered(first).Confirmed())
	require.True(t, o.delivered(o.last()).Confirmed())
}

// After the operation has ended, a failover loses its last step: the third event is a dead letter
// as before.
func TestDelivered_IsNotConfirmedWhenTheRecordHasLostAPartOfTheOperation(t *testing.T) {
	o := open(t)
	number := o.redriven(3)
	o.outcomes()
	d, err := o.Delivered(t.Context(), number, 3)
	require.NoError(t, err)
	require.True(t, d.Confirmed())

	o.exec(`UPDATE outbox.operation SET done = 2, marked = 2, finished_at = NULL, outcome = ''`)
	d, err = o.Delivered(t.Context(), number, 3)
	require.NoError(t, err)
	require.Equal(t, relay.Delivered{Moved: 2, Published: 2, Lost: 1, UnderWay: true, Taken: []int64{}}, d)
	require.False(t, d.Confirmed())
	require.True(t, d.Over(), "nothing comes of waiting")

	o.exec(`UPDATE outbox.operation SET done = 3, marked = 3`) // only its end is lost
	require.False(t, o.delivered(number).Confirmed())
	o.exec(`UPDATE outbox.operation SET done = 2, marked = 2, finished_at = now(), outcome = 'abandoned'`)
	d, err = o.Delivered(t.Context(), number, 3)
	require.NoError(t, err)
	require.False(t, d.Confirmed())
}

func TestDelivered_SaysWhoKeepsEventsPending(t *testing.T) {
	o := open(t)
	number := o.redriven(1)
	_, err := o.Pause(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "their deploy"})
	require.NoError(t, err)
	require.Equal(t, "ada has paused the topic: their deploy", o.delivered(number).Why)
	_, err = o.Resume(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "deployed"})
	require.NoError(t, err)
	require.Empty(t, o.delivered(number).Why)
}

// A producer's row has no number, so that it is as short as before.
func TestEnqueue_PutsNoOperationsNumberOnAnEvent(t *testing.T) {
	o := open(t)
	o.write("orders", 3)
	require.Equal(t, 3, query[int](o, `SELECT count(*)::int FROM outbox.pending WHERE operation IS NULL`))
	o.bury("Poison")
	require.Equal(t, 3, query[int](o, `SELECT count(*)::int FROM outbox.dead_letter WHERE operation = 0`))
}
