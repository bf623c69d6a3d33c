package publish

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestStop_SendsNothingNewAndWaitsForRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("the worker shuts down")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &stub{send: func(ctx context.Context, _ []*relay.Event) (a answer) {
			time.Sleep(time.Second)
			assert.NoError(t, ctx.Err(), "a request in flight is cancelled")
			return a
		}}
		reported := 0
		time.AfterFunc(1500*time.Millisecond, func() { cancel(reason) })
		result, err := s.publisher(false).Publish(ctx, Request{
			Topic: "orders", Concurrency: 2, Events: feed(numbered(1, 100, nil)),
			Report: func(o []relay.Outcome) { reported += len(o) },
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		require.ErrorIs(t, err, reason)
		assert.Equal(t, Result{Events: 100, Requests: 4, Acknowledged: 40, Unsent: 60}, result)
		assert.Equal(t, 40, reported)
		assert.Equal(t, 4, s.requests)
	})
}

func TestStop_NothingIsSentOnceTheContextIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &stub{}
	result, err := s.publisher(false).Publish(ctx, Request{
		Topic: "orders", Events: feed(numbered(1, 100, nil)),
		Report: func([]relay.Outcome) { t.Error("reported") },
	})
	require.ErrorIs(t, err, relay.ErrStopped)
	require.ErrorIs(t, err, context.Canceled)
	assert.Zero(t, s.requests)
	assert.Equal(t, result.Events, result.Unsent)
}

func TestStop_WhileWaitingForEventsEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := new(stub).publisher(false).Publish(ctx, Request{
			Topic: "orders", Events: make(chan []relay.Event), Report: ignore,
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		assert.Equal(t, time.Second, time.Since(start))
	})
}

func TestStop_CanComeFromReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &stub{send: func(_ context.Context, events []*relay.Event) (a answer) {
			time.Sleep(time.Second)
			for i := range events {
				a[i] = errRejected
			}
			return a
		}}
		result, err := s.publisher(false).Publish(ctx, Request{
			Topic: "orders", Concurrency: 1, Events: feed(numbered(1, 100, nil)),
			Report: func([]relay.Outcome) { cancel() },
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		assert.Equal(t, Result{Events: 100, Requests: 2, Failed: 20, Unsent: 80}, result)
	})
}

func TestLease_NoRequestOutlivesItAndNoneStartsAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Renewed every second until the ninth, to last for twenty.
		start := time.Now()
		lease := func() time.Time {
			return start.Add(min(time.Since(start).Truncate(time.Second), 9*time.Second) + 20*time.Second)
		}
		s := &stub{send: func(ctx context.Context, _ []*relay.Event) (a answer) {
			want := lease()
			if l := time.Now().Add(15 * time.Second); l.Before(want) {
				want = l
			}
			got, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, want, got)
			time.Sleep(3 * time.Second)
			return a
		}}
		result, err := s.publisher(false).Publish(t.Context(), Request{
			Topic: "orders", Concurrency: 1, Events: feed(numbered(1, 500, nil)), Report: ignore, Deadline: lease,
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		require.ErrorIs(t, err, errDeadline)
		// The lease ends at 29 s: the last request starts at 27 s and, here,
		// does not heed its deadline.
		assert.Equal(t, 30*time.Second, time.Since(start))
		assert.Equal(t, Result{Events: 500, Requests: 10, Acknowledged: 100, Unsent: 400}, result)
	})
}

func TestReport_APanicReachesTheCaller(t *testing.T) {
	s := &stub{}
	assert.PanicsWithValue(t, "boom", func() {
		_, _ = s.publisher(false).Publish(t.Context(), Request{
			Topic: "orders", Events: feed(numbered(1, 500, nil)), Report: func([]relay.Outcome) { panic("boom") },
		})
	})
}
