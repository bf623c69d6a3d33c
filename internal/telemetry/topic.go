package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/temporal-outbox/relay/internal/relay"
)

// The outcomes of a request. "Unanswered" includes unreadable answers.
const (
	answered   = "answered"
	refused    = "refused"
	unanswered = "unanswered"
)

// topicMetrics are the metrics of one topic. They keep its labels, which are made once.
type topicMetrics struct {
	*Metrics
	name   string
	add    []metric.AddOption
	record []metric.RecordOption
	ended  map[string][]metric.AddOption // requests, by outcome
}

func (m *Metrics) topic(name string) *topicMetrics {
	if t, ok := m.topics.Load(name); ok {
		return t.(*topicMetrics) //nolint:errcheck,forcetypeassert // nothing else is put there
	}
	set := attribute.NewSet(attribute.String("topic", name))
	t := &topicMetrics{
		Metrics: m, name: name, ended: make(map[string][]metric.AddOption),
		add:    []metric.AddOption{metric.WithAttributeSet(set)},
		record: []metric.RecordOption{metric.WithAttributeSet(set)},
	}
	for _, outcome := range []string{answered, refused, unanswered} {
		t.ended[outcome] = []metric.AddOption{metric.WithAttributes(attribute.String("topic", name), attribute.String("outcome", outcome))}
	}
	first, _ := m.topics.LoadOrStore(name, t)
	return first.(*topicMetrics) //nolint:errcheck,forcetypeassert // nothing else is put there
}

// begin makes the topic's counters appear.
func (t *topicMetrics) begin() {
	for _, c := range []metric.Int64Counter{t.published, t.suspected, t.claimsLost, t.recoveries, t.receiptsLost} {
		c.Add(context.Background(), 0, t.add...)
	}
	for _, options := range t.ended {
		t.requests.Add(context.Background(), 0, options...)
	}
}

// Answered counts a request, and shows the limit of its destination.
func (m *Metrics) Answered(topic string, a relay.Answer) {
	ctx, t := context.Background(), m.topic(topic)
	m.requests.Add(ctx, 1, t.ended[outcome(a)]...)
	m.fill.Record(ctx, int64(a.Events), t.record...)
	m.limit.Record(ctx, int64(a.Limit), t.record...)
	if a.Suspected > 0 {
		m.suspected.Add(ctx, int64(a.Suspected), t.add...)
	}
}

func outcome(a relay.Answer) string {
	switch {
	case a.Err == nil:
		return answered
	case a.Err.Code == relay.CodeTimeout, a.Err.Code == relay.CodeConnection, a.Err.Code == relay.CodeResponse:
		return unanswered
	}
	return refused
}

// Reported counts the outcomes of events, and the ages of the accepted ones.
func (m *Metrics) Reported(topic string, outcomes []relay.Outcome, latencies []time.Duration) {
	ctx, t := context.Background(), m.topic(topic)
	published := 0
	for i := range outcomes {
		if err := outcomes[i].Err; err == nil {
			published++
		} else {
			m.failed.Add(ctx, 1, metric.WithAttributes(attribute.String("topic", topic),
				attribute.String("code", m.codes.label(err.Code)), attribute.String("class", class(err))))
		}
	}
	if published > 0 {
		m.published.Add(ctx, int64(published), t.add...)
	}
	for _, l := range latencies {
		m.latency.Record(ctx, l.Seconds(), t.record...)
	}
}

func class(err *relay.PublishError) string {
	if err.Class == "" {
		return string(relay.ClassRetry)
	}
	return string(err.Class)
}

// DeadLettered counts dead letters as they are made.
func (m *Metrics) DeadLettered(topic string, dead []relay.Outcome) {
	for i := range dead {
		m.dead.Add(context.Background(), 1, metric.WithAttributes(
			attribute.String("topic", topic), attribute.String("code", m.codes.label(dead[i].Err.Code))))
	}
}

// ClaimLost counts an attempt whose lanes another claim had taken.
func (m *Metrics) ClaimLost(topic string) {
	m.claimsLost.Add(context.Background(), 1, m.topic(topic).add...)
}

// ReceiptsLost counts receipts that could not be written.
func (m *Metrics) ReceiptsLost(topic string, n int) {
	m.receiptsLost.Add(context.Background(), int64(n), m.topic(topic).add...)
}

// RecoveryBegun counts a recovery.
func (m *Metrics) RecoveryBegun(topic string) {
	m.recoveries.Add(context.Background(), 1, m.topic(topic).add...)
}
