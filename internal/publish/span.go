package publish

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/relay"
)

// tracerName says in every span which part of the program it is of.
const tracerName = "github.com/temporal-outbox/relay/internal/publish"

// What the semantic conventions have no name for.
const (
	spanTopic   = attribute.Key("outbox.topic")    // of the events, not of SNS
	spanFailed  = attribute.Key("outbox.failed")   // how many events were not accepted
	linkEventID = attribute.Key("outbox.event_id") // of the event that a link is for
)

// spans makes a span for every request of a stream, in the words of
// OpenTelemetry's conventions for messaging. A span says where how many events
// went and with what outcome, and links to the spans that its events were written
// in, ten at most. It never holds anything of a payload.
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
type spans struct {
	tracer trace.Tracer
	name   string
	route  trace.SpanStartEventOption // the attributes that all requests share
}

func newSpans(tracer trace.Tracer, r Route) *spans {
	destination := r.Address[strings.LastIndexAny(r.Address, ":/")+1:]
	operation, system, address := "send", semconv.MessagingSystemAWSSQS, semconv.AWSSQSQueueURL(r.Address)
	if r.Service == SNS {
		operation, system, address = "publish", semconv.MessagingSystemAWSSNS, semconv.AWSSNSTopicARN(r.Address)
	}
	return &spans{
		tracer: tracer,
		name:   operation + " " + destination,
		route: trace.WithAttributes(system, address, semconv.MessagingOperationName(operation),
			semconv.MessagingOperationTypeSend, semconv.MessagingDestinationName(destination), spanTopic.String(r.Topic)),
	}
}

// send sends a slot's request, in a span if there is somebody to tell.
func (s *stream) send(ctx context.Context, sl *slot) answer {
	if s.spans == nil {
		return sl.request.send(ctx, sl.entries)
	}
	ctx, span := s.spans.start(ctx, sl.entries)
	defer span.End()
	a := sl.request.send(ctx, sl.entries)
	outcome(span, a[:len(sl.entries)])
	return a
}

func (s *spans) start(ctx context.Context, entries []*entry) (context.Context, trace.Span) {
	links := make([]trace.Link, 0, len(entries))
	for _, e := range entries {
		if c := creationContext(e.ev); c.IsValid() {
			links = append(links, trace.Link{SpanContext: c, Attributes: []attribute.KeyValue{linkEventID.String(e.ev.EventID)}})
		}
	}
	return s.tracer.Start(ctx, s.name, trace.WithSpanKind(trace.SpanKindProducer), s.route,
		trace.WithAttributes(semconv.MessagingBatchMessageCount(len(entries))), trace.WithLinks(links...))
}

// outcome notes what became of a request's events. Where some failed, the first of
// them speaks for the others: an answer rarely has two reasons.
func outcome(span trace.Span, answers []*relay.PublishError) {
	failed := 0
	var first *relay.PublishError
	for _, err := range answers {
		if err != nil {
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
	span.SetStatus(codes.Error, fmt.Sprintf("%d of %d: %s", failed, len(answers), first.Error()))
}
