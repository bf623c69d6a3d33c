package message

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/relay"
)

// attributeTraceparent names the attribute that holds the producer's trace. It is
// published like any other, unchanged: what consumers continue is the trace that
// the event was written in, see docs/decisions/011.
const attributeTraceparent = "traceparent"

// CreationContext returns the span context that ev was written in. It is not valid
// if the producer left none, or nothing that can be read: an event that was
// inserted with SQL may carry any text there.
func CreationContext(ev *relay.Event) trace.SpanContext {
	if ev.Attributes[attributeTraceparent] == "" {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(ev.Attributes))
	// A producer's own attribute may be called tracestate, and is no business of ours.
	return trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{})
}
