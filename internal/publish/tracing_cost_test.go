package publish

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestWithoutATracerARequestCostsNothingMore(t *testing.T) {
	ev := &relay.Event{Attributes: map[string]string{attributeTraceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	entries := []*entry{{ev: ev}}
	allocations := func(s sender) float64 {
		r := s.newRequest()
		return testing.AllocsPerRun(100, func() { r.send(t.Context(), entries) })
	}
	bare := allocations(&stub{})
	assert.Equal(t, bare, allocations(traced(&stub{}, nil, Route{})))
	assert.Greater(t, allocations(traced(&stub{}, noop.NewTracerProvider().Tracer(""), Route{})), bare, "it is measured at all")
}
