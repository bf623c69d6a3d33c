package outbox

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traceparentLength is the length of "00-<trace id>-<parent id>-<flags>".
const traceparentLength = 55

// traceparent returns the W3C traceparent of ctx, or "" if ctx has no valid
// span context. The format is fixed rather than taken from otel's global
// propagator, because consumers look for this one attribute.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[AttributeTraceparent]
}

// validTraceparent accepts version 00 only. Later versions may be longer, and
// could then break the size limit that was checked without them.
//
// W3C Trace Context, section 3.2.2: lower-case hexadecimal, and neither id is
// all zero. OpenTelemetry also refuses flags that version 00 does not define.
func validTraceparent(s string) bool {
	if len(s) != traceparentLength || s[:3] != "00-" {
		return false
	}
	carrier := propagation.MapCarrier{AttributeTraceparent: s}
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
	return trace.SpanContextFromContext(ctx).IsValid()
}
