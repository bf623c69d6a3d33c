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
	parent := ev.Attributes[attributeTraceparent]
	if parent == "" {
		return trace.SpanContext{}
	}
	if c := usualContext(parent); c.IsValid() {
		return c
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(ev.Attributes))
	// A producer's own attribute may be called tracestate, and is no business of ours.
	return trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{})
}

// usualContext reads the text that almost all producers write, "00-<trace>-<span>-00" or "…-01", in a fifth of
// the time of the propagator. It is not valid for any other text.
func usualContext(parent string) trace.SpanContext {
	const form = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if len(parent) != len(form) || parent[:3] != "00-" || parent[35] != '-' || parent[52:54] != "-0" {
		return trace.SpanContext{}
	}
	config := trace.SpanContextConfig{Remote: true}
	switch parent[54] {
	case '0':
	case '1':
		config.TraceFlags = trace.FlagsSampled
	default:
		return trace.SpanContext{}
	}
	if !lowerHex(config.TraceID[:], parent[3:35]) || !lowerHex(config.SpanID[:], parent[36:52]) {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(config)
}

// lowerHex decodes lower-case hexadecimal text, of twice as many digits as there are bytes.
func lowerHex(to []byte, text string) bool {
	for i := range to {
		high, low := digit(text[2*i]), digit(text[2*i+1])
		if high|low > 0xF {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
}

// digit is the value of a lower-case hexadecimal digit, or more than any has.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xFF
}
