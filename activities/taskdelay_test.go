package activities

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/internal/timing"
)

func TestTaskDelay_IsMeasuredAgainstTheQuickestTaskOfTheLastMinutes(t *testing.T) {
	start := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for name, skew := range map[string]time.Duration{"same clock": 0, "ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			var l taskDelay
			at := func(after, way time.Duration) time.Duration {
				started := start.Add(after)
				return l.of(started, started.Add(way+skew))
			}
			for windows := 2; windows >= 0; windows-- { // after that it knows how the clocks differ
				at(time.Duration(-windows)*(timing.LateWindow+time.Minute), 20*time.Millisecond)
			}
			require.Zero(t, at(time.Second, 10*time.Millisecond))
			require.Equal(t, 8*time.Second, at(2*time.Second, 8*time.Second+10*time.Millisecond))
			require.Equal(t, 90*time.Millisecond, at(3*time.Second, 100*time.Millisecond))
			at(timing.LateWindow+time.Minute, 30*time.Millisecond)
			require.Equal(t, 990*time.Millisecond, at(timing.LateWindow+2*time.Minute, time.Second), "the window before counts")
			at(2*timing.LateWindow+2*time.Minute, 50*time.Millisecond)
			at(3*timing.LateWindow+3*time.Minute, 50*time.Millisecond)
			require.Equal(t, 950*time.Millisecond, at(3*timing.LateWindow+4*time.Minute, time.Second), "and no other")
		})
	}
	var l taskDelay
	for i := range 3 {
		started := start.Add(time.Duration(i) * time.Second)
		require.Equal(t, 9*time.Second, l.of(started, started.Add(9*time.Second)), "all of the first may be late")
	}
	require.Less(t, timing.LateAfter+timing.StallLimit, timing.HeartbeatTimeout, "an attempt that does not ask takes over in time")
}

// standsStill delays each activity as a process does that stands still when the task arrives.
type standsStill struct {
	interceptor.WorkerInterceptorBase
	interceptor.ActivityInboundInterceptorBase
	late  time.Duration
	ended chan error
}

func (s *standsStill) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &standsStill{ActivityInboundInterceptorBase: interceptor.ActivityInboundInterceptorBase{Next: next}, late: s.late, ended: s.ended}
}

func (s *standsStill) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	until := activity.GetInfo(ctx).StartedTime.Add(s.late)
	for time.Now().Before(until) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond): // a process that stands still hears of nothing
		}
	}
	result, err := s.Next.ExecuteActivity(ctx, in)
	s.ended <- err
	return result, err
}

// Temporal has given up an attempt whose task a process read too late, and may have begun
// another one. The late one must not take the batch from it, and without an answer it may
// have been given up.
func TestPublishBatch_AsksTemporalBeforeItBeginsADelayedTask(t *testing.T) {
	for name, tt := range map[string]struct {
		late, heartbeat time.Duration
		silent          bool // Temporal answers no heartbeat
		failure         string
	}{
		"in time":   {late: 0, heartbeat: time.Minute, silent: true},
		"wanted":    {late: 4 * time.Second, heartbeat: time.Minute},
		"given up":  {late: 4 * time.Second, heartbeat: time.Second, failure: TypeStopped},
		"no answer": {late: 4 * time.Second, heartbeat: time.Minute, silent: true, failure: TypeStopped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuse := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if tt.silent && strings.HasSuffix(method, "/RecordActivityTaskHeartbeat") {
					return status.Error(codes.DeadlineExceeded, "no answer")
				}
				return next(ctx, method, req, reply, cc, opts...)
			}
			c, queue := testenv.Temporal(t, func(o *client.Options) {
				o.ConnectionOptions.DialOptions = append(o.ConnectionOptions.DialOptions, grpc.WithChainUnaryInterceptor(refuse))
			}), testenv.TaskQueue(t)
			e := newEnv(t)
			e.store.fill(20, 1)
			var taken atomic.Bool
			e.store.takingOver = func(context.Context) error { taken.Store(true); return nil }
			still := &standsStill{late: tt.late, ended: make(chan error, 1)}
			w := worker.New(c, queue, worker.Options{Interceptors: []interceptor.WorkerInterceptor{still}})
			w.RegisterActivity(e.Activities)
			publish := func(ctx workflow.Context) error {
				ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
					StartToCloseTimeout: time.Minute, HeartbeatTimeout: tt.heartbeat, RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
				})
				return workflow.ExecuteActivity(ctx, "PublishBatch", request(1)).Get(ctx, nil)
			}
			w.RegisterWorkflowWithOptions(publish, workflow.RegisterOptions{Name: "publish"})
			require.NoError(t, w.Start())
			defer w.Stop()
			_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: queue, TaskQueue: queue}, "publish")
			require.NoError(t, err)
			ended := <-still.ended
			if tt.failure == "" {
				require.NoError(t, ended)
			} else {
				var failed *temporal.ApplicationError
				require.ErrorAs(t, ended, &failed)
				require.Equal(t, tt.failure, failed.Type())
			}
			require.Equal(t, tt.failure == "", taken.Load())
			require.Equal(t, tt.failure == "", len(e.publisher.sent) > 0)
		})
	}
}
