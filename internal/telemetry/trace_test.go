package telemetry_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/temporal-outbox/relay/internal/telemetry"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// environment sets OpenTelemetry's variables to these and no others.
func environment(t *testing.T, variables map[string]string) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range variables {
		t.Setenv(name, value)
	}
}

func start(t *testing.T, variables map[string]string) (*telemetry.Traces, error) {
	environment(t, variables)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel() // only the start may depend on it
	return telemetry.StartTraces(ctx, "outbox-relay", slog.New(slog.DiscardHandler))
}

func TestTrace_IsOffUnlessTheStandardVariablesSayWhere(t *testing.T) {
	type vars = map[string]string
	const here = "http://127.0.0.1:1"
	for _, test := range []struct {
		vars vars
		on   bool
		says string
	}{
		{vars{}, false, ""},
		{vars{"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, false, ""},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": here}, true, ""},
		{vars{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": here}, true, ""},
		{vars{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": here}, false, ""},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": here, "OTEL_TRACES_EXPORTER": "none"}, false, ""},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": here, "OTEL_SDK_DISABLED": "true"}, false, ""},
		{vars{"OTEL_TRACES_EXPORTER": "otlp"}, true, ""},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, ""},
		{vars{"OTEL_TRACES_EXPORTER": "zipkin"}, false, `OTEL_TRACES_EXPORTER is "zipkin": it must be otlp or none`},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "thrift"}, false, `"thrift": it must be http/protobuf or grpc`},
		{vars{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_RESOURCE_ATTRIBUTES": "a"}, false, "check OTEL_RESOURCE_ATTRIBUTES"},
	} {
		traces, err := start(t, test.vars)
		if test.says != "" {
			require.ErrorContains(t, err, test.says)
		} else {
			require.NoError(t, err)
		}
		assert.Equal(t, test.on, traces != nil, "%v", test.vars)
		assert.Equal(t, test.on, traces.Provider() != nil, "%v", test.vars)
		assert.Equal(t, test.on, traces.Interceptors(nil) != nil, "%v", test.vars)
		traces.Stop()
		for name := range test.vars {
			t.Setenv(name, "")
		}
	}
}

// span makes one and stops.
func span(t *testing.T, variables map[string]string) {
	t.Helper()
	traces, err := start(t, variables)
	require.NoError(t, err)
	_, span := traces.Provider().Tracer("test").Start(t.Context(), "a span")
	span.End()
	traces.Stop()
}

func TestTrace_IsSentWithTheServicesNameWhenStopReturns(t *testing.T) {
	c := testenv.NewCollector(t)
	span(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL})
	require.Len(t, c.Spans(), 1)
	require.Equal(t, "a span", c.Spans()[0].Name)
	require.Equal(t, "outbox-relay", c.Spans()[0].Service)
	require.Contains(t, c.Text(), "service.version")

	span(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_SERVICE_NAME": "relay-of-team-a"})
	require.Equal(t, "relay-of-team-a", c.Spans()[1].Service)
}

func TestTrace_IsSampledAsTheStandardVariableSays(t *testing.T) {
	c := testenv.NewCollector(t)
	span(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"})
	require.Empty(t, c.Spans())
}

// byGRPC is a collector with the other protocol.
type byGRPC struct {
	coltracepb.UnimplementedTraceServiceServer
	*testenv.Collector
}

func (c byGRPC) Export(_ context.Context, r *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.Take(r)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func TestTrace_GoesByGRPCWhereTheVariablesSaySo(t *testing.T) {
	c := testenv.NewCollector(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(server, byGRPC{Collector: c})
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	span(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + l.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
	require.Len(t, c.Spans(), 1)
}

// warnings are a log that is read while others may still write.
type warnings struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *warnings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func logged(t *testing.T, variables map[string]string) (*telemetry.Traces, *warnings) {
	t.Helper()
	environment(t, variables)
	log := new(warnings)
	traces, err := telemetry.StartTraces(t.Context(), "outbox-relay", slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, err)
	return traces, log
}

func TestTrace_ToACollectorThatHangsDelaysOnlyTheEndByTwoSeconds(t *testing.T) {
	hanging := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hanging }))
	defer server.Close()
	defer close(hanging)
	traces, log := logged(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": server.URL})
	began := time.Now()
	for range 10_000 { // five times what waits for the collector at most
		_, s := traces.Provider().Tracer("test").Start(t.Context(), "a span")
		s.End()
	}
	require.Less(t, time.Since(began), 8*time.Second, "a request to the collector takes 10 s")
	began = time.Now()
	traces.Stop()
	require.Less(t, time.Since(began), 8*time.Second)
	require.Contains(t, log.String(), "the last spans were not sent")
}

func TestTrace_ThatTheCollectorRefusesIsWarnedOfWithoutCredentials(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer server.Close()
	traces, log := logged(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": strings.Replace(server.URL, "http://", "http://user:s3cr3t@", 1),
		"OTEL_EXPORTER_OTLP_HEADERS":  "api-key=s3cr3t",
	})
	_, s := traces.Provider().Tracer("test").Start(t.Context(), "a span")
	s.End()
	traces.Stop()
	require.Contains(t, log.String(), "401")
	require.NotContains(t, log.String(), "s3cr3t")
}
