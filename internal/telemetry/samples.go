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
	// topicsLife is how long a sample of the topics is shown: three times the interval
	// between samples. The worker that claims takes the samples. If another worker claims,
	// the numbers of this one would otherwise stand still.
	topicsLife = 30 * time.Second
	// healthLife is how long the findings of the hourly Maintenance are shown: a little
	// longer than until the next run, which another worker may have.
	healthLife = 75 * time.Minute
)

// samples are the last values that this worker read, with their times.
type samples struct {
	mu       sync.Mutex
	up       map[string]bool
	found    map[string]bool // destinations, by topic
	runs     map[string]bool // parts of the relay
	topicsAt time.Time
	sampled  []relay.TopicState
	healthAt time.Time
	health   relay.Health
	sharing  func() (lanes int, seated bool) // nil: this worker holds no shares
}

// Sharing shows how many shares this worker holds, and whether it has a seat. now is called when
// Prometheus asks, and must not block.
func (m *Metrics) Sharing(now func() (lanes int, seated bool)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sharing = now
}

// Topics shows a sample of all topics.
func (m *Metrics) Topics(topics []relay.TopicState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sampled, m.topicsAt = slices.Clone(topics), m.now()
}

// Health shows the findings of the hourly Maintenance.
func (m *Metrics) Health(h relay.Health) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health, m.healthAt = h, m.now()
}

// Dependency shows whether a dependency of this worker answered when it was last asked.
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

// Relay shows for each part of the relay (schedule, relay, workers, version and so on) whether it
// is in order. It does not show parts that are missing from the map.
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
