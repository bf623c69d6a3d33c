package postgres

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// acquireSampling tries to acquire the right to sample, with an interval of ten seconds. Another worker
// than the last one waits two seconds longer.
func (o testOutbox) acquireSampling(by string) (taken bool, wait time.Duration) {
	o.t.Helper()
	taken, wait, err := o.TryAcquireSampling(o.t.Context(), by, 10*time.Second)
	require.NoError(o.t, err)
	return taken, wait
}

// later makes the next sample due sooner, as passing time would.
func (o testOutbox) later(seconds int) {
	o.t.Helper()
	o.exec(`UPDATE outbox.sample SET due_at = due_at - make_interval(secs => $1)`, seconds)
}

func TestTryAcquireSampling_LetsOneWorkerSampleForAll(t *testing.T) {
	o := open(t)
	limited, err := Open(t.Context(), Config{URL: testenv.RoleURL(t, o.db, "outbox_relay")})
	require.NoError(t, err)
	defer limited.Close()
	o.Store = limited

	taken, _ := o.acquireSampling("a")
	require.True(t, taken, "no worker has sampled yet")
	taken, wait := o.acquireSampling("a")
	require.False(t, taken)
	require.InDelta(t, 10, wait.Seconds(), 5)
	require.LessOrEqual(t, wait, 10*time.Second)
	taken, wait = o.acquireSampling("b")
	require.False(t, taken)
	require.InDelta(t, 12, wait.Seconds(), 5)
	require.Greater(t, wait, 2*time.Second)

	o.later(10)
	taken, _ = o.acquireSampling("b")
	require.False(t, taken, "the worker that sampled last comes first")
	taken, _ = o.acquireSampling("a")
	require.True(t, taken)

	o.later(12)
	taken, _ = o.acquireSampling("b")
	require.True(t, taken, "a does not claim any more")
	o.later(10)
	taken, _ = o.acquireSampling("a")
	require.False(t, taken, "and now b comes first")
}

func TestTryAcquireSampling_ByManyWorkersAtOnceIsGivenToOne(t *testing.T) {
	o := open(t)
	for range 20 {
		var took atomic.Int32
		var all sync.WaitGroup
		for _, by := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			all.Go(func() {
				taken, _, err := o.TryAcquireSampling(t.Context(), by, 10*time.Second)
				if err != nil {
					t.Error(err)
				}
				if taken {
					took.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, took.Load())
		o.later(3600)
	}
}

func TestDeferSampling_DefersTheNextSampleOfEveryWorker(t *testing.T) {
	o := open(t)
	taken, _ := o.acquireSampling("a")
	require.True(t, taken)
	require.NoError(t, o.DeferSampling(t.Context(), "a", time.Minute))
	require.NoError(t, o.DeferSampling(t.Context(), "b", 0), "b has not sampled, and defers nothing")
	o.later(30)
	for _, by := range []string{"a", "b"} {
		taken, wait := o.acquireSampling(by)
		require.False(t, taken)
		require.Greater(t, wait, 10*time.Second)
	}
	o.later(32)
	taken, _ = o.acquireSampling("b")
	require.True(t, taken)
}
