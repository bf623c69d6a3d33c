package order

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// begin begins the span of a change, which end ends. outbox.Write finds the span in
// the context and stores it with the events, and nothing else is needed for the
// services that consume them to go on with the same trace, minutes later if need be.
func begin(ctx context.Context, change, order string) (_ context.Context, end func(*error)) {
	ctx, span := otel.Tracer("github.com/temporal-outbox/relay/examples/shop/order").Start(ctx, change,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.String("shop.order", order)))
	return ctx, func(err *error) {
		if *err != nil {
			span.SetStatus(codes.Error, (*err).Error())
		}
		span.End()
	}
}
