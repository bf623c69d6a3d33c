package publish_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// publishTraced publishes events inside a span and returns the spans of the
// requests, and that one last.
func publishTraced(t *testing.T, w *wire, d publish.Destination, events ...relay.Event) []sdktrace.ReadOnlySpan {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	p := w.publisher(d, func(c *publish.Config) { c.Traces = provider })
	ctx, span := provider.Tracer("test").Start(t.Context(), "batch")
	l := &ledger{t: t}
	_, err := p.Publish(ctx, publish.Request{Topic: "orders", Events: stream(events), Report: l.report})
	require.NoError(t, err)
	span.End()
	return recorder.Ended()
}

func attributesOf(s sdktrace.ReadOnlySpan) map[string]any {
	all := make(map[string]any)
	for _, a := range s.Attributes() {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

func TestTracing_EveryRequestIsASpanWithLinksToTheTracesOfItsEvents(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		events := simple(25)
		want := map[string]string{} // trace id by event
		for i := range events {
			switch i % 3 {
			case 0: // no trace
			case 1:
				events[i].Attributes = map[string]string{"traceparent": "no trace either"}
			case 2:
				id := fmt.Sprintf("%032x", i+1)
				events[i].Attributes = map[string]string{"traceparent": "00-" + id + "-00000000000000b7-00"}
				want[events[i].EventID] = id
			}
		}
		spans := publishTraced(t, w, d, events...)
		require.Len(t, spans, 3+1)
		batch, got, sent := spans[3], map[string]string{}, 0
		for _, s := range spans[:3] {
			a := attributesOf(s)
			for _, link := range s.Links() {
				require.Len(t, link.Attributes, 1)
				require.Equal(t, attribute.Key("outbox.event_id"), link.Attributes[0].Key)
				got[link.Attributes[0].Value.AsString()] = link.SpanContext.TraceID().String()
			}
			n, _ := a["messaging.batch.message_count"].(int64)
			sent += int(n)
			delete(a, "messaging.batch.message_count")
			assert.Equal(t, trace.SpanKindProducer, s.SpanKind())
			assert.Equal(t, batch.SpanContext().SpanID(), s.Parent().SpanID())
			assert.Equal(t, codes.Unset, s.Status().Code)
			shared := map[string]any{
				"messaging.operation.type": "send", "messaging.destination.name": "orders", "outbox.topic": "orders",
			}
			if d.SNS != "" {
				assert.Equal(t, "publish orders", s.Name())
				shared["messaging.system"], shared["messaging.operation.name"], shared["aws.sns.topic.arn"] = "aws.sns", "publish", d.SNS
			} else {
				assert.Equal(t, "send orders", s.Name())
				shared["messaging.system"], shared["messaging.operation.name"], shared["aws.sqs.queue.url"] = "aws_sqs", "send", d.SQS
			}
			assert.Equal(t, shared, a, "and nothing else")
		}
		assert.Equal(t, want, got)
		assert.Equal(t, len(events), sent)
	})
}

func TestTracing_TheSpanOfAFailedRequestSaysHowManyEventsAndWhy(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		w.publish = func(wireBatch) wireReply {
			return wireReply{Fail: map[string]wireError{"1": {Code: "InternalError", Message: "try again"}}, Omit: map[string]bool{"2": true}}
		}
		s := publishTraced(t, w, d, simple(5)...)[0]
		a := attributesOf(s)
		assert.Equal(t, "InternalError", a["error.type"])
		assert.Equal(t, int64(2), a["outbox.failed"])
		assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: "2 of 5: InternalError: try again"}, s.Status())

		w.publish = func(wireBatch) wireReply {
			return wireReply{Error: &wireError{Code: "AccessDenied", Message: "you may not"}, Status: 403}
		}
		s = publishTraced(t, w, d, simple(3)...)[0]
		a = attributesOf(s)
		assert.Equal(t, "AccessDenied", a["error.type"])
		assert.Equal(t, int64(3), a["outbox.failed"])
		assert.Equal(t, "3 of 3: AccessDenied: you may not", s.Status().Description)
	})
}

func TestTracing_ASpanHoldsNothingOfAPayload(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		events := simple(10)
		for i := range events {
			events[i].Payload, events[i].Key = "s3cr3t", "s3cr3t"
			events[i].Attributes = map[string]string{"a": "s3cr3t", "traceparent": producersTrace, "tracestate": "vendor=s3cr3t"}
		}
		for _, reply := range []wireReply{{}, {Fail: map[string]wireError{"3": {Code: "InternalError"}}}, {Drop: true}} {
			w.publish = func(wireBatch) wireReply { return reply }
			for _, s := range tracetest.SpanStubsFromReadOnlySpans(publishTraced(t, w, d, events...)) {
				require.NotContains(t, fmt.Sprintf("%+v", s), "s3cr3t")
			}
		}
	})
}

func TestTracing_AnUnsampledBatchHasNoSpansOfRequests(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		recorder := tracetest.NewSpanRecorder()
		never := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
		p := w.publisher(d, func(c *publish.Config) { c.Traces = never })
		sent := new(entriesSent).watch(w)
		events := simple(10)
		for i := range events {
			events[i].Attributes = map[string]string{"traceparent": producersTrace} // sampled
		}
		publishAll(t, p, events...)
		require.Empty(t, recorder.Ended())
		require.Equal(t, producersTrace, sent.byID[events[0].EventID][0].Attributes["traceparent"], "what consumers continue does not depend on it")
	})
}
