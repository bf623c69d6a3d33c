package message

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/relay"
)

// The usual text takes a short way, which must make no difference.
func TestCreationContext_IsThatOfThePropagator(t *testing.T) {
	const usual = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	texts := []string{
		usual, "", "00", usual + "-", usual + "-00", strings.ToUpper(usual),
		"01" + usual[2:], "ff" + usual[2:], "cc" + usual[2:] + "-more",
		"00-" + strings.Repeat("0", 32) + usual[35:], usual[:36] + strings.Repeat("0", 16) + "-01",
	}
	for _, flags := range []string{"00", "01", "02", "03", "08", "10", "0f", "ff", "0F", "0g", "1 "} {
		texts = append(texts, usual[:53]+flags)
	}
	for i := range usual {
		for _, c := range "0aAgfF-/:@`G é" {
			texts = append(texts, usual[:i]+string(c)+usual[i+1:])
		}
	}
	valid := 0
	for _, text := range texts {
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": text})
		want := trace.SpanContextFromContext(ctx)
		got := CreationContext(&relay.Event{Attributes: map[string]string{"traceparent": text}})
		require.Equal(t, want, got, text)
		if got.IsValid() {
			valid++
		}
	}
	require.Greater(t, valid, 100)
	state := CreationContext(&relay.Event{Attributes: map[string]string{"traceparent": usual, "tracestate": "a=b"}})
	require.Empty(t, state.TraceState().String(), "a producer's own attribute")
}
