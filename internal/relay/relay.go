// Package relay holds the words that the store, the publisher, the activities
// and the workflows share: events, batches, outcomes. It knows neither
// PostgreSQL nor AWS nor Temporal, so that each of those stays replaceable and
// testable on its own.
package relay

import (
	"time"
)

// Lanes is the number of lanes of every topic. A lane is the unit of exclusive
// claiming: all events of one key share one. The generated column
// outbox.event.lane holds the same number; changing it needs a migration.
const Lanes = 16

// Ref names one pending event. ID alone does not: a replay of a delivered event
// is pending beside the event's first delivery, and must be settled apart.
type Ref struct {
	ID     int64 `json:"id"`
	Lane   int16 `json:"lane"`
	Replay int64 `json:"replay,omitempty"`
}

// Event is a row of outbox.event on its way to a destination. It never enters
// a workflow history.
type Event struct {
	Ref
	CreatedAt   time.Time
	EventID     string // canonical lower-case UUID
	Key         string // empty: no ordering asked for
	Type        string
	Payload     string // published byte for byte
	ContentType string
	// Attributes are the producer's own, at most six, and "traceparent" when
	// the producer had a trace.
	Attributes map[string]string
}

// Batch is what one claim publishes. It travels through workflow histories, so
// it refers to events by topic, lanes and counts only.
type Batch struct {
	Topic   string  `json:"topic"`
	ClaimID string  `json:"claimId"`
	Lanes   []int16 `json:"lanes"` // ascending
	// Events and Bytes count what was pending at the claim. They are capped at
	// one page a lane, so a backlog shows as full pages, not as its size.
	Events int   `json:"events"`
	Bytes  int64 `json:"bytes"`
}

// Outcome is the fate of one event that was handed to a publisher.
type Outcome struct {
	Ref
	// Err is nil if the destination acknowledged the event.
	Err *PublishError
}
