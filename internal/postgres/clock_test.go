package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// These tests are about times that a server wrote whose clock was ahead: it was corrected
// since, or another server has the database now.

func TestRounds_CloseThoughTheLastClosedAheadOfTheClock(t *testing.T) {
	o := open(t)
	o.exec(`UPDATE outbox.round SET closed_at = now() + interval '10 minutes'`)
	o.writeKey("orders", "k", 3)
	require.Len(t, o.publishAll(), 3)
	o.endRounds()
	// The store advances rounds by itself as well, and may hold the lanes at this moment.
	waitFor(t, "the low watermark to rise", func() bool {
		_, _, err := o.AdvanceRounds(t.Context(), false)
		require.NoError(t, err)
		return o.lowID("orders") == 4
	})
}

func TestSample_IsTakenThoughItsTurnIsAheadOfTheClock(t *testing.T) {
	o := open(t)
	for _, by := range []string{"a", "b"} {
		o.exec(`UPDATE outbox.sample SET by = 'a', due_at = now() + interval '10 days'`)
		taken, _ := o.acquireSampling(by)
		require.True(t, taken, by)
		taken, _ = o.acquireSampling(by)
		require.False(t, taken, "only one of the calls gets the right")
	}
	require.NoError(t, o.DeferSampling(t.Context(), "b", time.Hour))
	taken, wait := o.acquireSampling("a")
	require.False(t, taken)
	require.LessOrEqual(t, wait, timing.SampleDeferMost+2*time.Second, "so far ahead and no further")
}

// ahead has a clock that is ahead by ten days write every time of the lanes that is there.
func (o testOutbox) ahead() {
	o.t.Helper()
	o.exec(`UPDATE outbox.lane SET leased_until = leased_until + interval '10 days', claimed_at = claimed_at + interval '10 days',
	            quiet_at = quiet_at + interval '10 days', reserved_until = reserved_until + interval '10 days'`)
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = recovery_paused_until + interval '10 days'`)
}

func TestLanes_AreHeldNoLongerThanALeaseThoughTheClockWasAhead(t *testing.T) {
	o := open(t)
	o.write("orders", 20)
	_, dead := o.claimOne()
	o.exec(`UPDATE outbox.lane SET quiet_at = leased_until, reserved_until = leased_until`)
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "w", timing.RecoveryHold))
	o.ahead()
	require.NoError(t, o.Sweep(t.Context()))
	require.True(t, query[bool](o, `SELECT max(greatest(leased_until, quiet_at, reserved_until)) <= clock_timestamp() + $1::interval
		        AND max(claimed_at) <= clock_timestamp() AND (SELECT max(recovery_paused_until) FROM outbox.topic) <= clock_timestamp() + $2::interval
		    FROM outbox.lane`, timing.Lease, timing.RecoveryHold))
	require.Equal(t, len(dead.LowID), query[int](o, `SELECT count(leased_until)::int FROM outbox.lane`), "a free lane stays free")
	// What time would do.
	o.exec(`UPDATE outbox.lane SET leased_until = leased_until - $1::interval, quiet_at = quiet_at - $1::interval, reserved_until = reserved_until - $1::interval`, timing.Lease)
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = recovery_paused_until - $1::interval`, timing.RecoveryHold)
	require.Equal(t, 20, events(o.claim()))
}

func TestLanes_StayWithTheirWorkerThoughTheClockWasAhead(t *testing.T) {
	o := open(t)
	o.write("orders", 20)
	_, lease := o.claimOne()
	o.ahead()
	require.NoError(t, o.Sweep(t.Context()))
	require.True(t, query[bool](o, `SELECT max(leased_until) <= clock_timestamp() + $1::interval FROM outbox.lane`, timing.Lease))
	require.Empty(t, o.claim())
	page, err := o.Load(t.Context(), lease, nil, relay.PageEvents)
	require.NoError(t, err)
	require.Len(t, page.Events, 20)
	require.Len(t, o.drain(lease), 20)
}

func TestRefusals_AreCountedFromNowIfTheyBeganAheadOfTheClock(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 1)
	require.NoError(t, err)
	refused := refusedAs("InternalError", page.Events[0].Ref)
	_, err = o.Refuse(t.Context(), "orders", refused)
	require.NoError(t, err)
	o.exec(`UPDATE outbox.refusal SET first_at = now() + interval '10 days', last_at = now() + interval '10 days'`)
	_, err = o.Refuse(t.Context(), "orders", refused)
	require.NoError(t, err)
	again, err := o.Refuse(t.Context(), "orders", refused)
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.GreaterOrEqual(t, again[0].For, time.Duration(0))
}

// A worker may know that a round has ended in another history of the database.
func TestWatermark_BelievesOnlyItsOwnDatabaseThatARoundHasEnded(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.claim()
	tx := slow(o, "orders", "k") // has id 1
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	require.Len(t, o.drain(lease), 3)
	require.NoError(t, o.raise(t.Context(), 1000))
	require.LessOrEqual(t, o.lowID("orders"), int64(1))
	require.NoError(t, tx.Rollback(t.Context()))
}

// The writers of a round are looked for where it is noted that they have ended.
func TestRounds_ListWritersOfTheDatabaseThatTheyAreNotedIn(t *testing.T) {
	old, promoted := open(t), open(t)
	for _, o := range []testOutbox{old, promoted} {
		o.exec(`UPDATE outbox.round SET number = 2`) // closed, and its writers are not listed yet
	}
	tx := slow(promoted, "orders", "k")
	defer func() { _ = tx.Rollback(context.Background()) }()

	// Its first connection is to the old primary.
	cfg := old.pool.Config()
	first := true
	cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if !first {
			c.Database = promoted.pool.Config().ConnConfig.Database
		}
		first = false
		return nil
	}
	cfg.AfterRelease = func(*pgx.Conn) bool { return false }
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer pool.Close()
	moving := &Store{cfg: old.cfg, pool: pool}
	_, _, err = moving.AdvanceRounds(t.Context(), false)
	require.NoError(t, err)
	require.Zero(t, query[int64](promoted, `SELECT ended FROM outbox.round`))
}

func TestDeadLetters_AheadOfTheClockAreCountedAndMoved(t *testing.T) {
	for _, kind := range []string{relay.Redrive, relay.Discard} {
		o := open(t)
		o.write("orders", 3)
		require.Len(t, o.bury("Poison"), 3)
		o.exec(`UPDATE outbox.dead_letter SET dead_at = dead_at + interval '10 days'`)
		counted, err := o.CountDead(t.Context(), "orders", relay.Selection{})
		require.NoError(t, err)
		require.EqualValues(t, 3, counted.Events)
		require.Equal(t, 3, o.operate(kind, relay.Selection{}, 10), kind)
	}
}

func TestOperation_BegunAheadOfTheClockMovesNothingTwice(t *testing.T) {
	o := open(t)
	o.write("orders", 3)
	require.Len(t, o.bury("Poison"), 3)
	id := o.begin(relay.Redrive, relay.Selection{}).ID
	o.exec(`UPDATE outbox.operation SET at = at + interval '10 days'`)
	u := o.underWay(id) // as another attempt reads it
	moved, _, _ := o.step(&u, 10)
	require.Equal(t, 3, moved)
	require.Len(t, o.bury("Poison"), 3)
	u.From = relay.Cursor{}
	moved, _, _ = o.step(&u, 10)
	require.Zero(t, moved)
}
