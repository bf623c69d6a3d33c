package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

// perSecond is a pace of so many messages a second.
func perSecond(rate int) func(int) time.Duration {
	next := time.Now()
	return func(n int) time.Duration {
		now := time.Now()
		if next.Before(now) {
			next = now
		}
		if wait := next.Sub(now); wait > 0 {
			return wait
		}
		next = next.Add(time.Duration(n) * time.Second / time.Duration(rate))
		return 0
	}
}

func TestPace_HoldsHoweverManyRequestsMayBeInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		s := &stub{send: func(context.Context, []*relay.Event) (a answer) {
			mu.Lock()
			at = append(at, time.Since(start))
			mu.Unlock()
			time.Sleep(3 * time.Second)
			return a
		}}
		var reported []time.Duration
		result, err := s.publisher(false).Publish(t.Context(), Request{
			Topic: "orders", Concurrency: 8, Events: feed(numbered(1, 35, nil)), Pace: perSecond(5),
			Report: func([]relay.Outcome) { reported = append(reported, time.Since(start)) },
		})
		require.NoError(t, err)
		assert.Equal(t, Result{Events: 35, Requests: 4, Acknowledged: 35}, result)
		assert.Equal(t, []time.Duration{0, 2 * time.Second, 4 * time.Second, 6 * time.Second}, at)
		assert.Equal(t, []time.Duration{3 * time.Second, 5 * time.Second, 7 * time.Second, 9 * time.Second}, reported,
			"an answer is reported while the next request waits")
	})
}

func TestPace_AStopWhileARequestWaitsLeavesItsEventsUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("the worker shuts down")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(1500*time.Millisecond, func() { cancel(reason) })
		start := time.Now()
		reported := 0
		result, err := new(stub).publisher(true).Publish(ctx, Request{
			Topic: "orders", Events: feed(numbered(1, 25, func(id int64) string { return fmt.Sprint(id % 20) })),
			Pace:   perSecond(1),
			Report: func(o []relay.Outcome) { reported += len(o) },
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		require.ErrorIs(t, err, reason)
		assert.Equal(t, 1500*time.Millisecond, time.Since(start))
		assert.Equal(t, Result{Events: 25, Requests: 1, Acknowledged: 10, Unsent: 15}, result)
		assert.Equal(t, 10, reported)
	})
}

func TestPace_ALeaseThatEndsWhileARequestWaitsStopsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		// Renewed until 40 s, to last for 20.
		lease := func() time.Time { return start.Add(min(time.Since(start), 40*time.Second) + 20*time.Second) }
		s := &stub{send: func(ctx context.Context, _ []*relay.Event) (a answer) {
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, 15*time.Second, time.Until(deadline), "waiting is not part of a request's time")
			return a
		}}
		result, err := s.publisher(false).Publish(t.Context(), Request{
			Topic: "orders", Events: feed(numbered(1, 50, nil)), Report: ignore, Deadline: lease,
			Pace: func() func(int) time.Duration {
				waits := []time.Duration{0, 40 * time.Second, 0, 80 * time.Second}
				return func(int) (wait time.Duration) { wait, waits = waits[0], waits[1:]; return wait }
			}(),
		})
		require.ErrorIs(t, err, errDeadline)
		assert.Equal(t, 60*time.Second, time.Since(start))
		assert.Equal(t, Result{Events: 50, Requests: 2, Acknowledged: 20, Unsent: 30}, result)
	})
}

func TestPace_CountsEveryRequestOnceWithItsEvents(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		waits := rapid.SliceOfN(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, time.Hour}), 1, 9).Draw(t, "waits")
		n := rapid.IntRange(0, 80).Draw(t, "n")
		d := &strict{limit: 100_000, bad: rapid.MapOfN(rapid.Int64Range(1, 80), rapid.Just("InvalidParameter"), 0, 3).Draw(t, "bad")}
		ordered := rapid.Bool().Draw(t, "ordered")
		stop := rapid.SampledFrom([]time.Duration{2 * time.Second, 1000 * time.Hour}).Draw(t, "stop")
		var sent, paced []int
		asked, again := 0, false
		var result Result
		var err error
		outcomes := 0
		synctest.Test(outer, func(t *testing.T) {
			p, _ := publisherTo(func(ctx context.Context, events []*relay.Event) answer {
				a := d.send(ctx, events)
				d.mu.Lock()
				sent = append(sent, len(events))
				d.mu.Unlock()
				time.Sleep(time.Duration(len(events)) * 10 * time.Millisecond)
				return a
			}, ordered, 100_000)
			ctx, cancel := context.WithTimeout(t.Context(), stop)
			defer cancel()
			result, err = p.Publish(ctx, Request{
				Topic: "orders", Events: feed(numbered(1, n, func(id int64) string { return fmt.Sprint(id % 20) })),
				Report: func(o []relay.Outcome) { outcomes += len(o) },
				Pace: func(n int) time.Duration {
					asked++
					if wait := waits[asked%len(waits)]; wait > 0 && !again {
						again = true
						return wait
					}
					paced, again = append(paced, n), false
					return 0
				},
			})
		})
		if stopped := errors.Is(err, relay.ErrStopped); !stopped && (err != nil || result.Unsent > 0) {
			t.Fatalf("%v, %+v", err, result)
		}
		if result.Events != result.Acknowledged+result.Failed+result.Held+result.Unsent ||
			outcomes != result.Acknowledged+result.Failed || result.Acknowledged != len(d.accepted) {
			t.Fatalf("%+v, %d outcomes, %d accepted", result, outcomes, len(d.accepted))
		}
		// What still waited when it was stopped has used nothing up.
		if len(sent) != len(paced) || len(sent) != result.Requests || sum(sent) != sum(paced) {
			t.Fatalf("asked for %v, sent %v", paced, sent)
		}
	})
}

func sum(n []int) (total int) {
	for _, i := range n {
		total += i
	}
	return total
}
