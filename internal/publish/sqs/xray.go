package sqs

import "go.opentelemetry.io/otel/trace"

// traceHeader is the one message system attribute that SQS accepts. Lambda
// and X-Ray read it, where others read traceparent. It counts neither towards the
// ten attributes nor towards the size. PublishBatch of SNS has nothing like it.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatchRequestEntry.html
const traceHeader = "AWSTraceHeader"

// xrayHeader writes a valid span context the way X-Ray does.
// https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
func xrayHeader(c trace.SpanContext) string {
	id, sampled := c.TraceID().String(), "0"
	if c.IsSampled() {
		sampled = "1"
	}
	return "Root=1-" + id[:8] + "-" + id[8:] + ";Parent=" + c.SpanID().String() + ";Sampled=" + sampled
}
