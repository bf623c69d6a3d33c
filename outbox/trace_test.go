package outbox_test

import (
	"context"
	"maps"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/outbox"
)

// traced returns a context with the span of parent, and with a tracestate.
func traced(t testing.TB) context.Context {
	t.Helper()
	traceID, err := trace.TraceIDFromHex(parent[3:35])
	if err != nil {
		t.Fatal(err)
	}
	spanID, err := trace.SpanIDFromHex(parent[36:52])
	if err != nil {
		t.Fatal(err)
	}
	state, err := trace.ParseTraceState("vendor=value")
	if err != nil {
		t.Fatal(err)
	}
	return trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
}

func TestTrace_OfTheContextTravelsWithTheEvent(t *testing.T) {
	tx := begin(t, connect(t, testenv.Database(t)))
	const other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	own := map[string]string{"tenant": "a"}

	for _, test := range []struct {
		name string
		ctx  context.Context
		own  map[string]string
		want map[string]string
	}{
		{"no trace", context.Background(), nil, map[string]string{}},
		{"no trace, own attributes", context.Background(), own, own},
		{"a trace", traced(t), nil, map[string]string{"traceparent": parent}},
		{"a trace, own attributes", traced(t), own, map[string]string{"traceparent": parent, "tenant": "a"}},
		{
			"the event's own trace goes before", traced(t),
			map[string]string{"traceparent": other},
			map[string]string{"traceparent": other},
		},
	} {
		e := event()
		e.ID, e.Attributes = outbox.NewID(), test.own
		if err := outbox.Write(test.ctx, tx, e); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		got := scan[map[string]string](t, tx, "SELECT attributes FROM outbox.event WHERE event_id = $1", e.ID)
		if !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestTrace_TakesNoneOfTheSixAttributes(t *testing.T) {
	tx := begin(t, connect(t, testenv.Database(t)))
	if err := outbox.Write(traced(t), tx, event(numbered(6))); err != nil {
		t.Fatal(err)
	}
	if n := scan[int](t, tx, "SELECT count(*) FROM outbox.event, jsonb_object_keys(attributes)"); n != 7 {
		t.Errorf("%d attributes stored, want 7", n)
	}
}
