package limit

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tokenTurn is the turn of a batch that waits for a token.
type tokenTurn struct {
	*Turn
	granted chan struct{}
}

func (l *Limiter) join(most int) tokenTurn {
	granted := make(chan struct{}, 1)
	return tokenTurn{l.Join(most, func() {
		select {
		case granted <- struct{}{}:
		default: // one is there from an earlier grant
		}
	}), granted}
}

// send sends requests of one batch one after the other, with as many senders as it wants requests
// in flight, until the time is over. It returns how many were answered, and the longest wait.
func send(l *Limiter, senders int, d, latency time.Duration) (answered int, longest time.Duration) {
	turn := l.join(Ceiling)
	defer turn.Leave()
	end := time.Now().Add(d)
	done := make(chan struct{}, senders)
	inFlight := 0
	waitsSince := time.Time{}
	for {
		for inFlight < senders && time.Now().Before(end) {
			if !turn.Take() {
				if waitsSince.IsZero() {
					waitsSince = time.Now()
				}
				break
			}
			if !waitsSince.IsZero() {
				longest = max(longest, time.Since(waitsSince))
				waitsSince = time.Time{}
			}
			inFlight++
			time.AfterFunc(latency, func() { done <- struct{}{} })
		}
		over := time.After(time.Until(end))
		if !time.Now().Before(end) {
			over = nil
			if inFlight == 0 {
				return answered, longest
			}
		}
		select {
		case <-done:
			inFlight--
			answered++
			turn.Done(Answer{Latency: latency, Accepted: 10})
		case <-turn.granted:
		case <-over:
		}
	}
}

func TestLimiter_IsFairToTheBatchesOfADestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		var large, small int
		var waited time.Duration
		var wg sync.WaitGroup
		wg.Go(func() { large, _ = send(l, 1000, 10*time.Second, 15*time.Millisecond) })
		time.Sleep(2 * time.Second)
		wg.Go(func() { small, waited = send(l, 1000, 5*time.Second, 15*time.Millisecond) })
		wg.Wait()
		// All of it at the ceiling for 10 s, half of it for 5 of them.
		require.InEpsilon(t, 5*Ceiling/2/0.015, float64(small), 0.2)
		require.InEpsilon(t, 7.5*Ceiling/0.015, float64(large), 0.2)
		require.LessOrEqual(t, waited, 16*time.Millisecond, "one answer makes room for it")
	})
}

func TestLimiter_LetsASmallBatchPassALargeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		var wg sync.WaitGroup
		wg.Go(func() { send(l, 1000, 5*time.Second, 15*time.Millisecond) })
		time.Sleep(time.Second)
		answered, waited := send(l, 1, time.Second, 15*time.Millisecond)
		require.GreaterOrEqual(t, answered, 30)
		require.LessOrEqual(t, waited, 16*time.Millisecond)
		wg.Wait()
	})
}

func TestLimiter_GivesTheRequestsOfABatchThatLeavesToTheOthers(t *testing.T) {
	l := New()
	first, second, third := l.join(1), l.join(1), l.join(1)
	for range Initial - 2 {
		require.True(t, first.Take())
	}
	require.True(t, second.Take())
	require.True(t, third.Take())
	require.False(t, first.Take())
	require.False(t, second.Take())
	require.False(t, third.Take())
	first.Leave() // in the queue
	first.Done(Answer{})
	<-second.granted
	second.Leave() // without taking it
	<-third.granted
	require.True(t, third.Take())
	require.False(t, third.Take())
	third.PutBack()
	<-third.granted
	require.True(t, third.Take(), "it had a place in the queue again")
}

// Otherwise the first one has all requests, and the others learn nothing before their time is over.
func TestLimiter_ADestinationThatHangsTellsEachBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		var answered [4]int
		var wg sync.WaitGroup
		for i := range answered {
			wg.Go(func() { answered[i], _ = send(l, 1000, 5*time.Second, 15*time.Second) })
		}
		wg.Wait()
		for _, n := range answered {
			assert.Positive(t, n)
		}
	})
}

func TestLimiter_ABatchWithoutRequestsWaitsForTheRateAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		large, small := l.join(1), l.join(1)
		require.True(t, large.Take())
		large.Done(Answer{Throttled: true})
		require.Equal(t, leastRate, l.Rate())
		time.Sleep(time.Minute)
		for l.Limit() > l.inFlight {
			for !large.Take() {
				<-large.granted
			}
		}
		began := time.Now()
		for !small.Take() {
			<-small.granted
		}
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestLimiter_KeepsToARateWithSeveralBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		turn := l.join(1)
		for range 10 {
			require.True(t, turn.Take())
		}
		time.Sleep(100 * time.Millisecond)
		for range 9 {
			turn.Done(Answer{Latency: 50 * time.Millisecond, Accepted: 10})
		}
		turn.Done(Answer{Latency: 50 * time.Millisecond, Throttled: true})
		turn.Leave()
		rate := l.Rate()
		require.InDelta(t, 0.95*9/0.25, rate, 0.1)
		var answered [3]int
		var wg sync.WaitGroup
		for i := range answered {
			wg.Go(func() { answered[i], _ = send(l, 100, 2*time.Second, 15*time.Millisecond) })
		}
		wg.Wait()
		for _, n := range answered {
			assert.InDelta(t, 2*rate/3, n, 3)
		}
	})
}

func TestLimiter_ADestinationThatHangsHoldsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging, healthy := New(), New()
		var wg sync.WaitGroup
		wg.Go(func() { send(hanging, 1000, 10*time.Second, 15*time.Second) })
		answered, _ := send(healthy, 1000, 10*time.Second, 15*time.Millisecond)
		require.InEpsilon(t, 10*Ceiling/0.015, float64(answered), 0.1)
		wg.Wait()
	})
}

func TestLimiter_ABatchThatMayHaveMoreRaisesTheCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		turn := l.join(200)
		defer turn.Leave()
		send(l, 1000, 10*time.Second, 15*time.Millisecond)
		require.Equal(t, 200, l.Limit())
	})
}

// If refusals come before the acceptances of a burst, the first rate is one request a second at first.
func TestLimiter_WaitsNoLongerThanACorrectedRateAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const refused = 10
		l, began := New(), time.Now()
		var granted atomic.Int64
		turn := l.Join(Ceiling, func() { granted.Store(int64(time.Since(began))) })
		for range Initial {
			require.True(t, turn.Take())
		}
		require.False(t, turn.Take())
		time.Sleep(15 * time.Millisecond)
		for n := range Initial {
			a := Answer{Latency: 15 * time.Millisecond, Throttled: n < refused}
			if !a.Throttled {
				a.Accepted = 10
			}
			turn.Done(a)
		}
		time.Sleep(3 * time.Second)
		require.Equal(t, relief, time.Duration(granted.Load())-15*time.Millisecond)
	})
}
