package activities

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func TestSample_IsNotTakenByAWorkerWhoseTurnItIsNot(t *testing.T) {
	e := sampling(t, func(int) ([]relay.TopicState, error) {
		return []relay.TopicState{{Topic: "orders", Recovery: "r"}}, nil
	})
	m := &recorder{}
	e.cfg.Metrics = m
	e.sampler.every = 100 * time.Millisecond
	var asked atomic.Int64 // samples may go on after the claim
	e.store.turn = func(by string, every time.Duration) (bool, time.Duration, error) {
		require.Equal(t, e.sampler.by, by)
		require.Equal(t, 100*time.Millisecond, every)
		asked.Add(1)
		return false, 240 * time.Hour, nil // the database's clock is about to be set back
	}
	began := time.Now()
	r, err := e.claim(t, 2*time.Second)
	require.NoError(t, err)
	require.Empty(t, r.Topics)
	require.Empty(t, m.others, "no gauge stands still beside the others")
	require.Zero(t, e.store.sampled())
	e.store.sampleMu.Lock()
	defer e.store.sampleMu.Unlock()
	require.Greater(t, asked.Load(), int64(1))
	require.LessOrEqual(t, asked.Load(), 1+int64(time.Since(began)/(100*time.Millisecond)), "or every claim costs one more statement")
}

func TestSample_HasANameForEachWorker(t *testing.T) {
	a, b := newEnv(t), newEnv(t)
	require.NotEmpty(t, a.sampler.by)
	require.NotEqual(t, a.sampler.by, b.sampler.by)
}

func TestSample_IsDeferredForAllAfterALongOne(t *testing.T) {
	const looking = 5 * time.Millisecond // and no claim waits for it
	e := sampling(t, func(int) ([]relay.TopicState, error) {
		time.Sleep(looking)
		return nil, nil
	})
	const least = (sampleShare - 1) * looking
	deferred := func() bool {
		e.store.sampleMu.Lock()
		defer e.store.sampleMu.Unlock()
		return slices.ContainsFunc(e.store.waits, func(wait time.Duration) bool { return wait >= least })
	}
	for began := time.Now(); !deferred(); {
		require.Less(t, time.Since(began), 30*time.Second)
		_, err := e.claim(t, 50*time.Millisecond)
		require.NoError(t, err)
	}
}

// The database believes no deferral that is longer: it takes it for a clock that was set back.
func TestSample_IsDeferredForNoLongerThanWorkersBelieve(t *testing.T) {
	const every = 10 * time.Second
	require.LessOrEqual(t, untilNext(every, time.Hour), timing.SampleDeferMost)
	// To acquire the right and to look may take a statement's timeout each.
	const slowest = 2 * timing.StatementTimeout
	require.Greater(t, untilNext(every, slowest), slowest, "even the slowest look defers the next one")
}
