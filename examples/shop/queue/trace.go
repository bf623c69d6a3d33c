package queue

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/outbox"
)

// handle gives a message to the handler, in a span whose parent is the one in which
// the event was written. (The relay hands that on as it is.)
func (c Consumer) handle(ctx context.Context, m Message) error {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{outbox.AttributeTraceparent: m.traceparent})
	ctx, span := otel.Tracer("github.com/temporal-outbox/relay/examples/shop/queue").Start(ctx, "process "+c.Queue,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			semconv.MessagingSystemAWSSQS, semconv.MessagingDestinationName(c.Queue),
			semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
			attribute.Stringer("outbox.event_id", m.ID), attribute.String("outbox.type", m.Type),
		))
	defer span.End()
	applied, err := c.Handle(ctx, m)
	span.SetAttributes(attribute.Bool("outbox.repeat", err == nil && !applied))
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}
