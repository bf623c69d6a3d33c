package activities

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// sampling has the fake store's topics looked at all the time.
func sampling(t *testing.T, topics func(n int) ([]relay.TopicState, error)) *env {
	t.Helper()
	e := newEnv(t)
	e.store.setTopics(topics)
	e.sampleEvery(time.Millisecond)
	return e
}

func (e *env) sampleEvery(every time.Duration) {
	e.sampler.mu.Lock()
	defer e.sampler.mu.Unlock()
	e.sampler.every, e.sampler.next = every, time.Now()
	if every == time.Hour {
		e.sampler.next = e.sampler.next.Add(every)
	}
}

// sampled waits until so many samples were taken, and has no more of them taken.
func (e *env) sampled(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		e.sampler.lookWhenDue(func(every time.Duration) sample {
			topics, err := e.store.Topics(t.Context())
			return sample{topics: topics, taken: err == nil, next: every}
		})
		e.sampler.mu.Lock()
		defer e.sampler.mu.Unlock()
		return e.store.sampled() >= n && !e.sampler.busy
	}, 30*time.Second, time.Millisecond)
	e.sampleEvery(time.Hour)
}

func TestSample_IsToldByAClaimOnceARun(t *testing.T) {
	e := sampling(t, func(int) ([]relay.TopicState, error) {
		return []relay.TopicState{{Topic: "audit", Pending: 1}, {Topic: "orders", Pending: 7}}, nil
	})
	e.sampled(t, 1)
	e.store.claim = func(int) ([]relay.Batch, error) { return someBatches, nil }
	r, err := e.claim(t, time.Hour)
	require.NoError(t, err)
	require.Equal(t, []relay.TopicState{{Topic: "orders", Pending: 7}, {Topic: "audit", Pending: 1}}, r.Topics)
	require.Zero(t, r.MoreTopics)
	require.Equal(t, someBatches, r.Batches)
	r, err = e.claim(t, time.Hour)
	require.NoError(t, err)
	require.Empty(t, r.Topics, "it was told of that one")

	e.sampler.lastRun = "an earlier run"
	r, err = e.claim(t, time.Hour)
	require.NoError(t, err)
	require.Len(t, r.Topics, 2, "the next run knows nothing yet")
}

// While nothing is to be done, a sample alone ends no claim: each would cost an
// activity.
func TestSample_EndsAnIdleClaimOnlyIfATopicNeedsAPerson(t *testing.T) {
	for name, c := range map[string]struct {
		before, after relay.TopicState
		early         bool
	}{
		"rests":            {relay.TopicState{}, relay.TopicState{}, false},
		"more is pending":  {relay.TopicState{Pending: 1}, relay.TopicState{Pending: 9, Oldest: time.Second, Retrying: 1}, false},
		"paused":           {relay.TopicState{}, relay.TopicState{PausedBy: "ada"}, true},
		"paused all along": {relay.TopicState{PausedBy: "ada"}, relay.TopicState{PausedBy: "ada", Pending: 9}, false},
		"resumed":          {relay.TopicState{PausedBy: "ada"}, relay.TopicState{}, true},
		"in recovery":      {relay.TopicState{}, relay.TopicState{Recovery: "r"}, true},
		"tried again": {
			relay.TopicState{Recovery: "r", Failure: relay.Failure{Code: "NotFound", Message: "no", Next: time.Unix(1, 0)}},
			relay.TopicState{Recovery: "r", Failure: relay.Failure{Code: "NotFound", Message: "not", Next: time.Unix(9, 0)}},
			false,
		},
		"broken in another way": {
			relay.TopicState{Recovery: "r", Failure: relay.Failure{Code: "NotFound"}},
			relay.TopicState{Recovery: "r", Failure: relay.Failure{Code: "AccessDenied"}},
			true,
		},
		"another dead":       {relay.TopicState{Dead: 1}, relay.TopicState{Dead: 2}, true},
		"does not move":      {relay.TopicState{Pending: 1}, relay.TopicState{Pending: 1, Oldest: relay.Late}, true},
		"still does not":     {relay.TopicState{Pending: 1, Oldest: relay.Late}, relay.TopicState{Pending: 1, Oldest: 2 * relay.Late}, false},
		"is worse than late": {relay.TopicState{Pending: 1, Oldest: relay.Late}, relay.TopicState{Pending: 1, Oldest: relay.Late, Recovery: "r"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := sampling(t, nil)
			state := func(s relay.TopicState) {
				s.Topic = "orders"
				e.store.setTopics(func(int) ([]relay.TopicState, error) { return []relay.TopicState{s}, nil })
				e.sampleEvery(time.Millisecond)
				e.sampled(t, e.store.sampled()+1)
			}
			state(c.before)
			_, err := e.claim(t, 0)
			require.NoError(t, err)
			state(c.after)
			claims := e.store.claims
			r, err := e.claim(t, time.Second)
			require.NoError(t, err)
			require.Equal(t, c.early, e.store.claims-claims == 1, "it looks again for as long as it waits")
			require.Len(t, r.Topics, 1, "the answer brings it along, early or not")
		})
	}
}

func TestSample_DelaysNoClaim(t *testing.T) {
	held := make(chan struct{})
	e := sampling(t, func(n int) ([]relay.TopicState, error) {
		if n > 1 {
			return nil, errAway
		}
		<-held
		return nil, nil
	})
	e.store.claim = func(int) ([]relay.Batch, error) { return someBatches, nil }
	claim := func() {
		r, err := e.claim(t, time.Hour)
		require.NoError(t, err)
		require.Equal(t, someBatches, r.Batches)
		require.Empty(t, r.Topics)
	}
	claim()
	require.Eventually(t, func() bool { return e.store.sampled() == 1 }, 30*time.Second, time.Millisecond)
	claim()
	claim()
	require.Equal(t, 1, e.store.sampled(), "one at a time")
	close(held)
	e.sampled(t, 2)
	claim()
}

func TestSample_TakesAtMostATwentiethOfTheTime(t *testing.T) {
	const looking = 5 * time.Millisecond // and no claim waits for it
	e := sampling(t, func(int) ([]relay.TopicState, error) {
		time.Sleep(looking)
		return nil, nil
	})
	began := time.Now()
	for e.store.sampled() < 3 {
		require.Less(t, time.Since(began), 30*time.Second)
		_, err := e.claim(t, 200*time.Millisecond)
		require.NoError(t, err)
	}
	require.LessOrEqual(t, e.store.sampled(), 1+int(time.Since(began)/(sampleShare*looking)))
}

func TestSample_IsDeferredByItsShareButByAMinuteAtMost(t *testing.T) {
	const every = 10 * time.Second
	require.Equal(t, every, untilNext(every, 100*time.Millisecond))
	require.Equal(t, 40*time.Second, untilNext(every, 2*time.Second))
	require.Equal(t, time.Minute, untilNext(every, timing.StatementTimeout), "a look that failed in a failover")
}

func TestSample_IsBoundedAndNamesTheWorstFirst(t *testing.T) {
	e := sampling(t, func(int) (topics []relay.TopicState, _ error) {
		for i := range 100 {
			topics = append(topics, relay.TopicState{Topic: fmt.Sprintf("topic-%03d", i), Pending: int64(i)})
		}
		topics[2].Dead = 1
		topics[3].Recovery = "r"
		topics[4].PausedBy = "ada"
		topics[5].Oldest = relay.Late
		topics[6].Retrying = 1
		return topics, nil
	})
	e.sampled(t, 1)
	r, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Len(t, r.Topics, sampleMost)
	require.Equal(t, 70, r.MoreTopics)
	var names []string
	for _, s := range r.Topics[:6] {
		names = append(names, s.Topic)
	}
	require.Equal(t, []string{"topic-003", "topic-004", "topic-005", "topic-006", "topic-002", "topic-099"}, names)
}

func TestSample_IsNotToldOnceItIsOld(t *testing.T) {
	e := sampling(t, func(int) ([]relay.TopicState, error) {
		return []relay.TopicState{{Topic: "orders", Recovery: "r"}}, nil
	})
	e.sampled(t, 1)
	e.sampler.taken = time.Now().Add(-sampleStale*time.Hour - time.Minute)
	r, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Empty(t, r.Topics)
}
