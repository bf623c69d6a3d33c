package testenv

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector is where programs send their spans with OTLP over HTTP.
type Collector struct {
	URL string // for OTEL_EXPORTER_OTLP_ENDPOINT

	mu    sync.Mutex
	spans []Span
	raw   []string
}

// Span is a span as it arrived. Ids are in hexadecimal.
type Span struct {
	Service, Name       string
	TraceID, ID, Parent string
	Kind                string // "producer"
	Began, Ended        time.Time
	Attributes          map[string]string
	Links               []SpanLink
	Error               string // the status' text, "" unless it is an error
}

// SpanLink names the span that another is linked to.
type SpanLink struct {
	TraceID, ID string
	Attributes  map[string]string
}

// NewCollector serves until the test ends.
func NewCollector(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request coltracepb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("collector got %s: %v", r.URL, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.Take(&request)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// Take adds the spans of an export.
func (c *Collector) Take(request *coltracepb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, request.String())
	for _, about := range request.GetResourceSpans() {
		service := texts(about.GetResource().GetAttributes())["service.name"]
		for _, scope := range about.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, newSpan(service, s))
			}
		}
	}
}

// Spans are all that have arrived, by the time at which they began.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedStableFunc(slices.Values(c.spans), func(a, b Span) int { return a.Began.Compare(b.Began) })
}

// Text is everything that has arrived, to look for what must not be in it.
func (c *Collector) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.raw, "\n")
}

func newSpan(service string, s *tracepb.Span) Span {
	span := Span{
		Service: service, Name: s.GetName(),
		TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Kind:  strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")),
		Began: time.Unix(0, int64(s.GetStartTimeUnixNano())), Ended: time.Unix(0, int64(s.GetEndTimeUnixNano())), //nolint:gosec // nanoseconds of this century
		Attributes: texts(s.GetAttributes()),
	}
	for _, l := range s.GetLinks() {
		span.Links = append(span.Links, SpanLink{hex.EncodeToString(l.GetTraceId()), hex.EncodeToString(l.GetSpanId()), texts(l.GetAttributes())})
	}
	if s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		span.Error = s.GetStatus().GetMessage()
	}
	return span
}

// texts are attributes that are strings.
func texts(attributes []*commonpb.KeyValue) map[string]string {
	all := make(map[string]string)
	for _, a := range attributes {
		if v, ok := a.GetValue().GetValue().(*commonpb.AnyValue_StringValue); ok {
			all[a.GetKey()] = v.StringValue
		}
	}
	return all
}
