package publish

import (
	"context"
	"fmt"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

// tracerName says in every span which part of the program it is of.
const tracerName = "github.com/temporal-outbox/relay/internal/publish"

// Attributes for which the semantic conventions have no name.
const (
	spanTopic   = attribute.Key("outbox.topic")    // of the events, not of SNS
	spanFailed  = attribute.Key("outbox.failed")   // how many events were not accepted
	linkEventID = attribute.Key("outbox.event_id") // of the event that a link is for
)

// tracedDestination decorates a destination: each request to it is a span, in the words of
// OpenTelemetry's conventions for messaging. A span says where how many events
// went and with which outcome, and links to the spans that its events were written
// in, one for each event at most. It never holds anything of a payload.
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
type tracedDestination struct {
	destination.Destination
	tracer trace.Tracer
	name   string
	route  trace.SpanStartEventOption // the attributes that all requests share
}

// traced returns d itself if there is no tracer, so that tracing costs nothing then.
func traced(d destination.Destination, tracer trace.Tracer, topic string) destination.Destination {
	if tracer == nil {
		return d
	}
	s := d.Span()
	return &tracedDestination{
		Destination: d,
		tracer:      tracer,
		name:        s.Operation + " " + s.Name,
		route: trace.WithAttributes(append(slices.Clone(s.Attributes), semconv.MessagingOperationName(s.Operation),
			semconv.MessagingOperationTypeSend, semconv.MessagingDestinationName(s.Name), spanTopic.String(topic))...),
	}
}

func (d *tracedDestination) NewSender() destination.Sender {
	return &tracedSender{d.Destination.NewSender(), d}
}

type tracedSender struct {
	destination.Sender
	to *tracedDestination
}

func (s *tracedSender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	ctx, span := s.to.start(ctx, events)
	defer span.End()
	a := s.Sender.Send(ctx, events)
	noteOutcome(span, &a, len(events))
	return a
}

func (d *tracedDestination) start(ctx context.Context, events []*relay.Event) (context.Context, trace.Span) {
	links := make([]trace.Link, 0, len(events))
	for _, ev := range events {
		if c := message.CreationContext(ev); c.IsValid() {
			links = append(links, trace.Link{SpanContext: c, Attributes: []attribute.KeyValue{linkEventID.String(ev.EventID)}})
		}
	}
	return d.tracer.Start(ctx, d.name, trace.WithSpanKind(trace.SpanKindProducer), d.route,
		trace.WithAttributes(semconv.MessagingBatchMessageCount(len(events))), trace.WithLinks(links...))
}

// noteOutcome says in a span how many of a request's events failed. The first failure
// speaks for the others: an answer rarely has two reasons.
func noteOutcome(span trace.Span, a *destination.Answer, events int) {
	failed := 0
	var first *relay.PublishError
	for i := range events {
		if _, err := a.Of(i); err != nil {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	if first == nil {
		return
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(first.Code), spanFailed.Int(failed))
	span.SetStatus(codes.Error, fmt.Sprintf("%d of %d: %s", failed, events, first.Error()))
}
