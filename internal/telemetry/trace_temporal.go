package telemetry

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
)

// Interceptors make a span for every attempt of an activity, except those that silent reports, by the
// type of the activity and its arguments. Default of silent: none. There are no interceptors if traces
// are off.
//
// Workflows get no spans, and their histories no headers: docs/decisions/011 explains this. So
// each of these spans begins a trace, and names its workflow and run.
func (t *Traces) Interceptors(silent func(activityType string, args []any) bool) []interceptor.WorkerInterceptor {
	if t == nil {
		return nil
	}
	return []interceptor.WorkerInterceptor{&activitySpans{all: t.temporal, silent: silent}}
}

// newTemporal returns Temporal's own interceptor. activitySpans uses a part of it.
func newTemporal(provider trace.TracerProvider) (interceptor.WorkerInterceptor, error) {
	i, err := opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
		Tracer: provider.Tracer("go.temporal.io/sdk/contrib/opentelemetry"), DisableBaggage: true,
	})
	if err != nil {
		return nil, fmt.Errorf("trace activities: %w", err)
	}
	return i, nil
}

// activitySpans is the part of Temporal's interceptor for activities.
type activitySpans struct {
	interceptor.WorkerInterceptorBase
	all    interceptor.WorkerInterceptor
	silent func(activityType string, args []any) bool
}

func (s *activitySpans) InterceptActivity(
	ctx context.Context, next interceptor.ActivityInboundInterceptor,
) interceptor.ActivityInboundInterceptor {
	traced := s.all.InterceptActivity(ctx, next)
	if s.silent == nil {
		return traced
	}
	return &attemptSpan{ActivityInboundInterceptor: traced, plain: next, silent: s.silent}
}

// attemptSpan makes the span of one attempt, unless it is silent.
type attemptSpan struct {
	interceptor.ActivityInboundInterceptor // makes it
	plain                                  interceptor.ActivityInboundInterceptor
	silent                                 func(activityType string, args []any) bool
}

func (s *attemptSpan) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	if s.silent(activity.GetInfo(ctx).ActivityType.Name, in.Args) {
		return s.plain.ExecuteActivity(ctx, in)
	}
	return s.ActivityInboundInterceptor.ExecuteActivity(ctx, in)
}
