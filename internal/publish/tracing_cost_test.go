package publish

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/relay"
)

func TestTracing_CostsNothingWithoutATracer(t *testing.T) {
	events := []*relay.Event{{Attributes: map[string]string{"traceparent": producersTraceparent}}}
	allocations := func(d destination.Destination) float64 {
		sender := d.NewSender()
		return testing.AllocsPerRun(100, func() { sender.Send(t.Context(), events) })
	}
	bare := allocations(&stub{})
	assert.Equal(t, bare, allocations(traced(&stub{}, nil, "orders")))
	assert.Greater(t, allocations(traced(&stub{}, noop.NewTracerProvider().Tracer(""), "orders")), bare, "it is measured at all")
}

const producersTraceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
