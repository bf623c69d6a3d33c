package publish

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

// systemTraceHeader is the one message system attribute that SQS accepts. Lambda
// and X-Ray read it, where others read traceparent. It counts neither towards the
// ten attributes nor towards the size. PublishBatch of SNS has nothing like it.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatchRequestEntry.html
const systemTraceHeader = "AWSTraceHeader"

// creationContext returns the span context that ev was written in. It is not valid
// if the producer left none, or nothing that can be read: an event that was
// inserted with SQL may carry any text there.
func creationContext(ev *relay.Event) trace.SpanContext {
	if ev.Attributes[attributeTraceparent] == "" {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(ev.Attributes))
	// A producer's own attribute may be called tracestate, and is no business of ours.
	return trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{})
}

// xrayHeader writes a valid span context the way X-Ray does.
// https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
func xrayHeader(c trace.SpanContext) string {
	id, sampled := c.TraceID().String(), "0"
	if c.IsSampled() {
		sampled = "1"
	}
	return "Root=1-" + id[:8] + "-" + id[8:] + ";Parent=" + c.SpanID().String() + ";Sampled=" + sampled
}
