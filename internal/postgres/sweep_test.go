package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// slow begins a transaction that has taken the lowest id and has not committed.
func slow(o testOutbox, topic, key string) pgx.Tx {
	o.t.Helper()
	tx, err := o.db.Begin(o.t.Context())
	require.NoError(o.t, err)
	o.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(o.t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, 'T', 'late')`, topic, key)
	require.NoError(o.t, err)
	return tx
}

func (o testOutbox) sweepOnlyByHand() {
	o.sweep.mu.Lock()
	defer o.sweep.mu.Unlock()
	o.sweep.next = time.Now().Add(time.Hour)
}

func TestClaim_FindsATransactionThatCommittedLate(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.claim() // the sweep that every process begins with is done
	tx := slow(o, "orders", "k")
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	require.Len(t, o.drain(lease), 3)
	o.sweepOnlyByHand()
	require.NoError(t, tx.Commit(t.Context()))
	_, lease = o.claimOne()
	require.Equal(t, []int64{1}, o.drain(lease))
}

func TestSweep_FindsEventsThatArePendingBelowTheMark(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 1)
	o.claim()
	o.sweepOnlyByHand()
	o.exec(`UPDATE outbox.lane SET low_id = 100, leased_until = NULL, claim_id = NULL`)
	require.Empty(t, o.claim(), "below the low watermark")
	require.NoError(t, o.Sweep(t.Context()))
	_, lease := o.claimOne()
	require.Equal(t, []int64{1}, o.drain(lease))
}

func TestClaim_SweepsByItself(t *testing.T) {
	o := open(t)
	require.Empty(t, o.claim())
	o.write("new-topic", 3) // whose lanes nobody has made yet
	waitFor(t, "the look that a claim starts each second", func() bool { return events(o.claim()) == 3 })
}

func TestFindTopics_FindsEachBetweenThoseThatAreKnown(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"c", "h"}))
	for _, topic := range []string{"a", "b", "c", "d", "e", "h", "x", "y"} {
		o.write(topic, 2)
	}
	require.NoError(t, o.findTopics(t.Context()))
	require.Equal(t, []string{"a", "b", "c", "d", "e", "h", "x", "y"}, query[[]string](o, `SELECT array_agg(DISTINCT topic ORDER BY topic) FROM outbox.lane`))
	require.Equal(t, 8*relay.Lanes, query[int](o, `SELECT count(*)::int FROM outbox.lane`))
}

// A look that reads what was settled of the known topics grows with the oldest snapshot.
func TestFindTopics_ReadsNothingOfKnownTopics(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"audit", "orders"}))
	holder, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer holder.Rollback(t.Context())
	_, err = holder.Exec(t.Context(), `SELECT count(*) FROM outbox.pending`)
	require.NoError(t, err)
	o.write("audit", 20_000)
	o.write("orders", 20_000)
	o.exec(`DELETE FROM outbox.pending`)
	o.write("audit", 1)
	pages := pagesOf(o, findTopicsSQL, relay.Lanes)
	all := pagesOf(o, sweepSQL, relay.Lanes)
	t.Logf("pages read by a look for new topics: %d, by a sweep: %d", pages, all)
	require.Greater(t, all, 10*pages)
}

func TestClaim_FindsTheFirstEventOfAConfiguredTopicWithoutASweep(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders", "audit"}))
	require.Empty(t, o.claim())
	o.write("orders", 3)
	require.Equal(t, 3, events(o.claim()))
}

// While somebody holds a snapshot, what was settled cannot be cleaned up. A claim
// must not read it again each time: that made claims a hundred times slower.
func TestClaim_ReadsNoSettledRowsUnderAHeldSnapshot(t *testing.T) {
	o := open(t)
	holder, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer holder.Rollback(t.Context())
	_, err = holder.Exec(t.Context(), `SELECT count(*) FROM outbox.pending`)
	require.NoError(t, err)
	for range 3 {
		o.write("orders", 8000)
		for batches := o.claim(); len(batches) > 0; batches = o.claim() {
			for _, b := range batches {
				lease, err := o.TakeOver(t.Context(), b)
				require.NoError(t, err)
				o.drain(lease)
			}
		}
		o.endRounds()
	}
	bounded := pagesRead(o, waitingLanesSQL)
	o.exec(`UPDATE outbox.lane SET low_id = 0`)
	unbounded := pagesRead(o, waitingLanesSQL)
	t.Logf("pages read by a claim that finds nothing: %d, without low watermarks %d", bounded, unbounded)
	require.Greater(t, unbounded, 20*bounded)
}

// plan is the part of EXPLAIN's output that counts pages.
type plan []struct {
	Plan struct {
		Hit  int `json:"Shared Hit Blocks"`
		Read int `json:"Shared Read Blocks"`
	}
}

// pagesRead is that of what a claim looks for.
func pagesRead(o testOutbox, sql string) int {
	o.t.Helper()
	return pagesOf(o, sql, 4, []string{}, []int{}, []string(nil), 0, timing.ShareFirst)
}

func pagesOf(o testOutbox, sql string, args ...any) int {
	o.t.Helper()
	p := query[plan](o, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+sql, args...)
	return p[0].Plan.Hit + p[0].Plan.Read
}
