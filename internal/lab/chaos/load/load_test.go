package load

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// Ids are in commit order exactly if each key's numbers ascend with them: what the
// relay is held to is true of what it is given.
func TestLoad_NumbersAKeysEventsInTheOrderOfTheirIDsByEveryLock(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), testenv.DatabaseURL(t))
	require.NoError(t, err)
	defer pool.Close()
	var written []check.Written
	keep := func(w check.Written) { written = append(written, w) }
	l, err := Start(t.Context(), Config{Pool: pool, Topics: []string{"a", "b"}, Seed: 1, Rate: 2*keysFor - 1, Writers: 16, Keep: keep})
	require.NoError(t, err)
	const enough = 400 // for every key to have some, and some that roll back
	require.Eventually(t, func() bool { return l.Committed() >= enough }, time.Minute, 10*time.Millisecond)
	l.Stop()
	ids := map[string]int64{}
	rows, err := pool.Query(t.Context(), `SELECT event_id::text, id FROM outbox.event`)
	require.NoError(t, err)
	for rows.Next() {
		var event string
		var id int64
		require.NoError(t, rows.Scan(&event, &id))
		ids[event] = id
	}
	require.NoError(t, rows.Err())
	var old int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.event WHERE created_at < now() - make_interval(days => $1)`, Youngest).Scan(&old))
	require.Positive(t, old, "nothing is of a day that retention could drop")
	type key struct{ topic, key string }
	byNumber := map[key]map[int64]int64{}
	undone := 0
	for _, w := range written {
		switch {
		case w.Outcome == check.RolledBack:
			undone++
			require.NotContains(t, ids, w.ID)
			continue
		case w.Key == "":
			continue
		}
		k := key{w.Topic, w.Key}
		if byNumber[k] == nil {
			byNumber[k] = map[int64]int64{}
		}
		byNumber[k][w.Seq] = ids[w.ID]
	}
	require.Positive(t, undone)
	require.Len(t, byNumber, 2*(len(keys)-1))
	for k, numbers := range byNumber {
		for n := int64(1); n <= int64(len(numbers)); n++ {
			require.Contains(t, numbers, n, "%v", k)
			require.Greater(t, numbers[n], numbers[n-1], "%v", k)
		}
	}
}

// A key's next transaction begins when the slow one has ended, and has a higher id.
func TestInsert_ThatIsSlowDrawsItsIDFirst(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), testenv.DatabaseURL(t))
	require.NoError(t, err)
	defer pool.Close()
	began := time.Now()
	_, err = pool.Exec(t.Context(), insertSQL, "00000000-0000-7000-8000-000000000001", "a", "k", "T", "x", map[string]string{}, 0, .3)
	require.NoError(t, err)
	require.Greater(t, time.Since(began), 300*time.Millisecond)
	var payload string
	var waited time.Duration
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT payload, created_at - xact_start FROM outbox.event,
		(SELECT $1::timestamptz AS xact_start) began`, began).Scan(&payload, &waited))
	require.Equal(t, "x", payload)
	require.Greater(t, waited, 250*time.Millisecond, "created_at is read after the sleep, and so after the id was drawn")
}

func TestLoad_ReportsARefusedStatement(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), testenv.DatabaseURL(t))
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `ALTER TABLE outbox.event ADD CHECK (payload = '') NOT VALID`)
	require.NoError(t, err)
	failed := make(chan Failure, 1000)
	l, err := Start(t.Context(), Config{
		Pool: pool, Topics: []string{"a"}, Keep: func(check.Written) {}, Failed: func(f Failure) { failed <- f },
	})
	require.NoError(t, err)
	defer l.Stop()
	require.ErrorContains(t, (<-failed).Err, "23514")
}

// A key's events are delivered one after another.
func TestKeysAt_AHigherRateHasMoreKeysAndNoneThatGetsMoreOfIt(t *testing.T) {
	require.Equal(t, keys, keysAt(60))
	many := keysAt(600)
	require.Len(t, many, 1+10*(len(keys)-1))
	names := map[string]bool{}
	for _, k := range many {
		require.False(t, k.name != "" && names[k.name], k.name)
		names[k.name] = true
	}
	require.InDelta(t, .15, hotShare(60), 0)
	require.InDelta(t, 40, hotShare(1000)*1000, .001)
}
