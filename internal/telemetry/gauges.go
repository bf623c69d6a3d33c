package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/temporal-outbox/relay/internal/relay"
)

// gauges are read from the samples when Prometheus asks. Samples that are too old are not shown.
type gauges struct {
	up, found, runs, topics, pending, capped, dead, retrying, paused, ahead, caught, held, shares, seats metric.Int64ObservableGauge

	oldest metric.Float64ObservableGauge
}

// observe registers the gauges.
func (m *Metrics) observe(meter metric.Meter) error {
	var g gauges
	var all []metric.Observable
	var problems []error
	gauge := func(name, help string) metric.Int64ObservableGauge {
		made, err := meter.Int64ObservableGauge(name, metric.WithDescription(help))
		all, problems = append(all, made), append(problems, err)
		return made
	}
	g.up = gauge("outbox_dependency_up", "1 if the database or Temporal answered when it was last asked, 0 if not.")
	g.found = gauge("outbox_destination_up", "1 if the topic's destination was found when it was last looked up, 0 if not.")
	g.runs = gauge("outbox_relay_up", "1 if this part of the relay was in order when Temporal was last asked, 0 if not.")
	g.topics = gauge("outbox_topics_sampled", "Topics in the last sample.")
	g.pending = gauge("outbox_pending_events", "Events that are still to be published, counted up to 100,000.")
	g.capped = gauge("outbox_pending_events_capped", "1 if outbox_pending_events stopped counting.")
	g.dead = gauge("outbox_dead_letters", "Dead letters, counted up to 100,000.")
	g.retrying = gauge("outbox_retrying_batches", "Batches that wait for another attempt.")
	g.paused = gauge("outbox_topic_paused", "1 if the topic is paused, by an operator or by its recovery.")
	g.ahead = gauge("outbox_partitions_ahead_days", "Number of days after today that have a partition, without a gap.")
	g.caught = gauge("outbox_default_partition_events", "Events in the default partition, because their days had no partition.")
	g.held = gauge("outbox_vacuum_held_transactions", "Number of transactions by which the oldest snapshot, slot or prepared transaction lags.")
	g.shares = gauge("outbox_shares_held", "Lane numbers, of 16, whose lanes of all topics this worker publishes.")
	g.seats = gauge("outbox_worker_seated", "1 if an activity lets this worker hold lanes of all topics, 0 if not.")
	var err error
	g.oldest, err = meter.Float64ObservableGauge("outbox_oldest_pending_age", metric.WithUnit("s"),
		metric.WithDescription("Age of the oldest event that is still to be published, 0 if there is none."))
	all, problems = append(all, g.oldest), append(problems, err)
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("make gauges: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.show(o, &g)
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("observe gauges: %w", err)
	}
	return nil
}

// show observes the samples that are not too old. The caller holds mu.
func (m *Metrics) show(o metric.Observer, g *gauges) {
	for name, up := range m.up {
		o.ObserveInt64(g.up, oneIf(up), metric.WithAttributes(attribute.String("dependency", name)))
	}
	for topic, found := range m.found {
		o.ObserveInt64(g.found, oneIf(found), metric.WithAttributes(attribute.String("topic", topic)))
	}
	for part, runs := range m.runs {
		o.ObserveInt64(g.runs, oneIf(runs), metric.WithAttributes(attribute.String("part", part)))
	}
	if m.sharing != nil {
		lanes, seated := m.sharing()
		o.ObserveInt64(g.shares, int64(lanes))
		o.ObserveInt64(g.seats, oneIf(seated))
	}
	if m.isFresh(m.topicsAt, topicsLife) {
		o.ObserveInt64(g.topics, int64(len(m.sampled)))
		for i := range m.sampled {
			g.showTopic(o, &m.sampled[i])
		}
	}
	if m.isFresh(m.healthAt, healthLife) {
		o.ObserveInt64(g.ahead, int64(m.health.Ahead))
		o.ObserveInt64(g.caught, m.health.Caught)
		o.ObserveInt64(g.held, m.health.HeldXIDs)
	}
}

func (g *gauges) showTopic(o metric.Observer, t *relay.TopicState) {
	topic := attribute.String("topic", t.Topic)
	labels := metric.WithAttributes(topic)
	o.ObserveInt64(g.pending, t.Pending, labels)
	o.ObserveInt64(g.capped, oneIf(t.Capped), labels)
	o.ObserveFloat64(g.oldest, t.Oldest.Seconds(), labels)
	o.ObserveInt64(g.dead, t.Dead, labels)
	o.ObserveInt64(g.retrying, int64(t.Retrying), labels)
	o.ObserveInt64(g.paused, oneIf(t.PausedBy != ""), metric.WithAttributes(topic, attribute.String("by", "operator")))
	o.ObserveInt64(g.paused, oneIf(t.Recovery != ""), metric.WithAttributes(topic, attribute.String("by", "recovery")))
}

func (m *Metrics) isFresh(at time.Time, life time.Duration) bool {
	return !at.IsZero() && m.now().Sub(at) < life
}

func oneIf(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
