package telemetry

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	// topicsLife is how long a sample of the topics is shown: three times as long as
	// it takes until the next. When another worker claims, that one samples, and this
	// one's numbers would stand still beside the others.
	topicsLife = 30 * time.Second
	// healthLife is how long what the hourly upkeep found is shown: until the next
	// time, which may be another worker's, and a little longer.
	healthLife = 75 * time.Minute
)

// samples are what this worker read last, and when.
type samples struct {
	mu       sync.Mutex
	up       map[string]bool
	found    map[string]bool // destinations, by topic
	runs     map[string]bool // parts of the relay
	topicsAt time.Time
	sampled  []relay.TopicState
	healthAt time.Time
	health   relay.Health
}

// Topics shows a sample of all topics.
func (m *Metrics) Topics(topics []relay.TopicState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sampled, m.topicsAt = slices.Clone(topics), m.now()
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

// Destination shows whether the destination of a topic was found when this worker last
// looked.
func (m *Metrics) Destination(topic string, found bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.found == nil {
		m.found = make(map[string]bool)
	}
	m.found[topic] = found
}

// Relay shows for each part that runs the relay (schedule, relay, workers, version and so
// on) whether it is as it has to be. A part that is left out is not shown.
func (m *Metrics) Relay(parts map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs = maps.Clone(parts)
}

// DatabaseError counts a statement or a connection that failed.
func (m *Metrics) DatabaseError(operation string) { m.countDatabaseErrors(operation, 1) }

func (m *Metrics) countDatabaseErrors(operation string, n int64) {
	m.databaseErrors.Add(context.Background(), n, metric.WithAttributes(attribute.String("operation", operation)))
}
