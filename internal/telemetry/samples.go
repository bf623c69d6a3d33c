package telemetry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/temporal-outbox/relay/internal/relay"
)

// healthLife is how long what the hourly upkeep found is shown: until the next
// time and a little longer, because somebody else's worker may run that.
const healthLife = 75 * time.Minute

// samples are gauges of what this worker read last. What is older than its life is
// not shown: another worker may know better.
type samples struct {
	mu       sync.Mutex
	up       map[string]bool
	health   relay.Health
	healthAt time.Time
}

// Health shows what the hourly upkeep found.
func (m *Metrics) Health(h relay.Health) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health, m.healthAt = h, m.now()
}

// Dependency shows whether something that this worker needs answered when it was
// last asked.
func (m *Metrics) Dependency(name string, up bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.up == nil {
		m.up = make(map[string]bool)
	}
	m.up[name] = up
}

// DatabaseError counts a statement or a connection that failed.
func (m *Metrics) DatabaseError(operation string) {
	m.databaseErrors.Add(context.Background(), 1, metric.WithAttributes(attribute.String("operation", operation)))
}

// gauges are what is read when Prometheus asks.
type gauges struct {
	up, ahead, caught, held metric.Int64ObservableGauge
}

// observe registers the gauges.
func (m *Metrics) observe(meter metric.Meter) error {
	var g gauges
	var all []metric.Observable
	for _, x := range []struct {
		to         *metric.Int64ObservableGauge
		name, help string
	}{
		{&g.up, "outbox_dependency_up", "1 if the database or Temporal answered when it was last asked, 0 if not."},
		{&g.ahead, "outbox_partitions_ahead_days", "For how many days after today there are partitions, without a gap."},
		{&g.caught, "outbox_default_partition_events", "Events in the default partition, out of reach of retention."},
		{&g.held, "outbox_vacuum_held_transactions", "By how many transactions the oldest snapshot, slot or prepared transaction lags."},
	} {
		var err error
		if *x.to, err = meter.Int64ObservableGauge(x.name, metric.WithDescription(x.help)); err != nil {
			return fmt.Errorf("make %s: %w", x.name, err)
		}
		all = append(all, *x.to)
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.show(o, g)
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("observe samples: %w", err)
	}
	return nil
}

// show gives what is not too old. mu is held.
func (m *Metrics) show(o metric.Observer, g gauges) {
	for name, up := range m.up {
		o.ObserveInt64(g.up, oneIf(up), metric.WithAttributes(attribute.String("dependency", name)))
	}
	if !m.healthAt.IsZero() && m.now().Sub(m.healthAt) < healthLife {
		o.ObserveInt64(g.ahead, int64(m.health.Ahead))
		o.ObserveInt64(g.caught, m.health.Caught)
		o.ObserveInt64(g.held, m.health.HeldXIDs)
	}
}

func oneIf(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}
