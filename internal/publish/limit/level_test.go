package limit

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// world is a destination and a worker with more events than it can send, in a time of its own.
type world struct {
	now      time.Time
	level    *Level
	answer   func(w *world) (latency time.Duration, throttled bool)
	demand   int     // requests that want to be in flight, 0: any number
	slots    []reply // in flight
	accepted int     // requests
	refused  int
	limits   []int // once in a second
	free     time.Time
}

type reply struct {
	at time.Time
	Answer
}

func newWorld(answer func(w *world) (time.Duration, bool)) *world {
	random = rand.New(rand.NewPCG(1, 2))
	return &world{now: time.Unix(1_000_000, 0), level: NewLevel(Ceiling), answer: answer}
}

// at is a destination with a fixed latency.
func at(latency time.Duration) func(*world) (time.Duration, bool) {
	return func(*world) (time.Duration, bool) { return jitter(latency), false }
}

// random begins anew with each world.
var random *rand.Rand

func jitter(d time.Duration) time.Duration { return d * time.Duration(95+random.IntN(11)) / 100 }

// capacity is a destination, or a processor on the way to it, that can do so many requests in a second.
func capacity(latency time.Duration, perSecond float64) func(*world) (time.Duration, bool) {
	return func(w *world) (time.Duration, bool) {
		if w.free.Before(w.now) {
			w.free = w.now
		}
		w.free = w.free.Add(jitter(time.Duration(float64(time.Second) / perSecond)))
		return w.free.Sub(w.now) + jitter(latency), false
	}
}

// quota is a destination that refuses more than so many requests in a second, beyond a burst.
func quota(latency time.Duration, perSecond, burst float64) func(*world) (time.Duration, bool) {
	tokens, last := burst, time.Time{}
	return func(w *world) (time.Duration, bool) {
		if !last.IsZero() {
			tokens = min(burst, tokens+w.now.Sub(last).Seconds()*perSecond)
		}
		last = w.now
		if tokens < 1 {
			return jitter(latency), true
		}
		tokens--
		return jitter(latency), false
	}
}

// run lets time pass, and returns what was accepted and refused in a second meanwhile.
func (w *world) run(d time.Duration) (accepted, refused float64) {
	wasAccepted, wasRefused := w.accepted, w.refused
	second := w.now
	for end := w.now.Add(d); w.now.Before(end); {
		for len(w.slots) < w.level.Limit() && (w.demand == 0 || len(w.slots) < w.demand) && w.level.Wait(w.now) == 0 {
			w.level.Started(w.now, len(w.slots) == 0)
			latency, throttled := w.answer(w)
			r := reply{w.now.Add(latency), Answer{Latency: latency, Accepted: 10, Throttled: throttled}}
			if throttled {
				r.Accepted = 0
			}
			i, _ := slices.BinarySearchFunc(w.slots, r, func(a, b reply) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
			w.slots = slices.Insert(w.slots, i, r)
		}
		next := end
		if wait := w.level.Wait(w.now); wait > 0 {
			next = w.now.Add(wait)
		}
		if len(w.slots) == 0 || next.Before(w.slots[0].at) {
			w.now = next
			continue
		}
		r := w.slots[0]
		w.slots = w.slots[1:]
		w.now = r.at
		if r.Throttled {
			w.refused++
		} else {
			w.accepted++
		}
		full := len(w.slots)+1 >= w.level.Limit() && (w.demand == 0 || w.demand > w.level.Limit())
		w.level.Answered(w.now, r.Answer, full)
		for w.now.Sub(second) >= time.Second {
			w.limits = append(w.limits, w.level.Limit())
			second = second.Add(time.Second)
		}
	}
	return float64(w.accepted-wasAccepted) / d.Seconds(), float64(w.refused-wasRefused) / d.Seconds()
}

func TestLevel_GrowsToTheCeilingWhileThroughputGrows(t *testing.T) {
	w := newWorld(at(15 * time.Millisecond))
	require.Equal(t, Initial, w.level.Limit())
	w.run(2 * time.Second)
	require.Equal(t, Ceiling, w.level.Limit())
	w.run(time.Minute)
	require.Equal(t, Ceiling, w.level.Limit(), "answers are fast, so fewer requests are not tried")
}

func TestLevel_StopsGrowingWhereThroughputDoes(t *testing.T) {
	// 1,000 requests in a second need 15 in flight at 15 ms.
	for name, answer := range map[string]func(*world) (time.Duration, bool){
		"16 are enough": capacity(15*time.Millisecond, 1000),
		"40 are enough": capacity(15*time.Millisecond, 2600),
		"near by":       capacity(300*time.Microsecond, 2600),
	} {
		w := newWorld(answer)
		w.run(10 * time.Second)
		settled := w.level.Limit()
		require.LessOrEqual(t, settled, 72, name)
		accepted, _ := w.run(time.Minute)
		best, _ := func() (float64, float64) {
			w := newWorld(answer)
			w.level.limit, w.level.nextTrial = Ceiling, w.now.Add(time.Hour)
			return w.run(time.Minute)
		}()
		require.GreaterOrEqual(t, accepted, 0.95*best, name)
		require.LessOrEqual(t, slices.Max(w.limits[10:]), 72, "%s: %v", name, w.limits)
		changes := 0
		for i := 11; i < len(w.limits); i++ {
			if w.limits[i] != w.limits[i-1] {
				changes++
			}
		}
		require.LessOrEqual(t, changes, 14, "%s: it does not swing: %v", name, w.limits)
	}
}

func TestLevel_OfABatchThatNeedsNoMoreStays(t *testing.T) {
	w := newWorld(at(15 * time.Millisecond))
	w.demand = 10
	w.run(time.Minute)
	require.Equal(t, Initial, w.level.Limit())
	w.demand = 0
	w.run(2 * time.Second)
	require.Equal(t, Ceiling, w.level.Limit(), "and grows when it does")
}

func TestLevel_ShrinksWhenTheDestinationSlowsDownAndRecovers(t *testing.T) {
	w := newWorld(at(15 * time.Millisecond))
	w.run(5 * time.Second)
	require.Equal(t, Ceiling, w.level.Limit())
	w.answer = capacity(15*time.Millisecond, 200) // 3 in flight are enough
	before, _ := w.run(20 * time.Second)
	require.LessOrEqual(t, w.level.Limit(), 2*floor, "%v", w.limits)
	require.GreaterOrEqual(t, before, 190.)
	w.answer = at(15 * time.Millisecond)
	w.run(15 * time.Second)
	require.Equal(t, Ceiling, w.level.Limit(), "%v", w.limits)
}

func TestLevel_ADestinationThatIsFartherThanBeforeKeepsItsRequests(t *testing.T) {
	w := newWorld(at(15 * time.Millisecond))
	w.run(5 * time.Second)
	w.answer = at(50 * time.Millisecond)
	w.run(20 * time.Second)
	accepted, _ := w.run(time.Minute)
	require.GreaterOrEqual(t, accepted, 0.95*Ceiling/0.05, "%v", w.limits)
}

func TestLevel_SettlesBelowAQuota(t *testing.T) {
	for name, c := range map[string]struct {
		latency          time.Duration
		perSecond, burst float64
	}{
		"with a small burst": {15 * time.Millisecond, 300, 30},
		"with a burst":       {15 * time.Millisecond, 300, 300},
		"near by":            {500 * time.Microsecond, 300, 30},
		"far":                {200 * time.Millisecond, 300, 30},
		"a small one":        {15 * time.Millisecond, 5, 5},
		"a large one":        {15 * time.Millisecond, 1500, 150},
	} {
		w := newWorld(quota(c.latency, c.perSecond, c.burst))
		w.run(5 * time.Second)
		accepted, refused := w.run(time.Minute)
		require.Less(t, refused, max(10./60, 0.02*(accepted+refused)), name)
		require.GreaterOrEqual(t, accepted, 0.85*c.perSecond, name)
		accepted, refused = w.run(2 * time.Minute)
		require.GreaterOrEqual(t, accepted, 0.9*c.perSecond, name)
		require.Less(t, refused, 0.02*(accepted+refused), name)
		require.Less(t, refused*60, 10., "%s: in a minute", name)
	}
}

// The requests of a burst are under way together, and their answers come in any order.
func TestLevel_FirstRateIsThatOfTheWholeBurstInWhateverOrder(t *testing.T) {
	const burst, refused = 16, 5
	rate := func(order func(n int) (isRefused bool)) (perSecond float64) {
		v, now := NewLevel(Ceiling), time.Unix(1_000_000, 0)
		for range burst {
			v.Started(now, false)
		}
		now = now.Add(15 * time.Millisecond)
		for n := range burst {
			if order(n) {
				v.Answered(now, Answer{Latency: 15 * time.Millisecond, Throttled: true}, false)
			} else {
				v.Answered(now, Answer{Latency: 15 * time.Millisecond, Accepted: 10}, false)
			}
		}
		require.Equal(t, relief, v.Wait(now), "until the next request")
		return v.Rate()
	}
	last := rate(func(n int) bool { return n >= burst-refused })
	require.Greater(t, last, 40.0, "eleven in a quarter of a second, and a little less")
	require.Equal(t, last, rate(func(n int) bool { return n < refused }))
	require.Equal(t, last, rate(func(n int) bool { return n%3 == 0 && n/3 < refused }))
}

// A request that began after a rate was set says nothing about the rate before.
func TestLevel_LaterRatesAreNotRaisedByAnswersOfTheirBurst(t *testing.T) {
	v, now := NewLevel(Ceiling), time.Unix(1_000_000, 0)
	throttled := Answer{Latency: 15 * time.Millisecond, Throttled: true}
	v.Answered(now, throttled, false)
	require.InDelta(t, leastRate, v.Rate(), 0)
	now = now.Add(time.Second)
	for range 10 {
		v.Answered(now, Answer{Latency: 15 * time.Millisecond, Accepted: 10}, false)
	}
	require.InDelta(t, leastRate, v.Rate(), 0, "these began later")
	v.Answered(now, throttled, false)
	lowered := v.Rate()
	v.Answered(now, Answer{Latency: 15 * time.Millisecond, Accepted: 10}, false)
	require.InDelta(t, lowered, v.Rate(), 0)
}

// Answers of a burst come late if the SDK has repeated their requests.
func TestLevel_LateAnswersOfTheFirstBurstLetNoMoreThroughThanTheRate(t *testing.T) {
	const burst = 16
	v, began := NewLevel(Ceiling), time.Unix(1_000_000, 0)
	for range burst {
		v.Started(began, false)
	}
	now := began.Add(15 * time.Millisecond)
	v.Answered(now, Answer{Latency: 15 * time.Millisecond, Throttled: true}, false)
	started, allowed := 0, 0.0
	for ms := range 2000 {
		now = now.Add(time.Millisecond)
		allowed += v.Rate() / 1000
		if ms%100 == 99 && ms/100 < burst-1 {
			v.Answered(now, Answer{Latency: now.Sub(began), Accepted: 10}, false)
		}
		for v.Wait(now) == 0 {
			v.Started(now, false)
			started++
		}
	}
	require.Greater(t, started, 10)
	require.LessOrEqual(t, float64(started), allowed+2)
}

// Requests that time out together are no sign of a quota.
func TestLevel_FirstRateIsNotRaisedByRequestsThatFailed(t *testing.T) {
	v, now := NewLevel(Ceiling), time.Unix(1_000_000, 0)
	for range 16 {
		v.Started(now, false)
	}
	v.Answered(now.Add(15*time.Millisecond), Answer{Latency: 15 * time.Millisecond, Throttled: true}, false)
	first := v.Rate()
	for range 15 {
		v.Answered(now.Add(15*time.Second), Answer{Latency: 15 * time.Second}, false)
	}
	require.InDelta(t, first, v.Rate(), 0)
}

func TestLevel_FollowsAQuotaThatRises(t *testing.T) {
	w := newWorld(quota(15*time.Millisecond, 30, 30))
	w.run(10 * time.Second)
	require.LessOrEqual(t, w.level.Rate(), 45.)
	w.answer = at(15 * time.Millisecond)
	w.run(3 * time.Minute)
	accepted, _ := w.run(10 * time.Second)
	require.GreaterOrEqual(t, accepted, 0.9*Ceiling/0.015, "rate %f, %v", w.level.Rate(), w.limits)
}

func TestLevel_RecoversSoonAfterEverythingWasRefused(t *testing.T) {
	w := newWorld(at(15 * time.Millisecond))
	w.run(5 * time.Second)
	w.answer = func(*world) (time.Duration, bool) { return 15 * time.Millisecond, true }
	w.run(5 * time.Second)
	_, refused := w.run(5 * time.Minute)
	require.LessOrEqual(t, refused, 2., "requests a second ask whether it is over")
	w.answer = at(15 * time.Millisecond)
	w.run(30 * time.Second)
	accepted, _ := w.run(10 * time.Second)
	require.GreaterOrEqual(t, accepted, 0.9*Ceiling/0.015, "rate %f", w.level.Rate())
}

// Such as a queue whose key is disabled after a time of throttling: parking its topic sends all of its events.
func TestLevel_RecoversAlsoIfEventsAreRefusedForOtherReasons(t *testing.T) {
	v := NewLevel(Ceiling)
	now := time.Unix(1_000_000, 0)
	v.Started(now, true)
	now = now.Add(15 * time.Millisecond)
	v.Answered(now, Answer{Latency: 15 * time.Millisecond, Throttled: true}, false)
	require.Equal(t, leastRate, v.Rate())
	for end := now.Add(20 * time.Second); now.Before(end); { // one request after the other
		now = now.Add(v.Wait(now))
		v.Started(now, true)
		now = now.Add(15 * time.Millisecond)
		v.Answered(now, Answer{Latency: 15 * time.Millisecond}, true)
	}
	require.Greater(t, v.Rate(), 50.)
}
