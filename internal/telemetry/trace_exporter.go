package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// newExporter returns the exporter that OpenTelemetry's standard variables describe, or nil. It
// differs from the standard in one point: if neither OTEL_TRACES_EXPORTER nor an endpoint is set,
// it returns nil, and not an exporter that tries localhost.
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	switch name := os.Getenv("OTEL_TRACES_EXPORTER"); name {
	case "none":
		return nil, nil
	case "otlp":
	case "":
		if cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) == "" {
			return nil, nil
		}
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q: it must be otlp or none", name)
	}
	// The exporters themselves read the variables for endpoint, headers, TLS and timeout.
	var exporter sdktrace.SpanExporter
	var err error
	switch protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")); protocol {
	case "grpc":
		exporter, err = otlptracegrpc.New(ctx)
	case "", "http/protobuf":
		exporter, err = otlptracehttp.New(ctx)
	default:
		err = fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q: it must be http/protobuf or grpc", protocol)
	}
	if err != nil {
		return nil, fmt.Errorf("send traces: %w", err)
	}
	return exporter, nil
}
