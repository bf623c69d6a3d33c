package postgres

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// begin puts an operation on record, as the command line does.
func (o testOutbox) begin(kind string, chosen relay.Selection) relay.OperationState {
	o.t.Helper()
	id, joined, err := o.BeginOperation(o.t.Context(), relay.Operation{
		Kind: kind, Topic: "orders", By: "ada", Reason: "a test", Selection: chosen, WorkflowID: "outbox-" + kind + "/orders/",
	})
	require.NoError(o.t, err)
	require.False(o.t, joined)
	_, err = o.TakeOperation(o.t.Context(), id)
	require.NoError(o.t, err)
	return o.underWay(id)
}

func (o testOutbox) underWay(id int64) relay.OperationState {
	o.t.Helper()
	u, err := o.Operation(o.t.Context(), id)
	require.NoError(o.t, err)
	if u.Kind == relay.Replay {
		_, u.Last, err = o.Bounds(o.t.Context(), u)
		require.NoError(o.t, err)
	}
	return u
}

// step does one step and returns what it moved and what is left of it, because its
// lanes are busy.
func (o testOutbox) step(u *relay.OperationState, most int) (moved int, left []relay.Move, over bool) {
	o.t.Helper()
	step, err := o.NextStep(o.t.Context(), *u, u.From, most)
	require.NoError(o.t, err)
	moved, left = o.move(u, step.Moves)
	if len(left) == 0 {
		*u, err = o.Advance(o.t.Context(), *u, step.Next)
		require.NoError(o.t, err)
		u.From = step.Next
	}
	return moved, left, step.Over
}

func (o testOutbox) move(u *relay.OperationState, moves []relay.Move) (moved int, left []relay.Move) {
	o.t.Helper()
	lanes, moved, err := o.Move(o.t.Context(), *u, moves)
	require.NoError(o.t, err)
	u.Done += int64(moved)
	return moved, slices.DeleteFunc(moves, func(m relay.Move) bool { return slices.Contains(lanes, m.Lane) })
}

// operate does all steps of an operation whose lanes are idle.
func (o testOutbox) operate(kind string, chosen relay.Selection, most int) (moved int) {
	o.t.Helper()
	u := o.begin(kind, chosen)
	for over := false; !over; {
		n, left, last := o.step(&u, most)
		require.Empty(o.t, left)
		moved, over = moved+n, last
	}
	require.NoError(o.t, o.CompleteOperation(o.t.Context(), u.ID, u.Holder, int64(moved)))
	require.NotNil(o.t, o.underWay(u.ID).Finished)
	require.EqualValues(o.t, moved, o.underWay(u.ID).Done)
	return moved
}

// bury makes dead letters of everything that is pending in a topic.
func (o testOutbox) bury(code string) (ids []int64) {
	o.t.Helper()
	for _, b := range o.claim() {
		lease, err := o.TakeOver(o.t.Context(), b)
		require.NoError(o.t, err)
		refs := o.load(lease)
		require.NoError(o.t, o.DeadLetter(o.t.Context(), lease, "relay-1", refusedAs(code, refs...)))
		require.NoError(o.t, o.Release(o.t.Context(), lease, relay.Read{Next: lease.LowID}))
		for _, r := range refs {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestRedrive_PutsEventsBeforeLaterOnesAndBlockedOnesFollowInOrder(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	first := o.bury("Poison")
	o.writeKey("orders", "a", 2)
	behind := o.bury(relay.CodeBlocked)
	o.writeKey("orders", "a", 3)
	_, lease := o.claimOne()
	later := o.drain(lease) // they raise the low watermark above the dead letters
	o.endRounds()
	o.writeKey("orders", "a", 2)

	// Only the first is asked for: what is blocked behind it comes along.
	require.Equal(t, 3, o.operate(relay.Redrive, relay.Selection{Code: "Poison"}, 10))
	_, lease = o.claimOne()
	got := o.drain(lease)
	require.Len(t, got, 5)
	require.True(t, slices.IsSorted(got))
	require.Equal(t, append(first, behind...), got[:3])
	require.Greater(t, got[3], later[2])
	require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.dead_letter`))
}

func TestRedrive_LeavesLaterDeadLettersOfTheKeyWithAReasonOfTheirOwn(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 2)
	dead := o.bury("Poison")
	id := query[string](o, `SELECT event_id::text FROM outbox.event WHERE id = $1`, dead[0])
	require.Equal(t, 1, o.operate(relay.Redrive, relay.Selection{EventIDs: []string{id}}, 10))
	require.Equal(t, dead[1], query[int64](o, `SELECT id FROM outbox.dead_letter`))
}

// The events of a replay had arrived before: one that dies again stands in the way of
// its replay, and of nothing that is delivered for the first time.
func TestReplay_ThatDiesBlocksTheRestOfItsReplayOnly(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 2)
	_, lease := o.claimOne()
	o.drain(lease)
	require.Equal(t, 2, o.operate(relay.Replay, relay.Selection{}, 10))
	number := query[int64](o, `SELECT max(id) FROM outbox.operation`)
	again := o.bury("Poison")
	o.exec(`UPDATE outbox.dead_letter SET code = $1 WHERE id = $2`, relay.CodeBlocked, again[1])
	o.writeKey("orders", "a", 1)
	blocked, err := o.Blocked(t.Context(), "orders", []string{"a"})
	require.NoError(t, err)
	require.Equal(t, map[relay.Chain]int64{{Key: "a", Replay: number}: again[0]}, blocked)

	first := o.bury(relay.CodeBlocked) // behind nothing that is here any more
	c, err := o.CountDead(t.Context(), "orders", relay.Selection{Code: "Poison"})
	require.NoError(t, err)
	require.Equal(t, []int64{1, 1, 1, 0}, []int64{c.Events, c.Keys, c.Behind, c.Overtaking})
	c, err = o.CountDead(t.Context(), "orders", relay.Selection{Code: relay.CodeBlocked})
	require.NoError(t, err)
	require.EqualValues(t, 1, c.Overtaking, "of its replay, not the first delivery")
	require.Equal(t, 2, o.operate(relay.Redrive, relay.Selection{Code: "Poison"}, 10))
	require.Equal(t, first[0], query[int64](o, `SELECT id FROM outbox.dead_letter`), "what stays")
}

// What is moved to a lane comes below its low watermark. A raise that began before waits for no
// lock: it leaves the lane for later, and then looks again.
func TestRaise_LeavesALaneToWhichSomethingIsBeingMoved(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	dead := o.bury("Poison")
	o.writeKey("orders", "a", 3)
	_, lease := o.claimOne()
	o.drain(lease)
	lane := query[int16](o, `SELECT lane FROM outbox.dead_letter`)
	lowID := func() int64 { return query[int64](o, `SELECT low_id FROM outbox.lane WHERE lane = $1`, lane) }
	require.LessOrEqual(t, lowID(), dead[0])
	require.Greater(t, query[int64](o, `SELECT mark_id FROM outbox.lane WHERE lane = $1`, lane), dead[0])

	u := o.begin(relay.Redrive, relay.Selection{})
	step, err := o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background())
	_, moved, err := move(t.Context(), tx, u, step.Moves)
	require.NoError(t, err)
	require.Equal(t, 1, moved)
	o.endRounds()
	require.LessOrEqual(t, lowID(), dead[0], "it is being moved")
	require.NoError(t, tx.Commit(t.Context()))
	o.endRounds()
	require.Equal(t, dead[0], lowID(), "it is pending")
}

func TestOperation_MovesAKeyWholeHoweverSmallAStepIs(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 5)
	o.writeKey("orders", "b", 5)
	o.bury("Poison")
	u := o.begin(relay.Redrive, relay.Selection{})
	moved, left, over := o.step(&u, 1)
	require.Equal(t, 5, moved)
	require.Empty(t, left)
	require.False(t, over)
	require.Equal(t, 1, query[int](o, `SELECT count(DISTINCT key)::int FROM outbox.dead_letter`))
}

func TestOperation_WaitsForABatchInFlightAndKeepsTheNextClaimAway(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	o.bury("Poison")
	o.writeKey("orders", "a", 1)
	_, lease := o.claimOne()
	u := o.begin(relay.Redrive, relay.Selection{})
	moved, left, _ := o.step(&u, 10)
	require.Zero(t, moved)
	require.Len(t, left, 1, "its lane is in flight")
	require.NoError(t, o.Reserve(t.Context(), "orders", relay.LanesOf(left), time.Minute))
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: lease.LowID}))
	o.expireLeases()
	require.Empty(t, o.claims(), "the lane is reserved")

	moved, left = o.move(&u, left)
	require.Equal(t, 1, moved)
	require.Empty(t, left)
	_, lease = o.claimOne()
	require.Len(t, o.drain(lease), 2, "the reservation is over")
}

func TestReservation_EndsByItself(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	require.NoError(t, o.Sweep(t.Context()))
	require.NoError(t, o.Reserve(t.Context(), "orders", []int16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, time.Hour))
	require.Empty(t, o.claims())
	o.exec(`UPDATE outbox.lane SET reserved_until = now() - interval '1 second'`)
	require.NotEmpty(t, o.claims())
}

func TestOperation_FencesOffAnAttemptThatWakesUpAfterItsLease(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	o.bury("Poison")
	o.writeKey("orders", "a", 1)
	b, stalled := o.claimOne()
	require.Len(t, o.load(stalled), 1)
	o.expireLeases()
	require.Equal(t, 1, o.operate(relay.Redrive, relay.Selection{}, 10))
	require.ErrorIs(t, o.Renew(t.Context(), stalled, b.Lanes), relay.ErrClaimLost, "it would send the later event first")
	again, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, again.LowID, relay.Lanes-1, "the claim has all lanes but the one of the operation")
	require.Empty(t, o.load(again))
	_, lease := o.claimOne()
	require.Len(t, o.drain(lease), 2)
}

func TestOperation_DoesNotWaitForABatchBetweenTwoAttempts(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	dead := o.bury("Poison")
	o.writeKey("orders", "a", 1)
	b, lease := o.claimOne()
	require.Len(t, o.load(lease), 1)
	require.NoError(t, o.Keep(t.Context(), lease, b.Lanes))
	require.Equal(t, 1, o.operate(relay.Redrive, relay.Selection{}, 10))
	again, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err, "the claim stays")
	require.Equal(t, dead[0], o.drain(again)[0])
}

func TestRedrive_MovesNoEventAgainThatDiedAgain(t *testing.T) {
	o := open(t)
	o.write("orders", 4)
	o.bury("Poison")
	u := o.begin(relay.Redrive, relay.Selection{})
	moved, _, _ := o.step(&u, 10)
	require.Equal(t, 4, moved)
	o.bury("Poison")
	u.From = relay.Cursor{}
	moved, _, over := o.step(&u, 10)
	require.Zero(t, moved)
	require.True(t, over)
}

func TestDiscard_IsOnRecordAndItsEventsAreNeverPublished(t *testing.T) {
	o := open(t)
	o.write("orders", 4)
	o.bury("Poison")
	require.Equal(t, 1, o.operate(relay.Discard, relay.Selection{Key: "k2"}, 10))
	require.Equal(t, []string{"dead", "discarded"}, query[[]string](o, `SELECT array_agg(DISTINCT state ORDER BY state) FROM outbox.status`))
	require.Equal(t, "ada", query[string](o, `SELECT o.by FROM outbox.discarded x JOIN outbox.operation o ON o.id = x.operation`))
	require.Equal(t, 3, o.operate(relay.Redrive, relay.Selection{}, 10))
	_, lease := o.claimOne()
	require.Len(t, o.drain(lease), 3)
}

func TestCountDead_IncludesEventsThatComeAlongOrWouldBeOvertaken(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	o.bury("Poison")
	o.writeKey("orders", "a", 2)
	o.bury(relay.CodeBlocked)
	o.writeKey("orders", "b", 2)
	o.bury("Poison")
	last := query[string](o, `SELECT event_id::text FROM outbox.event ORDER BY id DESC LIMIT 1`)
	for _, c := range []struct {
		chosen relay.Selection
		want   Count
	}{
		{relay.Selection{}, Count{Events: 5, Keys: 2}},
		{relay.Selection{Code: "Poison"}, Count{Events: 3, Keys: 2, Behind: 2}},
		{relay.Selection{Code: relay.CodeBlocked}, Count{Events: 2, Keys: 1, Overtaking: 2}},
		{relay.Selection{EventIDs: []string{last}}, Count{Events: 1, Keys: 1, Overtaking: 1}},
		{relay.Selection{Key: "b", Type: "T"}, Count{Events: 2, Keys: 1}},
		{relay.Selection{Key: "b", Type: "Other"}, Count{}},
	} {
		got, err := o.CountDead(t.Context(), "orders", c.chosen)
		require.NoError(t, err)
		require.False(t, got.At.IsZero())
		got.At = time.Time{}
		require.Equal(t, c.want, got, "%+v", c.chosen)
	}
	_, err := o.CountDead(t.Context(), "odrers", relay.Selection{})
	require.ErrorIs(t, err, ErrUnknownTopic)
}

func TestReplay_MakesEachEventPendingOnceInOrderUnderItsOwnNumber(t *testing.T) {
	o := open(t)
	o.write("orders", 30)
	o.write("audit", 5)
	for _, b := range o.claim() {
		lease, err := o.TakeOver(t.Context(), b)
		require.NoError(t, err)
		o.drain(lease)
	}
	o.write("orders", 1) // still pending: it was not published
	n, _, err := o.CountPublished(t.Context(), "orders", relay.Selection{}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 30, n)

	u := o.begin(relay.Replay, relay.Selection{})
	o.writeKey("orders", "later", 1)
	for over := false; !over; {
		before := u
		_, left, last := o.step(&u, 7)
		require.Empty(t, left)
		over = last
		// A step that is done again, as after a crash before it was noted, moves nothing.
		again := o.underWay(u.ID)
		again.From = before.From
		moved, _, _ := o.step(&again, 7)
		require.LessOrEqual(t, moved, 7)
		u = o.underWay(u.ID)
		require.Equal(t, query[int](o, `SELECT count(*)::int FROM outbox.pending WHERE replay > 0`), int(u.Done))
	}
	require.Equal(t, 30, query[int](o, `SELECT count(*)::int FROM outbox.pending WHERE replay = $1`, u.ID))
	require.Equal(t, 2, query[int](o, `SELECT count(*)::int FROM outbox.pending WHERE replay = 0`))
	_, lease := o.claimOne()
	require.Len(t, o.drain(lease), 32)
}

func TestReplay_DoesNotTakeBackEventsThatArePublishedMeanwhile(t *testing.T) {
	o := open(t)
	o.write("orders", 20)
	require.Len(t, o.publishAll(), 20)
	u := o.begin(relay.Replay, relay.Selection{})
	step, err := o.NextStep(t.Context(), u, u.From, 100)
	require.NoError(t, err)
	moved, left := o.move(&u, slices.Clone(step.Moves))
	require.Equal(t, 20, moved)
	require.Empty(t, left)
	require.Len(t, o.publishAll(), 20)
	moved, left = o.move(&u, step.Moves)
	require.Zero(t, moved)
	require.Empty(t, left)
	require.Zero(t, o.pending())
}

func TestReplay_SelectsByKeyTypeTimeAndEventID(t *testing.T) {
	o := open(t)
	o.write("orders", 10)
	_, lease := o.claimOne()
	o.drain(lease)
	ids := query[[]string](o, `SELECT array_agg(event_id::text ORDER BY id) FROM outbox.event`)
	middle := query[time.Time](o, `SELECT created_at FROM outbox.event ORDER BY id OFFSET 4 LIMIT 1`).Format(time.RFC3339Nano)
	for want, chosen := range map[int]relay.Selection{
		1: {Key: "k3"}, 2: {EventIDs: ids[:2]}, 0: {Type: "Other"}, 10: {Type: "T"}, 4: {Until: middle}, 6: {Since: middle},
	} {
		n, _, err := o.CountPublished(t.Context(), "orders", chosen, nil)
		require.NoError(t, err)
		require.EqualValues(t, want, n, "%+v", chosen)
		require.Equal(t, want, o.operate(relay.Replay, chosen, 3), "%+v", chosen)
		if want > 0 {
			_, lease := o.claimOne()
			o.drain(lease)
		}
	}
}

func TestOperation_GivenTwiceIsOneAndMovesNothingOnceItIsOver(t *testing.T) {
	o := open(t)
	o.write("orders", 3)
	o.bury("Poison")
	ask := relay.Operation{Kind: relay.Redrive, Topic: "orders", By: "ada", Reason: "x", Selection: relay.Selection{Since: "1h"}, WorkflowID: "w/"}
	id, joined, err := o.BeginOperation(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined)
	again, joined, err := o.BeginOperation(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, joined)
	require.Equal(t, id, again)
	u := o.underWay(id)
	step, err := o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	require.Len(t, step.Moves, 3, "they died within the hour before it was asked for")
	require.NoError(t, o.EndOperation(t.Context(), id, "cancelled", 0))
	_, _, err = o.Move(t.Context(), u, step.Moves)
	require.ErrorIs(t, err, relay.ErrOperationOver)
	require.NoError(t, o.EndOperation(t.Context(), id, "done", 0))
	require.Equal(t, "cancelled", o.underWay(id).Outcome, "the first outcome stays")
	third, joined, err := o.BeginOperation(t.Context(), ask)
	require.NoError(t, err)
	require.False(t, joined)
	require.Greater(t, third, id)
	_, err = o.Operation(t.Context(), 4711)
	require.ErrorIs(t, err, relay.ErrUnknownOperation)
}

// A failover or a restore loses what was moved last, and the record with it.
func TestCompleteOperation_OfWhatTheRecordLacksLeavesItUnderWay(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	require.Len(t, o.publishAll(), 5)
	u := o.begin(relay.Replay, relay.Selection{})
	moved, left, over := o.step(&u, 10)
	require.Equal(t, 5, moved)
	require.Empty(t, left)
	require.True(t, over)
	o.exec(`DELETE FROM outbox.pending`)
	o.exec(`UPDATE outbox.operation SET done = 0, next_after = 0, lanes_after = array_fill(0::bigint, ARRAY[16])`)
	require.NoError(t, o.CompleteOperation(t.Context(), u.ID, u.Holder, 5))
	require.Nil(t, o.underWay(u.ID).Finished)

	u = o.underWay(u.ID)
	moved, _, _ = o.step(&u, 10)
	require.Equal(t, 5, moved, "they are replayed once more")
	require.NoError(t, o.CompleteOperation(t.Context(), u.ID, u.Holder, 5))
	require.NotNil(t, o.underWay(u.ID).Finished)
	require.Equal(t, "done", o.underWay(u.ID).Outcome)
}

func TestRelayRole_SufficesForOperations(t *testing.T) {
	owner := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, owner.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	o := owner
	o.Store = limited
	o.write("orders", 6)
	o.bury("Poison")
	require.Equal(t, 1, o.operate(relay.Discard, relay.Selection{Key: "k1"}, 10))
	require.Equal(t, 5, o.operate(relay.Redrive, relay.Selection{}, 10))
	_, lease := o.claimOne()
	o.drain(lease)
	require.Equal(t, 5, o.operate(relay.Replay, relay.Selection{}, 10))
	require.NoError(t, o.Reserve(t.Context(), "orders", []int16{1}, time.Second))
	require.EqualValues(t, 5, o.delivered(o.last()).Pending)
}

func TestOperation_KeepsTheTimesOfItsBeginning(t *testing.T) {
	o := open(t)
	o.write("orders", 4)
	_, lease := o.claimOne()
	o.drain(lease)
	u := o.begin(relay.Replay, relay.Selection{Since: "1h"})
	u.At = u.At.Add(2 * time.Hour)
	step, err := o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	require.Empty(t, step.Moves)
	u.At = u.At.Add(-2 * time.Hour)
	step, err = o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	require.Len(t, step.Moves, 4)
}

// Two attempts at once: the first cannot reach Temporal, which has begun the second, and
// goes on until it renews.
func TestOperation_WaitsForAnAttemptThatWasFollowedBeforeItsEnd(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	o.bury("Poison")
	o.writeKey("orders", "a", 1)
	b, first := o.claimOne()
	require.Len(t, o.load(first), 1) // it has the later event in hand
	second, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, o.Keep(t.Context(), second, b.Lanes))
	u := o.begin(relay.Redrive, relay.Selection{})
	moved, left, _ := o.step(&u, 10)
	require.Zero(t, moved, "the first attempt may still send")
	o.exec(`UPDATE outbox.lane SET quiet_at = now() - interval '1 second'`)
	moved, _ = o.move(&u, left)
	require.Equal(t, 1, moved)
}

func TestTakeOver_KeepsABatchWhoseLeaseExpiredBetweenTwoAttempts(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "a", 1)
	o.bury("Poison")
	o.writeKey("orders", "a", 1)
	b, lease := o.claimOne()
	require.NoError(t, o.Keep(t.Context(), lease, b.Lanes))
	o.expireLeases()
	require.Equal(t, 1, o.operate(relay.Redrive, relay.Selection{}, 10))
	again, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, o.drain(again), 2)
}

// Of two attempts at a step the slower one has read what has died anew since.
func TestMove_LeavesADeadLetterThatDiedAnewSinceItWasRead(t *testing.T) {
	for _, kind := range []string{relay.Redrive, relay.Discard} {
		o := open(t)
		o.write("orders", 3)
		o.bury("Poison")
		u := o.begin(kind, relay.Selection{})
		step, err := o.NextStep(t.Context(), u, u.From, 10)
		require.NoError(t, err)
		require.Equal(t, 3, o.operate(relay.Redrive, relay.Selection{Code: "Poison"}, 10))
		o.bury("Other")
		moved, left := o.move(&u, step.Moves)
		require.Zero(t, moved, kind)
		require.Empty(t, left)
	}
}

func TestOperation_HasTheEventsThatWereThereWhenItWasCounted(t *testing.T) {
	o := open(t)
	o.write("orders", 2)
	o.bury("Poison")
	c, err := o.CountDead(t.Context(), "orders", relay.Selection{})
	require.NoError(t, err)
	o.write("orders", 5)
	o.bury("Poison") // while somebody thinks about it
	id, _, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Discard, Topic: "orders", By: "ada", Reason: "x", Matched: c.Events, At: c.At})
	require.NoError(t, err)
	u := o.underWay(id)
	moved, _, _ := o.step(&u, 10)
	require.Equal(t, 2, moved)
}

// The number of an operation is the microsecond in which it begins.
func TestOperation_ThatBeginsInTheMicrosecondOfAnotherHasANumberOfItsOwn(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	o.exec(`CREATE SEQUENCE microsecond START 2; ALTER TABLE outbox.operation ALTER COLUMN id SET DEFAULT nextval('microsecond') / 2`)
	for want, topic := range []string{"orders", "audit"} {
		id, joined, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Redrive, Topic: topic, By: "ada", Reason: "a test"})
		require.NoError(t, err)
		require.False(t, joined)
		require.EqualValues(t, want+1, id)
	}
	changed, err := o.Pause(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "a test"})
	require.NoError(t, err)
	require.True(t, changed)
	_, joined, err := o.RecordRecoveryRequest(t.Context(), relay.Operation{Kind: relay.RecoverNow, Topic: "orders", By: "ada", Reason: "a test"})
	require.NoError(t, err)
	require.False(t, joined)
	require.Equal(t, 4, query[int](o, `SELECT count(*)::int FROM outbox.operation`))
}

// The same may end in the moment in which it is about to be joined.
func TestBeginOperation_BeginsOrJoinsHoweverOftenTheSameEnds(t *testing.T) {
	o := open(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				id, _, err := o.BeginOperation(t.Context(), relay.Operation{Kind: relay.Redrive, Topic: "orders", By: "ada", Reason: "a test"})
				if err == nil {
					err = o.EndOperation(t.Context(), id, "done", 0)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
