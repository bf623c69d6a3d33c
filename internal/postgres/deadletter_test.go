package postgres

import (
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func refusedAs(code string, refs ...relay.Ref) (outcomes []relay.Outcome) {
	for _, r := range refs {
		outcomes = append(outcomes, relay.Outcome{Ref: r, Err: &relay.PublishError{Code: code, Message: "it says so"}})
	}
	return outcomes
}

func (o testOutbox) load(l relay.Lease) (refs []relay.Ref) {
	o.t.Helper()
	page, err := o.Load(o.t.Context(), l, nil, relay.PageEvents)
	require.NoError(o.t, err)
	for _, e := range page.Events {
		refs = append(refs, e.Ref)
	}
	return refs
}

func TestDeadLetter_HasItsReasonAndKeyAndIsNoLongerPending(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	refs := o.load(lease)
	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay-1", refusedAs("InvalidMessageContents", refs[1])))
	require.Equal(t, 2, o.pending())
	require.Equal(t, "k InvalidMessageContents it says so 1 relay-1",
		query[string](o, `SELECT concat_ws(' ', key, code, message, attempts, workflow_id) FROM outbox.dead_letter WHERE id = $1`, refs[1].ID))
	require.Equal(t, "dead", query[string](o, `SELECT state FROM outbox.status WHERE id = $1`, refs[1].ID))

	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay-1", refusedAs("InvalidMessageContents", refs[1])), "again")
	require.Equal(t, 1, query[int](o, `SELECT count(*)::int FROM outbox.dead_letter`))
}

func TestDeadLetter_IsForTheHolderOnlyAndAllOrNothing(t *testing.T) {
	o := open(t)
	o.write("orders", 40)
	b, stale := o.claimOne()
	refs := o.load(stale)
	_, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	require.ErrorIs(t, o.DeadLetter(t.Context(), stale, "zombie", refusedAs("Poison", refs...)), relay.ErrClaimLost)
	require.Equal(t, 40, o.pending())

	// One lane in other hands is enough.
	current, err := o.TakeOver(t.Context(), b)
	require.NoError(t, err)
	o.exec(`UPDATE outbox.lane SET holder = gen_random_uuid() WHERE lane = $1`, refs[0].Lane)
	require.ErrorIs(t, o.DeadLetter(t.Context(), current, "relay", refusedAs("Poison", refs...)), relay.ErrClaimLost)
	require.Equal(t, 40, o.pending())
	require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.dead_letter`))
}

// An unlocked check of the holder would pass here: the take-over is not committed
// yet when dead-lettering begins, and is when it ends.
func TestDeadLetter_WaitsForATakeOverUnderWay(t *testing.T) {
	o := open(t)
	o.write("orders", 10)
	_, stale := o.claimOne()
	refs := o.load(stale)
	tx, err := o.db.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `UPDATE outbox.lane SET holder = gen_random_uuid()`)
	require.NoError(t, err)
	var wg sync.WaitGroup
	var lost error
	wg.Go(func() { lost = o.DeadLetter(t.Context(), stale, "zombie", refusedAs("Poison", refs...)) })
	waitFor(t, "the zombie to meet the lock", func() bool {
		return query[int](o, `SELECT count(*)::int FROM pg_stat_activity
		    WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	})
	require.NoError(t, tx.Commit(t.Context()))
	wg.Wait()
	require.ErrorIs(t, lost, relay.ErrClaimLost)
	require.Equal(t, 10, o.pending())
}

func TestRefuse_CountsOverAllRunsUntilTheEventGetsThrough(t *testing.T) {
	o := open(t)
	o.write("orders", 2)
	_, lease := o.claimOne()
	refs := o.load(lease)
	_, err := o.Refuse(t.Context(), "orders", refusedAs("InternalError", refs...))
	require.NoError(t, err)
	o.exec(`UPDATE outbox.refusal SET first_at = first_at - interval '1 hour' WHERE id = $1`, refs[0].ID)
	known, err := o.Refuse(t.Context(), "orders", refusedAs("InternalError", refs[0]))
	require.NoError(t, err)
	require.Len(t, known, 1)
	require.Equal(t, refs[0], known[0].Ref)
	require.Greater(t, known[0].For, time.Hour-time.Second)
	require.Equal(t, "pending InternalError 2", query[string](o,
		`SELECT concat_ws(' ', state, code, attempts) FROM outbox.status WHERE id = $1`, refs[0].ID))

	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay", refusedAs("InternalError", refs[0])))
	require.Equal(t, 3, query[int](o, `SELECT attempts FROM outbox.dead_letter`), "the attempts before count")
	require.NoError(t, o.Settle(t.Context(), "orders", refs[1:]))
	require.NoError(t, o.forgetRefusals(t.Context()))
	require.Zero(t, query[int](o, `SELECT count(*)::int FROM outbox.refusal`))
}

// A pause or an outage lies between the two refusals: the event has not failed for
// an hour.
func TestRefuse_BeginsTheTimeAnewAfterABreak(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	_, lease := o.claimOne()
	refs := o.load(lease)
	_, err := o.Refuse(t.Context(), "orders", refusedAs("InternalError", refs...))
	require.NoError(t, err)
	o.exec(`UPDATE outbox.refusal SET first_at = now() - interval '1 hour', last_at = now() - interval '6 minutes'`)
	known, err := o.Refuse(t.Context(), "orders", refusedAs("InternalError", refs...))
	require.NoError(t, err)
	require.Zero(t, known[0].For)
}

func TestClaim_CountsNoLaneThatWaitsForARetryInTheTopicsShare(t *testing.T) {
	o := open(t)
	o.write("slow", 40)
	r := request("one")
	r.Shares = map[string]int{"slow": 1}
	batches, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, batches, 1)
	lease, err := o.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	kept := o.load(lease)[0].Lane
	next := maps.Clone(lease.LowID)
	delete(next, kept)
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: next}))
	require.NoError(t, o.Keep(t.Context(), lease, []int16{kept}))
	again, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, again, 1, "the other lanes are published meanwhile")
	require.NotContains(t, again[0].Lanes, kept)

	require.NoError(t, o.ReleaseClaim(t.Context(), again[0]))
	_, err = o.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	none, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, none, "an attempt that has begun counts")
}

func TestBlocked_HasKeysWithADeadLetterInTheirTopicOnly(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "bad", 1)
	_, lease := o.claimOne()
	require.NoError(t, o.DeadLetter(t.Context(), lease, "relay", refusedAs("Poison", o.load(lease)...)))
	blocked, err := o.Blocked(t.Context(), "orders", []string{"good", "bad", ""})
	require.NoError(t, err)
	require.Equal(t, map[relay.Chain]int64{{Key: "bad"}: 1}, blocked, "with the id of the first")
	blocked, err = o.Blocked(t.Context(), "audit", []string{"bad"})
	require.NoError(t, err)
	require.Empty(t, blocked)
}

func TestLoad_LeavesOutThePayloadOfAnEventLargerThanAPage(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', $1), ('orders', 'k', 'T', 'small')`,
		strings.Repeat("x", relay.PageBytes+1))
	_, lease := o.claimOne()
	first, err := o.Load(t.Context(), lease, nil, relay.PageEvents)
	require.NoError(t, err)
	require.Len(t, first.Events, 1)
	require.Empty(t, first.Events[0].Payload)
	require.Empty(t, first.Events[0].EventID)
	require.Greater(t, first.Events[0].Bytes, int64(relay.PageBytes))
	require.True(t, first.More)
	next, err := o.Load(t.Context(), lease, []relay.Ref{first.Events[0].Ref}, relay.PageEvents)
	require.NoError(t, err)
	require.Equal(t, "small", next.Events[0].Payload)
}

func TestHoldForRecovery_ExpiresAndIsEndedByItsRecoveryOnly(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "outbox-recovery/orders", time.Minute))
	require.Empty(t, o.claim())
	require.NoError(t, o.EndRecoveryHold(t.Context(), "orders", "somebody else"))
	require.Empty(t, o.claim())
	o.exec(`UPDATE outbox.topic SET recovery_paused_until = now() - interval '1 second'`)
	_, lease := o.claimOne()
	require.NoError(t, o.Release(t.Context(), lease, relay.Read{Next: lease.LowID}))

	require.NoError(t, o.HoldForRecovery(t.Context(), "orders", "outbox-recovery/orders", time.Minute))
	o.exec(`UPDATE outbox.topic SET paused_at = now(), paused_by = 'ann'`)
	require.NoError(t, o.EndRecoveryHold(t.Context(), "orders", "outbox-recovery/orders"))
	require.Empty(t, o.claim(), "ann's pause is hers to lift")
	o.exec(`UPDATE outbox.topic SET paused_at = NULL, paused_by = NULL`)
	require.Len(t, o.claim(), 1)
}

func TestClaim_TakesNoMoreThanALoweredShareOfATopic(t *testing.T) {
	o := open(t)
	o.write("orders", 4*relay.PageEvents)
	o.write("audit", 4*relay.PageEvents)
	r := request("one")
	r.Shares = map[string]int{"orders": 1}
	batches, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	of := map[string]int{}
	for _, b := range batches {
		of[b.Topic]++
	}
	require.Equal(t, map[string]int{"orders": 1, "audit": 4}, of)
	// It counts over all claims, not for each.
	batches, err = o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, batches)
}
