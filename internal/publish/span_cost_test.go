package publish

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestWithoutATracerARequestCostsNothingMore(t *testing.T) {
	ev := &relay.Event{Attributes: map[string]string{attributeTraceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	sl := &slot{request: stubRequest{&stub{}}, entries: []*entry{{ev: ev}}}
	allocations := func(s *stream) float64 {
		return testing.AllocsPerRun(100, func() { s.send(t.Context(), sl) })
	}
	bare := testing.AllocsPerRun(100, func() { sl.request.send(t.Context(), sl.entries) })
	assert.Equal(t, bare, allocations(&stream{}))
	assert.Greater(t, allocations(&stream{spans: newSpans(noop.NewTracerProvider().Tracer(""), Route{})}), bare, "it is measured at all")
}
