package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestRounds_AdvanceFromFactToFact(t *testing.T) {
	for name, c := range map[string]struct {
		is      roundState
		holders []string
		close   bool
		becomes roundState
		changed bool
	}{
		"nothing waits and nothing is asked": {is: roundState{number: 5, ended: 4}, holders: []string{"3/1"}, becomes: roundState{number: 5, ended: 4}},
		"closed when asked":                  {is: roundState{number: 5, ended: 4}, close: true, becomes: roundState{number: 6, ended: 4}, changed: true},
		"listed":                             {is: roundState{number: 6, ended: 4}, holders: []string{"3/1"}, becomes: roundState{number: 6, ended: 4, writers: []string{"3/1"}}, changed: true},
		"ended at once if nobody writes":     {is: roundState{number: 6, ended: 4}, becomes: roundState{number: 6, ended: 5, writers: []string{}}, changed: true},
		"waits while one of them writes": {
			is: roundState{number: 6, ended: 4, writers: []string{"3/1", "4/7"}}, holders: []string{"9/9", "4/7"}, close: true,
			becomes: roundState{number: 6, ended: 4, writers: []string{"3/1", "4/7"}},
		},
		"ends without them, whoever else writes": {
			is: roundState{number: 6, ended: 4, writers: []string{"3/1"}}, holders: []string{"3/2", "9/9"},
			becomes: roundState{number: 6, ended: 5, writers: []string{}}, changed: true,
		},
		"a prepared transaction has another name after a restart": {
			is: roundState{number: 6, ended: 4, writers: []string{"3/1"}}, holders: []string{"5/1", "-1/77"},
			becomes: roundState{number: 6, ended: 4, writers: []string{"-1/77"}}, changed: true,
		},
		"and then keeps it": {
			is: roundState{number: 6, ended: 4, writers: []string{"-1/77"}}, holders: []string{"-1/78"},
			becomes: roundState{number: 6, ended: 5, writers: []string{}}, changed: true,
		},
	} {
		becomes, changed := c.is.next(c.holders, c.close)
		require.Equal(t, c.changed, changed, name)
		require.Equal(t, c.becomes, becomes, name)
	}
}

// publishAll drains what is pending, batch by batch.
func (o testOutbox) publishAll() (ids []int64) {
	o.t.Helper()
	for batches := o.claim(); len(batches) > 0; batches = o.claim() {
		for _, b := range batches {
			lease, err := o.TakeOver(o.t.Context(), b)
			require.NoError(o.t, err)
			ids = append(ids, o.drain(lease)...)
		}
	}
	return ids
}

func (o testOutbox) lowID(topic string) int64 {
	o.t.Helper()
	return query[int64](o, `SELECT max(low_id) FROM outbox.lane WHERE topic = $1`, topic)
}

// openWriters are ways to have drawn the next id, of key k in topic orders, and to hold it.
var openWriters = map[string]func(o testOutbox) (commit func()){
	"inserted and open": func(o testOutbox) func() {
		tx := slow(o, "orders", "k")
		return func() { require.NoError(o.t, tx.Commit(o.t.Context())) }
	},
	"prepared": func(o testOutbox) func() {
		tx := slow(o, "orders", "k")
		gid := fmt.Sprint("outbox-test-", time.Now().UnixNano())
		_, err := tx.Exec(o.t.Context(), fmt.Sprintf(`PREPARE TRANSACTION '%s'`, gid))
		require.NoError(o.t, err)
		o.t.Cleanup(func() { _, _ = o.db.Exec(context.Background(), fmt.Sprintf(`ROLLBACK PREPARED '%s'`, gid)) })
		return func() { o.exec(fmt.Sprintf(`COMMIT PREPARED '%s'`, gid)) }
	},
	// It draws its id before it has a transaction id, and so shows in no snapshot.
	"a slow statement": func(o testOutbox) func() {
		gate, err := o.db.Begin(o.t.Context())
		require.NoError(o.t, err)
		_, err = gate.Exec(o.t.Context(), `SELECT pg_advisory_xact_lock(4711)`)
		require.NoError(o.t, err)
		done := make(chan error, 1)
		go func() {
			_, err := o.db.Exec(o.t.Context(), `INSERT INTO outbox.event (topic, key, type, payload)
			    VALUES ('orders', 'k', 'T', (SELECT 'late' || coalesce(pg_advisory_xact_lock(4711)::text, '')))`)
			done <- err
		}()
		waitFor(o.t, "the statement to have drawn its id", func() bool {
			return query[int](o, `SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
			    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 1
		})
		return func() {
			require.NoError(o.t, gate.Commit(o.t.Context()))
			require.NoError(o.t, <-done)
		}
	},
}

// The low watermark waits for a transaction that may insert, however long: what its key
// has after it must not be claimed first.
func TestWatermark_WaitsForWhoeverHasDrawnAnID(t *testing.T) {
	for name, begin := range openWriters {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
			o.claim()
			o.sweepOnlyByHand()
			o.roundsAtOnce()
			commit := begin(o) // has id 1
			for range 3 {
				o.writeKey("orders", "k", 3) // as if of another key of the lane
				require.Len(t, o.publishAll(), 3)
				_, _, err := o.AdvanceRounds(t.Context(), true)
				require.NoError(t, err)
			}
			require.LessOrEqual(t, o.lowID("orders"), int64(1))
			commit()
			o.writeKey("orders", "k", 1) // serialised behind it
			require.Equal(t, []int64{1, 11}, o.publishAll(), "in one claim, in order")
			o.endRounds()
			require.Greater(t, o.lowID("orders"), int64(1))
		})
	}
}

// A commit may come between the look of an attempt and the end of its round. The low watermark is
// used only after another look.
func TestWatermark_LooksAgainForWhatCommittedBeforeItsRoundEnded(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.claim()
	o.sweepOnlyByHand()
	tx := slow(o, "orders", "k") // has id 1
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	require.Len(t, o.drain(lease), 3, "the low watermark is behind them")
	require.NoError(t, tx.Commit(t.Context()))
	o.endRounds()
	require.Equal(t, int64(1), o.lowID("orders"))
	require.Equal(t, []int64{1}, o.publishAll())
	o.endRounds()
	require.Equal(t, int64(5), o.lowID("orders"))
}

// A transaction of another table, or one that reads the outbox, holds nothing back.
func TestWatermark_WaitsForNobodyWhoCannotInsert(t *testing.T) {
	for name, sql := range map[string]string{
		"a writer of another table": `CREATE TABLE other AS SELECT pg_current_xact_id()`,
		"a reader":                  `SELECT count(*) FROM outbox.event, outbox.pending`,
		"one that locks a row":      `SELECT count(*) FROM (SELECT FROM outbox.event FOR UPDATE) locked`,
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			tx, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.Background()) }()
			_, err = tx.Exec(t.Context(), sql)
			require.NoError(t, err)
			o.writeKey("orders", "k", 3)
			require.Len(t, o.publishAll(), 3)
			o.endRounds()
			require.Equal(t, int64(4), o.lowID("orders"))
		})
	}
}

// An attempt of before a failover knows ids that the database gives to other events now.
func TestRelease_NotesNoMarkOfAnotherHistory(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	read := relay.Read{Next: map[int16]int64{}}
	for _, e := range page.Events {
		read.Loaded(e.Ref)
	}
	o.restore()
	require.NoError(t, o.Release(t.Context(), lease, read))
	require.Zero(t, query[int64](o, `SELECT max(mark_id) FROM outbox.lane`))
	exists, err := o.Exists(t.Context(), page.Events[0].Ref)
	require.NoError(t, err)
	require.False(t, exists)
}

// Rounds count anew where outbox.round was not restored with the lanes.
func TestRelease_ReplacesAMarkOfARoundThatNeverWas(t *testing.T) {
	o := open(t)
	o.sweepOnlyByHand()
	o.writeKey("orders", "k", 3)
	require.Len(t, o.publishAll(), 3)
	o.exec(`UPDATE outbox.lane SET mark_id = low_id + 1, mark_round = 5000`)
	o.writeKey("orders", "k", 3)
	require.Len(t, o.publishAll(), 3)
	o.endRounds()
	require.Equal(t, int64(7), o.lowID("orders"))
}

// The rounds advance by themselves while events flow, and rest when none do.
func TestRounds_AdvanceByThemselves(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	require.Len(t, o.publishAll(), 3)
	waitFor(t, "the low watermark", func() bool {
		o.claim()
		return o.lowID("orders") == 4
	})
	waitFor(t, "the rounds to rest", func() bool {
		o.claim() // as idle workers do: a round for what was read during the last one is due later
		o.rounds.mu.Lock()
		defer o.rounds.mu.Unlock()
		return !o.rounds.busy && !o.rounds.wanted && !o.rounds.waits
	})
}

func (o testOutbox) finalID() int64 {
	o.t.Helper()
	return query[int64](o, `SELECT final_id FROM outbox.round`)
}

func TestFinalID_WaitsForWhoeverHasDrawnAnID(t *testing.T) {
	for name, begin := range openWriters {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.roundsAtOnce()
			o.write("orders", 3)
			o.endRounds()
			require.EqualValues(t, 3, o.finalID())
			commit := begin(o) // has id 4
			for range 3 {
				o.write("orders", 3)
				_, _, err := o.AdvanceRounds(t.Context(), true)
				require.NoError(t, err)
				require.Less(t, o.finalID(), int64(4))
			}
			commit()
			o.endRounds()
			o.endRounds()
			require.EqualValues(t, 13, o.finalID())
		})
	}
}

// Which transactions a round waits for is known when it is closed. Later ones have later ids.
func TestFinalID_IsTheLastIDAtTheCloseOfTheRound(t *testing.T) {
	o := open(t)
	o.roundsAtOnce()
	tx := slow(o, "orders", "k") // has id 1
	o.write("orders", 3)
	closed, waits, err := o.AdvanceRounds(t.Context(), true)
	require.NoError(t, err)
	require.True(t, closed && waits)
	late := slow(o, "orders", "k") // has id 5, and is in no list
	require.NoError(t, tx.Commit(t.Context()))
	_, waits, err = o.AdvanceRounds(t.Context(), false)
	require.NoError(t, err)
	require.False(t, waits)
	require.EqualValues(t, 4, o.finalID())
	require.NoError(t, late.Commit(t.Context()))
}

func TestFinalID_IsOfTheTimeBeforeTheCloseOfItsRound(t *testing.T) {
	o := open(t)
	require.Equal(t, "-infinity", query[string](o, `SELECT final_id_at::text FROM outbox.round`))
	o.write("orders", 1)
	before := query[time.Time](o, `SELECT clock_timestamp()`)
	o.endRounds()
	o.write("orders", 1)
	at := query[time.Time](o, `SELECT final_id_at FROM outbox.round`)
	require.False(t, at.Before(before))
	require.True(t, at.Before(query[time.Time](o, `SELECT created_at FROM outbox.event WHERE id = 2`)))
}

// oldMoveRoundSQL is moveRoundSQL of version 0.1.0, which knows no final id.
const oldMoveRoundSQL = `
UPDATE outbox.round SET number = $4, ended = $5, writers = $6, closed_at = CASE WHEN number = $4 THEN closed_at ELSE clock_timestamp() END
WHERE number = $1 AND ended = $2 AND writers IS NOT DISTINCT FROM $3`

// An earlier version may close a round and this one end it, or the other way around.
func TestFinalID_OnlyLagsBesideAnEarlierVersion(t *testing.T) {
	o := open(t)
	o.roundsAtOnce()
	o.write("orders", 3)
	o.endRounds()
	number := query[int64](o, `SELECT number FROM outbox.round`)
	o.write("orders", 3)
	o.exec(oldMoveRoundSQL, number, number-1, []string{}, number+1, number-1, nil) // closed
	o.endRounds()
	require.EqualValues(t, 3, min(o.finalID(), 3))
	o.endRounds()
	require.EqualValues(t, 6, o.finalID())

	tx := slow(o, "orders", "k") // has id 7
	_, _, err := o.AdvanceRounds(t.Context(), true)
	require.NoError(t, err)
	number = query[int64](o, `SELECT number FROM outbox.round`)
	writers := query[[]string](o, `SELECT writers FROM outbox.round`)
	require.NotEmpty(t, writers)
	require.NoError(t, tx.Commit(t.Context()))
	o.exec(oldMoveRoundSQL, number, number-2, writers, number, number-1, []string{}) // ended
	require.EqualValues(t, 6, o.finalID())
	o.endRounds()
	require.EqualValues(t, 7, o.finalID())
}

// A sequence that was set back gives ids below the final one. The next round knows.
func TestFinalID_FollowsASequenceThatIsSetBack(t *testing.T) {
	o := open(t)
	o.write("orders", 9)
	o.endRounds()
	require.EqualValues(t, 9, o.finalID())
	o.exec(`DELETE FROM outbox.pending`)
	o.exec(`DELETE FROM outbox.event`)
	o.exec(`ALTER SEQUENCE outbox.event_id_seq RESTART`)
	o.write("orders", 2)
	o.endRounds()
	require.EqualValues(t, 2, o.finalID())
}

// A role that may not read the sequence ends rounds as before.
func TestFinalID_StaysWhereTheRoleMayNotReadTheSequence(t *testing.T) {
	o := open(t)
	o.write("orders", 9)
	o.endRounds()
	s := testOutbox{o.asRelay(), t, o.db}
	o.write("orders", 1)
	s.endRounds()
	require.EqualValues(t, 10, o.finalID())
	o.exec(`REVOKE SELECT ON SEQUENCE outbox.event_id_seq FROM outbox_relay`)
	o.write("orders", 1)
	s.endRounds()
	require.EqualValues(t, 10, o.finalID())
	require.ErrorContains(t, s.sequenceWarning(t.Context()), "GRANT SELECT ON SEQUENCE")
}
