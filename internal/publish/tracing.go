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

// Attributes for which the semantic conventions have no name.
const (
	spanTopic   = attribute.Key("outbox.topic")    // of the events, not of SNS
	spanFailed  = attribute.Key("outbox.failed")   // how many events were not accepted
	linkEventID = attribute.Key("outbox.event_id") // of the event that a link is for
)

// tracedSender decorates a sender: each of its requests is a span, in the words of
// OpenTelemetry's conventions for messaging. A span says where how many events
// went and with which outcome, and links to the spans that its events were written
// in, ten at most. It never holds anything of a payload.
// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
type tracedSender struct {
	sender
	tracer trace.Tracer
	name   string
	route  trace.SpanStartEventOption // the attributes that all requests share
}

// traced returns s itself if there is no tracer, so that tracing costs nothing then.
func traced(s sender, tracer trace.Tracer, r Route) sender {
	if tracer == nil {
		return s
	}
	destination := r.Address[strings.LastIndexAny(r.Address, ":/")+1:]
	operation, system, address := "send", semconv.MessagingSystemAWSSQS, semconv.AWSSQSQueueURL(r.Address)
	if r.Service == SNS {
		operation, system, address = "publish", semconv.MessagingSystemAWSSNS, semconv.AWSSNSTopicARN(r.Address)
	}
	return &tracedSender{
		sender: s,
		tracer: tracer,
		name:   operation + " " + destination,
		route: trace.WithAttributes(system, address, semconv.MessagingOperationName(operation),
			semconv.MessagingOperationTypeSend, semconv.MessagingDestinationName(destination), spanTopic.String(r.Topic)),
	}
}

func (s *tracedSender) newRequest() request { return &tracedRequest{s.sender.newRequest(), s} }

type tracedRequest struct {
	request
	of *tracedSender
}

func (r *tracedRequest) send(ctx context.Context, entries []*entry) answer {
	ctx, span := r.of.start(ctx, entries)
	defer span.End()
	a := r.request.send(ctx, entries)
	noteOutcome(span, a[:len(entries)])
	return a
}

func (s *tracedSender) start(ctx context.Context, entries []*entry) (context.Context, trace.Span) {
	links := make([]trace.Link, 0, len(entries))
	for _, e := range entries {
		if c := creationContext(e.ev); c.IsValid() {
			links = append(links, trace.Link{SpanContext: c, Attributes: []attribute.KeyValue{linkEventID.String(e.ev.EventID)}})
		}
	}
	return s.tracer.Start(ctx, s.name, trace.WithSpanKind(trace.SpanKindProducer), s.route,
		trace.WithAttributes(semconv.MessagingBatchMessageCount(len(entries))), trace.WithLinks(links...))
}

// noteOutcome says in a span how many of a request's events failed. The first failure
// speaks for the others: an answer rarely has two reasons.
func noteOutcome(span trace.Span, answers []*relay.PublishError) {
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
