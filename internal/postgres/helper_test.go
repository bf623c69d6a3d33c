package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// testOutbox is a store on a database of the test's own, and a pool beside it for
// what producers and operators do.
type testOutbox struct {
	*Store
	t  testing.TB
	db *pgxpool.Pool
}

func open(t testing.TB) testOutbox {
	t.Helper()
	url := testenv.DatabaseURL(t)
	return openBy(t, url, url)
}

// openBy has the store reach the database by another way than its producers.
func openBy(t testing.TB, way, url string) testOutbox {
	t.Helper()
	store, err := Open(t.Context(), Config{URL: way})
	require.NoError(t, err)
	t.Cleanup(store.Close)
	db, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return testOutbox{store, t, db}
}

func (o testOutbox) exec(sql string, args ...any) {
	o.t.Helper()
	_, err := o.db.Exec(o.t.Context(), sql, args...)
	require.NoError(o.t, err)
}

func query[T any](o testOutbox, sql string, args ...any) (v T) {
	o.t.Helper()
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), sql, args...).Scan(&v))
	return v
}

// write inserts n events of a topic, with keys k1 to kn.
func (o testOutbox) write(topic string, n int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT $1, 'k' || i, 'T', 'payload ' || i FROM generate_series(1, $2::int) i`, topic, n)
}

// writeKey inserts n events of one key.
func (o testOutbox) writeKey(topic, key string, n int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT $1, $2, 'T', 'payload ' || i FROM generate_series(1, $3::int) i`, topic, key, n)
}

func (o testOutbox) pending() int {
	o.t.Helper()
	return query[int](o, `SELECT count(*)::int FROM outbox.pending`)
}

// expireLeases does what time would do.
func (o testOutbox) expireLeases() {
	o.t.Helper()
	o.exec(`UPDATE outbox.lane SET leased_until = now() - interval '1 second' WHERE leased_until IS NOT NULL`)
}

// roundsAtOnce lets a round be closed right after the one before.
func (o testOutbox) roundsAtOnce() {
	o.rounds.mu.Lock()
	defer o.rounds.mu.Unlock()
	o.rounds.between = time.Nanosecond
}

// endRounds closes rounds and waits for their writers until all that was noted has been
// used. It fails if a writer does not end.
func (o testOutbox) endRounds() {
	o.t.Helper()
	o.roundsAtOnce()
	noted := query[int64](o, `SELECT number FROM outbox.round`)
	waitFor(o.t, "the writers of the rounds to end", func() bool {
		_, _, err := o.AdvanceRounds(o.t.Context(), query[int64](o, `SELECT number FROM outbox.round`) <= noted)
		require.NoError(o.t, err)
		return query[int64](o, `SELECT ended FROM outbox.round`) >= noted
	})
	_, _, err := o.AdvanceRounds(o.t.Context(), false) // which uses them
	require.NoError(o.t, err)
	o.rounds.wait() // for lanes that the background has locked, and that were skipped here
}

func request(by string) relay.ClaimRequest {
	return relay.ClaimRequest{By: by, Batches: 16, PerTopic: 4}
}

func (o testOutbox) claim() []relay.Batch {
	o.t.Helper()
	batches, err := o.Claim(o.t.Context(), request(o.t.Name()))
	require.NoError(o.t, err)
	return batches
}

// claimOne claims what must be a single batch, and begins it.
func (o testOutbox) claimOne() (relay.Batch, relay.Lease) {
	o.t.Helper()
	batches := o.claim()
	require.Len(o.t, batches, 1)
	lease, err := o.TakeOver(o.t.Context(), batches[0])
	require.NoError(o.t, err)
	return batches[0], lease
}

// drain publishes nothing, settles everything in a lease and releases it.
func (o testOutbox) drain(l relay.Lease) (ids []int64) {
	o.t.Helper()
	read := relay.Read{Next: maps.Clone(l.LowID)}
	for more := true; more; {
		page, err := o.Load(o.t.Context(), l, nil, relay.PageEvents)
		require.NoError(o.t, err)
		var refs []relay.Ref
		for _, e := range page.Events {
			refs, ids = append(refs, e.Ref), append(ids, e.ID)
			read.Loaded(e.Ref)
		}
		require.NoError(o.t, o.Settle(o.t.Context(), l.Topic, refs))
		more = page.More
	}
	require.NoError(o.t, o.Release(o.t.Context(), l, read))
	return ids
}

func events(batches []relay.Batch) (n int) {
	for _, b := range batches {
		n += b.Events
	}
	return n
}

func laneNames(batches []relay.Batch) (names []string) {
	for _, b := range batches {
		for _, n := range b.Lanes {
			names = append(names, fmt.Sprint(b.Topic, "/", n))
		}
	}
	slices.Sort(names)
	return names
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
