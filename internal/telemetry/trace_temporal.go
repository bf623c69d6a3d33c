package telemetry

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
)

// Interceptors make a span for every attempt of an activity, except activities of the silent
// types. There are none if traces are off.
//
// Workflows get no spans, and their histories no headers: docs/decisions/011 explains this. So
// each of these spans begins a trace, and names its workflow and run.
func (t *Traces) Interceptors(silent ...string) []interceptor.WorkerInterceptor {
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
	silent []string
}

func (s *activitySpans) InterceptActivity(
	ctx context.Context, next interceptor.ActivityInboundInterceptor,
) interceptor.ActivityInboundInterceptor {
	if slices.Contains(s.silent, activity.GetInfo(ctx).ActivityType.Name) {
		return next
	}
	return s.all.InterceptActivity(ctx, next)
}
