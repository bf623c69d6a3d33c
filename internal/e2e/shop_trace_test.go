package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/temporal-outbox/relay/examples/shop/inventory"
	"github.com/temporal-outbox/relay/examples/shop/order"
	shopqueue "github.com/temporal-outbox/relay/examples/shop/queue"

	"github.com/temporal-outbox/relay/internal/telemetry"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// traceShop sends the spans of the shop's services, which run in this process, to a
// collector, until stop is called.
func traceShop(t *testing.T, c *testenv.Collector) (stop func()) {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	traces, err := telemetry.StartTraces(t.Context(), "shop", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	otel.SetTracerProvider(traces.Provider())
	return func() {
		otel.SetTracerProvider(noop.NewTracerProvider())
		traces.Stop()
	}
}

// consume runs the inventory at q until stop is called.
func (o *outbox) consume(q queue) (stop func()) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(o.t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- shopqueue.Consumer{
			SQS: q.sqs, Queue: q.name, Handle: inventory.Service{DB: o.db}.Handle, Wait: time.Second,
		}.Run(ctx)
	}()
	return func() {
		cancel()
		require.NoError(o.t, <-ended)
	}
}

func one(t *testing.T, spans []testenv.Span, name string) (found testenv.Span) {
	t.Helper()
	n := 0
	for _, s := range spans {
		if s.Name == name {
			found = s
			n++
		}
	}
	require.Equal(t, 1, n, "spans named %q among %+v", name, spans)
	return found
}

func TestShop_OneTraceLeadsFromOrderToInventoryAndTheRelayLinksToIt(t *testing.T) {
	for _, c := range []struct{ mode, through string }{{shared, "sns"}, {shared, "sqs"}, {perTopic, "sns"}, {perTopic, "sqs"}} {
		t.Run(c.through+"/"+c.mode, func(t *testing.T) {
			through := c.through
			q := newQueue(t, testenv.Name(t))
			sent := "send " + q.name
			if through == "sns" {
				newTopic(t, q.name, q)
				sent = "publish " + q.name
			}
			o := newOutbox(t, "topics:\n  "+order.TopicOrders+": {"+through+": "+q.name+"}\n")
			o.exec(order.Tables + inventory.Tables + `;
				INSERT INTO shop.accounts VALUES ('a'); INSERT INTO shop.stock VALUES ('cup', 100)`)
			collector := testenv.NewCollector(t)
			w := o.workTraced(collector, c.mode)
			stopTracing, stopConsuming := traceShop(t, collector), o.consume(q)
			o.schedule()
			if c.mode == shared {
				o.sharesBecome(20*time.Second, 16)
			}

			events, err := order.Service{DB: o.db}.Place(t.Context(), order.Order{ID: "4711", Account: "a", Product: "cup", Quantity: 3, Cents: 500})
			require.NoError(t, err)
			testenv.Eventually(t, 30*time.Second, func() error {
				if n := o.count(`SELECT quantity FROM shop.stock`); n != 97 {
					return fmt.Errorf("%d are in stock", n)
				}
				return nil
			})
			o.drained(10 * time.Second)
			stopConsuming()
			stopTracing()
			w.stop()

			spans := collector.Spans()
			placed, processed := one(t, spans, "place order"), one(t, spans, "process "+q.name)
			request := one(t, spans, sent)
			// One trace, without the relay.
			require.Equal(t, placed.TraceID, processed.TraceID)
			require.Equal(t, placed.ID, processed.Parent)
			require.Equal(t, []string{"producer", "consumer"}, []string{placed.Kind, processed.Kind})
			// The relay's own, which links to it.
			require.NotEqual(t, placed.TraceID, request.TraceID)
			require.Equal(t, []testenv.SpanLink{{
				TraceID: placed.TraceID, ID: placed.ID, Attributes: map[string]string{"outbox.event_id": events[0].ID.String()},
			}}, request.Links)
			require.Equal(t, []string{"shop", "outbox-relay", "shop"}, []string{placed.Service, request.Service, processed.Service})
			if c.mode == perTopic {
				batch := one(t, spans, "RunActivity:PublishBatch")
				require.Equal(t, batch.ID, request.Parent)
				require.Equal(t, "outbox-relay", batch.Service)
			} else {
				require.Empty(t, request.Parent, "a seat has no span")
				require.Len(t, spans, 3)
			}
			for _, s := range spans {
				require.Empty(t, s.Error, s.Name)
			}
			require.True(t, request.Began.After(placed.Began) && processed.Began.After(request.Began), "%+v", spans)
		})
	}
}
