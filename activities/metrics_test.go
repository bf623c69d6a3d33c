package activities

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// recorder keeps the calls of Metrics.
type recorder struct {
	mu        sync.Mutex
	requests  []relay.Answer
	outcomes  []relay.Outcome
	latencies []time.Duration
	dead      []relay.Outcome
	others    []string
}

func (m *recorder) Answered(_ string, a relay.Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests = append(m.requests, a)
}

func (m *recorder) Reported(_ string, outcomes []relay.Outcome, latencies []time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outcomes = append(m.outcomes, outcomes...)
	m.latencies = append(m.latencies, latencies...)
}

func (m *recorder) DeadLettered(_ string, dead []relay.Outcome) { m.dead = append(m.dead, dead...) }
func (m *recorder) ClaimLost(topic string)                      { m.note("lost ", topic) }
func (m *recorder) RecoveryBegun(topic string)                  { m.note("recovery of ", topic) }
func (m *recorder) ReceiptsLost(topic string, n int)            { m.note("receipts of ", topic, " lost: ", n) }
func (m *recorder) Topics(topics []relay.TopicState)            { m.note("sampled ", len(topics)) }
func (m *recorder) Health(h relay.Health)                       { m.note("ahead ", h.Ahead) }

func (m *recorder) note(a ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.others = append(m.others, fmt.Sprint(a...))
}

func metered(t *testing.T) (*env, *recorder) {
	t.Helper()
	e, m := newEnv(t), &recorder{}
	e.cfg.Metrics = m
	return e, m
}

func TestMetrics_CountEveryOutcomeOnce(t *testing.T) {
	e, m := metered(t)
	e.store.fill(100, 1)
	e.store.pending[9].EventID = "" // never sent
	e.publisher.answer = refusing(&relay.PublishError{Code: "InvalidMessageContents", Class: relay.ClassPoison}, 5)
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 2, r.Dead)
	require.Len(t, m.outcomes, 100)
	codes := map[string]int{}
	for _, o := range m.outcomes {
		if o.Err != nil {
			codes[o.Err.Code]++
		}
	}
	require.Equal(t, map[string]int{"InvalidMessageContents": 1, relay.CodeEventMissing: 1}, codes)
	require.Len(t, m.dead, 2)
	require.Len(t, m.latencies, 98, "of what was accepted")
	require.Empty(t, m.others)
}

func TestMetrics_CountRequests(t *testing.T) {
	e, m := metered(t)
	e.store.fill(1, 1)
	e.publisher.before = func(_ context.Context, _ int, r relay.PublishRequest) {
		r.Answered(relay.Answer{Events: 1, Suspected: 1})
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, []relay.Answer{{Events: 1, Suspected: 1}}, m.requests)
}

// The clocks of a database and a worker differ: by an hour here, in both directions.
func TestLatency_ComparesNoClockOfTheDatabaseWithOneOfTheWorker(t *testing.T) {
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		e, m := metered(t)
		now := time.Now().Add(skew)
		e.store.fill(10, 1)
		e.store.readAt = now
		for i := range e.store.pending {
			e.store.pending[i].CreatedAt = now.Add(-3 * time.Second)
		}
		_, err := e.publish(t, 1)
		require.NoError(t, err)
		require.Len(t, m.latencies, 10)
		for _, l := range m.latencies {
			require.GreaterOrEqual(t, l, 3*time.Second)
			require.Less(t, l, 13*time.Second)
		}
	}
}

func TestLatency_IsNotNegativeIfAnEventIsDatedAfterItWasRead(t *testing.T) {
	e, m := metered(t)
	e.store.fill(1, 1)
	e.store.readAt = time.Now()
	e.store.pending[0].CreatedAt = e.store.readAt.Add(time.Hour) // the database was failed over to another clock
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, []time.Duration{0}, m.latencies)
}

func TestLatency_IsNotTheAgeOfAReplayedEvent(t *testing.T) {
	e, m := metered(t)
	e.store.fill(2, 1)
	e.store.pending[1].Replay = 7
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Len(t, m.outcomes, 2)
	require.Len(t, m.latencies, 1)
}

// One such latency would spoil the sum of all others.
func TestLatency_IsNotCountedForAnInfiniteTime(t *testing.T) {
	e, m := metered(t)
	e.store.fill(4, 1)
	e.store.readAt = time.Now()
	for i, at := range []int64{math.MinInt64, math.MaxInt64, time.Time{}.UnixMicro(), e.store.readAt.UnixMicro()} {
		e.store.pending[i].At = at
		e.store.pending[i].CreatedAt = e.store.readAt
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Len(t, m.outcomes, 4)
	require.Len(t, m.latencies, 1)
}

func TestMetrics_CountALostClaimWhereverItIsFound(t *testing.T) {
	e, m := metered(t)
	e.store.takeOverIs = relay.ErrClaimLost
	_, err := e.publish(t, 1)
	require.Error(t, err)
	require.Equal(t, []string{"lost orders"}, m.others)

	e, m = metered(t)
	e.store.fill(1, 1)
	e.publisher.answer = refusing(&relay.PublishError{Code: "X", Class: relay.ClassPoison}, 1)
	e.store.deadLetterErr = relay.ErrClaimLost
	_, err = e.publish(t, 1)
	require.Error(t, err)
	require.Equal(t, []string{"lost orders"}, m.others)
}

func TestMetrics_CountARecoveryOnlyWhenItBegins(t *testing.T) {
	refuse := func(int, relay.Event) *relay.PublishError {
		return &relay.PublishError{Code: "AccessDenied", Class: relay.ClassDestination, Whole: true}
	}
	for _, c := range []struct {
		last   *checkpoint
		park   bool
		others []string
	}{
		{nil, false, []string{"recovery of orders"}},
		{&checkpoint{AttemptsWithoutSuccess: 1}, false, nil},
		{nil, true, nil},
	} {
		e, m := metered(t)
		e.store.fill(1, 1)
		e.publisher.answer = refuse
		if c.last != nil {
			e.SetHeartbeatDetails(*c.last)
		}
		r := request(1)
		r.Recovering, r.Park = true, c.park
		_, _ = e.publishAs(t, r)
		require.Equal(t, c.others, m.others)
	}
}

func TestOutboxStats_ShowsTheHealthThatItFound(t *testing.T) {
	e, m := metered(t)
	_, err := e.ExecuteActivity(e.OutboxStats)
	require.NoError(t, err)
	require.Equal(t, []string{"ahead 0"}, m.others)
}

func TestMetrics_ShowASampleUnlessItFailed(t *testing.T) {
	m := &recorder{}
	e := sampling(t, func(n int) ([]relay.TopicState, error) {
		if n == 1 {
			return nil, errAway
		}
		return []relay.TopicState{{Topic: "orders"}, {Topic: "audit"}}, nil
	})
	e.cfg.Metrics = m
	var first string
	for began := time.Now(); first == ""; {
		require.Less(t, time.Since(began), 30*time.Second)
		_, err := e.claim(t, 20*time.Millisecond) // during which a sample is taken, if it is time for one
		require.NoError(t, err)
		m.mu.Lock()
		if len(m.others) > 0 {
			first = m.others[0]
		}
		m.mu.Unlock()
	}
	require.Equal(t, "sampled 2", first)
}
