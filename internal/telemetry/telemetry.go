// Package telemetry serves a worker's metrics to Prometheus, and sends traces to the collector
// that OpenTelemetry's standard variables name. Only this package uses OpenTelemetry's SDK:
// activities and the store report to it through small interfaces of their own.
//
// docs/metrics.md describes every metric. Labels are topics, error codes and classes, so that
// their number is bounded; no part of an event is ever a label.
package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/opentelemetry"
)

// Config configures Metrics. The zero value is the default.
type Config struct {
	// Topics are the topics that the worker routes. Their counters start at 0 when the worker
	// starts, because Prometheus does not see the increase of a counter that did not exist.
	Topics []string
	// Operations are the operations of DatabaseError. Their counters start at 0 as well.
	Operations []string
}

// Metrics are the metrics of a worker. They are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	provider *sdk.MeterProvider
	instruments
	topics sync.Map // of *topicMetrics, by name
	codes  codes
	samples
	now func() time.Time
}

// temporalBuckets are for the SDK's own latencies, in seconds: a local call takes
// milliseconds, ClaimBatches waits for half a minute, and a run lasts two minutes.
var temporalBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 120, 300}

// New makes metrics in which all counters are 0.
func New(cfg Config) (*Metrics, error) {
	m := &Metrics{registry: prometheus.NewRegistry(), now: time.Now}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	exporter, err := otelprometheus.New(
		otelprometheus.WithRegisterer(m.registry),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		// Without three labels that would name this program in every series.
		otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithoutTargetInfo(),
	)
	if err != nil {
		return nil, fmt.Errorf("make the Prometheus exporter: %w", err)
	}
	m.provider = sdk.NewMeterProvider(
		sdk.WithReader(exporter),
		// The search for an exemplar's trace takes three quarters of the time of a count,
		// and never finds one: no trace is active where the relay counts.
		sdk.WithExemplarFilter(exemplar.AlwaysOffFilter),
		sdk.WithView(sdk.NewView(
			sdk.Instrument{Name: "temporal_*", Kind: sdk.InstrumentKindHistogram},
			sdk.Stream{Aggregation: sdk.AggregationExplicitBucketHistogram{Boundaries: temporalBuckets}},
		)),
	)
	meter := m.provider.Meter("outbox")
	if m.instruments, err = newInstruments(meter); err != nil {
		return nil, err
	}
	if err := m.observe(meter); err != nil {
		return nil, err
	}
	m.build(ReadBuild())
	for _, topic := range cfg.Topics {
		m.topic(topic).begin()
	}
	for _, operation := range cfg.Operations {
		m.countDatabaseErrors(operation, 0)
	}
	return m, nil
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Temporal is for client.Options: the SDK's own metrics, as temporal_....
func (m *Metrics) Temporal() client.MetricsHandler {
	return opentelemetry.NewMetricsHandler(opentelemetry.MetricsHandlerOptions{
		Meter: m.provider.Meter("temporal-sdk-go"), UseMonotonicCounters: true,
		// Its default is to panic. A missing metric must not stop a worker.
		OnError: func(error) {},
	})
}

// build shows this program's version.
func (m *Metrics) build(b Build) {
	m.buildInfo.Record(context.Background(), 1, metric.WithAttributes(b.attributes()...))
}
