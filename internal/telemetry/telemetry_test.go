package telemetry

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
)

var _ activities.Metrics = (*Metrics)(nil)

// scrape returns what Prometheus sees, without comments.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, http.StatusOK, w.Code)
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

func newMetrics(t *testing.T, topics ...string) *Metrics {
	t.Helper()
	m, err := New(Config{Topics: topics})
	require.NoError(t, err)
	return m
}

func outcomes(errs ...*relay.PublishError) (o []relay.Outcome) {
	for i, err := range errs {
		o = append(o, relay.Outcome{Ref: relay.Ref{ID: int64(i)}, Err: err})
	}
	return o
}

func TestCounters_CountByTopic(t *testing.T) {
	m := newMetrics(t)
	m.Reported("orders", outcomes(nil, nil, &relay.PublishError{Code: "Throttled"}), []time.Duration{30 * time.Millisecond, 2 * time.Hour})
	m.Answered("orders", relay.Answer{Events: 10, Limit: 64})
	m.Answered("orders", relay.Answer{Events: 3, Err: &relay.PublishError{Code: relay.CodeTimeout}, Suspected: 3, Limit: 48})
	m.Answered("audit", relay.Answer{Events: 1, Err: &relay.PublishError{Code: "AccessDenied"}})
	m.DeadLettered("orders", outcomes(&relay.PublishError{Code: relay.CodeTooLarge}))
	m.ClaimLost("orders")
	m.RecoveryBegun("audit")
	m.ReceiptsLost("orders", 7)
	m.DatabaseError("connect")
	text := scrape(t, m)
	for _, want := range []string{
		`outbox_events_published_total{topic="orders"} 2`,
		`outbox_events_failed_total{class="retry",code="Throttled",topic="orders"} 1`,
		`outbox_publish_latency_seconds_bucket{topic="orders",le="0.025"} 0`,
		`outbox_publish_latency_seconds_bucket{topic="orders",le="0.05"} 1`,
		`outbox_publish_latency_seconds_bucket{topic="orders",le="7200"} 2`,
		`outbox_requests_total{outcome="answered",topic="orders"} 1`,
		`outbox_requests_total{outcome="unanswered",topic="orders"} 1`,
		`outbox_requests_total{outcome="refused",topic="audit"} 1`,
		`outbox_request_events_bucket{topic="orders",le="3"} 1`,
		`outbox_request_events_sum{topic="orders"} 13`,
		`outbox_requests_limit{topic="orders"} 48`,
		`outbox_duplicates_suspected_total{topic="orders"} 3`,
		`outbox_events_dead_lettered_total{code="EventTooLarge",topic="orders"} 1`,
		`outbox_claims_lost_total{topic="orders"} 1`,
		`outbox_recoveries_begun_total{topic="audit"} 1`,
		`outbox_receipts_lost_total{topic="orders"} 7`,
		`outbox_database_errors_total{operation="connect"} 1`,
		`outbox_build_info{`,
		`go_goroutines `,
	} {
		require.Contains(t, text, want)
	}
}

func TestCounters_OfRoutedTopicsBeginAtZero(t *testing.T) {
	text := scrape(t, newMetrics(t, "orders"))
	require.Contains(t, text, `outbox_events_published_total{topic="orders"} 0`)
	require.Contains(t, text, `outbox_requests_total{outcome="unanswered",topic="orders"} 0`)
	require.Contains(t, text, `outbox_recoveries_begun_total{topic="orders"} 0`)
}

func TestCounters_HaveABoundOfLabelsWhateverAnAnswerSays(t *testing.T) {
	m := newMetrics(t)
	m.Reported("orders", outcomes(&relay.PublishError{Code: `{"secret": "payload"}`}), nil)
	m.Reported("orders", outcomes(&relay.PublishError{Code: ""}), nil)
	for i := range 10 * maxCodes {
		m.Reported("orders", outcomes(&relay.PublishError{Code: "Code" + strings.Repeat("x", i%60) + string(rune('a'+i%26)) + string(rune('a'+i/26%26))}), nil)
	}
	text := scrape(t, m)
	require.NotContains(t, text, "secret")
	require.LessOrEqual(t, strings.Count(text, "outbox_events_failed_total{"), maxCodes+1)
	require.Contains(t, text, `code="other"`)
}

func TestTemporalMetrics_AreInSecondsWithBucketsToMatch(t *testing.T) {
	m := newMetrics(t)
	h := m.Temporal().WithTags(map[string]string{"activity_type": "PublishBatch"})
	h.Counter("temporal_request").Inc(2)
	h.Gauge("temporal_worker_task_slots_available").Update(99)
	h.Timer("temporal_activity_schedule_to_start_latency").Record(40 * time.Millisecond)
	text := scrape(t, m)
	require.Contains(t, text, `temporal_request_total{activity_type="PublishBatch"} 2`)
	require.Contains(t, text, `temporal_worker_task_slots_available{activity_type="PublishBatch"} 99`)
	require.Contains(t, text, `temporal_activity_schedule_to_start_latency_seconds_bucket{activity_type="PublishBatch",le="0.025"} 0`)
	require.Contains(t, text, `temporal_activity_schedule_to_start_latency_seconds_bucket{activity_type="PublishBatch",le="0.05"} 1`)
}

func BenchmarkARequestOfTenEvents(b *testing.B) {
	m, err := New(Config{})
	require.NoError(b, err)
	o := outcomes(make([]*relay.PublishError, 10)...)
	latencies := make([]time.Duration, 10)
	b.ReportAllocs()
	for b.Loop() {
		m.Answered("orders", relay.Answer{Events: 10})
		m.Reported("orders", o, latencies)
	}
}
