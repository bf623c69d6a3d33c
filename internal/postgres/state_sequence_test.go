package postgres

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// restart sets the sequence of ids back, as a copy of the rows without it does.
func (o testOutbox) restart() {
	o.t.Helper()
	o.exec(`ALTER TABLE outbox.event ALTER COLUMN id RESTART`)
}

func TestState_OfAHealthyDatabaseIsGood(t *testing.T) {
	o := open(t)
	s := testOutbox{o.asRelay(), t, o.db}
	require.NoError(t, s.State(t.Context()), "without an event")
	o.write("orders", 50)
	require.NoError(t, s.State(t.Context()))
	o.drain(second(s.claimOne()))
	o.endRounds()
	require.Positive(t, query[int64](o, `SELECT max(low_id) FROM outbox.lane`))
	require.NoError(t, s.State(t.Context()), "a low watermark may be one above the last id")
	o.exec(`DELETE FROM outbox.event`)
	require.NoError(t, s.State(t.Context()), "after retention")
	o.exec(`ALTER TABLE outbox.event ALTER COLUMN id SET CACHE 20`)
	o.write("orders", 3)
	require.NoError(t, s.State(t.Context()), "with a cache")
	o.exec(`SELECT setval('outbox.event_id_seq', 1000, false)`)
	require.NoError(t, s.State(t.Context()), "set ahead")
	o.write("orders", 1)
	require.NoError(t, s.State(t.Context()))
}

// Events that are written while the database is looked at have ids above all that it finds.
func TestState_IsGoodWhileEventsAreWritten(t *testing.T) {
	o := open(t)
	s := o.asRelay()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			o.write("orders", 3)
		}
	}()
	for running := true; running; {
		require.NoError(t, s.State(t.Context()))
		select {
		case <-done:
			running = false
		default:
		}
	}
}

func TestState_OfASequenceBehindTheEventsNamesTheRemedy(t *testing.T) {
	for name, behind := range map[string]func(o testOutbox){
		"restarted": func(o testOutbox) { o.write("orders", 50); o.restart() },
		"set back":  func(o testOutbox) { o.write("orders", 50); o.exec(`SELECT setval('outbox.event_id_seq', 49)`) },
		"behind the low watermarks": func(o testOutbox) {
			o.write("orders", 50)
			for _, b := range o.claim() {
				l, err := o.TakeOver(o.t.Context(), b)
				require.NoError(o.t, err)
				o.drain(l)
			}
			o.exec(`DELETE FROM outbox.event`)
			o.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			s := o.asRelay()
			behind(o)
			err := s.State(t.Context())
			require.ErrorContains(t, err, `SELECT setval('outbox.event_id_seq', 50)`)
			_, remedy, _ := strings.Cut(err.Error(), `run "`)
			remedy, _, _ = strings.Cut(remedy, `"`)
			o.exec(remedy)
			require.NoError(t, s.State(t.Context()))
			o.write("orders", 1)
			require.NoError(t, s.State(t.Context()))
		})
	}
}

func TestState_OfASequenceThatMayNotBeReadIsAWarning(t *testing.T) {
	o := open(t)
	s := o.asRelay()
	o.write("orders", 5)
	o.restart()
	o.exec(`REVOKE ALL ON SEQUENCE outbox.event_id_seq FROM outbox_relay, PUBLIC`)
	require.NoError(t, s.State(t.Context()))
	warnings := s.Warnings(t.Context())
	require.Len(t, warnings, 1)
	require.Equal(t, "sequence", warnings[0].Check)
	require.ErrorContains(t, warnings[0].Err, "GRANT SELECT ON SEQUENCE outbox.event_id_seq TO outbox_relay")
}

// The event has an id that the database gave to another event before.
func TestDeadLetter_OfAnIDThatADeadLetterHasLosesNothing(t *testing.T) {
	owner := open(t)
	o := testOutbox{owner.asRelay(), t, owner.db}
	o.writeKey("orders", "k", 1)
	o.bury("Poison")
	o.restart()
	o.writeKey("orders", "k", 2)
	_, lease := o.claimOne()
	refs := o.load(lease)
	require.Len(t, refs, 2)
	err := o.DeadLetter(t.Context(), lease, "relay", refusedAs("Poison", refs...))
	require.ErrorContains(t, err, "event 1 of the topic orders")
	require.ErrorContains(t, err, "starter dead")
	require.Equal(t, 3, o.pending()+query[int](o, `SELECT count(*) FROM outbox.dead_letter`))

	// A remedy that the text names.
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: lease.LowID}))
	require.Equal(t, 2, o.operate(relay.Discard, relay.Selection{}, 10))
	_, lease = o.claimOne()
	refs = o.load(lease)
	require.Len(t, refs, 1)
	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay", refusedAs("Poison", refs...)))
	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay", refusedAs("Poison", refs...)), "again")
	require.Zero(t, o.pending())
	require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.dead_letter`))
}

func TestRedrive_OfAnIDThatAPendingEventHasLosesNothing(t *testing.T) {
	owner := open(t)
	o := testOutbox{owner.asRelay(), t, owner.db}
	o.writeKey("orders", "k", 2)
	o.bury("Poison")
	o.restart()
	o.writeKey("orders", "k", 1)
	u := o.begin(relay.Redrive, relay.Selection{})
	step, err := o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	_, _, err = o.Move(t.Context(), u, step.Moves)
	require.ErrorContains(t, err, "an event that is pending has the id of a dead letter")
	require.Equal(t, 2, query[int](o, `SELECT count(*) FROM outbox.dead_letter`))
	require.Equal(t, 1, o.pending())

	o.drain(second(o.claimOne()))
	moved, left := o.move(&u, step.Moves)
	require.Equal(t, 2, moved)
	require.Empty(t, left)
	require.EqualValues(t, 2, o.underWay(u.ID).Done)
	require.Equal(t, 2, o.pending())
}

// A replay publishes a discarded event of which there is no record.
func TestDiscard_OfAnIDThatIsOnRecordLeavesTheDeadLetter(t *testing.T) {
	owner := open(t)
	o := testOutbox{owner.asRelay(), t, owner.db}
	o.writeKey("orders", "k", 1)
	o.bury("Poison")
	require.Equal(t, 1, o.operate(relay.Discard, relay.Selection{}, 10))
	o.restart()
	o.writeKey("orders", "k", 2)
	o.bury("Poison")
	u := o.begin(relay.Discard, relay.Selection{})
	step, err := o.NextStep(t.Context(), u, u.From, 10)
	require.NoError(t, err)
	require.Len(t, step.Moves, 2)
	for range 2 { // attempts
		u, err = o.TakeOperation(t.Context(), u.ID)
		require.NoError(t, err)
		_, _, err = o.Move(t.Context(), u, step.Moves)
		require.ErrorContains(t, err, "event 1 of the topic orders stays a dead letter")
		require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.dead_letter`), "the other is discarded")
		require.Equal(t, 2, query[int](o, `SELECT count(*) FROM outbox.discarded`))
		require.EqualValues(t, 1, o.underWay(u.ID).Done)
	}

	require.Equal(t, 1, o.operate(relay.Redrive, relay.Selection{}, 10), "the remedy that the text names")
	_, left := o.move(&u, step.Moves)
	require.Empty(t, left)
}

// A later look must not go back to a low watermark that was noted far above.
func TestSweep_LowersTheMarkWithTheLowWatermark(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 1)
	o.drain(second(o.claimOne()))
	o.endRounds()
	o.exec(`UPDATE outbox.lane SET low_id = 1000, mark_id = 1000, mark_round = 0`)
	o.writeKey("orders", "k", 1)
	require.NoError(t, o.Sweep(t.Context()))
	o.drain(second(o.claimOne()))
	o.endRounds()
	o.writeKey("orders", "k", 1)
	_, lease := o.claimOne()
	require.Len(t, o.load(lease), 1, "without another sweep")
}
