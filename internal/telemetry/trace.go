package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/interceptor"
)

// flushTimeout is the maximum time of Stop if the collector does not answer. The worker's own
// stop takes up to 25 s of Kubernetes' 30.
const flushTimeout = 2 * time.Second

// Traces sends spans to a collector. A nil Traces is off, and all its methods work.
type Traces struct {
	provider *sdktrace.TracerProvider
	temporal interceptor.WorkerInterceptor
	log      *slog.Logger
}

// StartTraces begins to send the spans of a service to the collector that OpenTelemetry's standard
// variables name. It returns nil if they name none: see newExporter. Sampling, batches and limits
// follow the standard variables too. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the
// service's name and this program's version.
//
// Spans that the collector does not accept are lost with a warning in the log. The relay never
// waits for the collector.
func StartTraces(ctx context.Context, service string, log *slog.Logger) (*Traces, error) {
	exporter, err := newExporter(ctx)
	if exporter == nil || err != nil {
		return nil, err
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(ReadBuild().Version)),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("describe this program to traces: %w: check OTEL_RESOURCE_ATTRIBUTES", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(exporter))
	temporal, err := newTemporal(provider)
	if err != nil {
		return nil, err
	}
	// The SDK has one handler in a process; otherwise it writes to standard error.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("OpenTelemetry reports an error", "error", err) }))
	return &Traces{provider: provider, temporal: temporal, log: log}, nil
}

// Provider makes tracers; nil if traces are off.
func (t *Traces) Provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// Stop sends the remaining spans, for two seconds at most.
func (t *Traces) Stop() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last spans were not sent", "error", err)
	}
}
