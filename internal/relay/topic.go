package relay

import (
	"cmp"
	"slices"
	"time"
)

// TopicState is a topic as an operator wants to see it. It travels through
// workflow histories, so it has no more than that.
type TopicState struct {
	Topic string `json:"topic"`
	// Pending is counted up to CountMost. Capped says that there may be more.
	Pending int64 `json:"pending,omitempty"`
	Capped  bool  `json:"capped,omitempty"`
	// Oldest is the age of what was written first of it. 0 if nothing is pending.
	Oldest time.Duration `json:"oldest,omitempty"`
	// Dead is the number of dead letters, counted up to CountMost.
	Dead int64 `json:"dead,omitempty"`
	// DeadCode is the code that most of those died of.
	DeadCode string `json:"deadCode,omitempty"`
	// Retrying is how many batches wait for another attempt, because their
	// destination has refused some of their events.
	Retrying int `json:"retrying,omitempty"`
	// PausedBy is the operator who has paused the topic.
	PausedBy    string `json:"pausedBy,omitempty"`
	PauseReason string `json:"pauseReason,omitempty"`
	// Recovery is the id of the workflow that holds the topic, because its
	// destination is broken.
	Recovery string `json:"recovery,omitempty"`
	// Failure is why, if an attempt of that workflow has said so. Its message is cut.
	Failure Failure `json:"failure,omitzero"`
	// NoRoute says that the worker that looked has no destination for the topic.
	NoRoute bool `json:"noRoute,omitempty"`
}

// Failure is the last refusal for which a topic's destination is taken for broken. Its times
// are those of the database's clock.
type Failure struct {
	// Code is that of the refusal, as in PublishError, and Message the destination's text,
	// cut to FailureText.
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
	// Destination is the one that refuses. Empty if nobody knows.
	Destination string `json:"destination,omitempty"`
	// Since is when the topic was first left to its recovery.
	Since time.Time `json:"since,omitzero"`
	// Next is when the next attempt is due, or the one that is under way was due.
	Next time.Time `json:"nextAttemptAt,omitzero"`
}

// RecoveryHold keeps claims away from a topic until a time of the database's clock, for a recovery.
type RecoveryHold struct {
	Topic string
	// WorkflowID is the id of the recovery.
	WorkflowID string
	Until      time.Time
}

// FailureText is the most that is kept of a Failure's message, in bytes.
const FailureText = 1000

// CountMost is how far a topic's pending events and its dead letters are counted:
// beyond it, it matters little how many more there are, and counting takes time.
const CountMost = 100_000

// Late is the age from which an event that is pending makes its topic one that
// somebody should look at.
const Late = 30 * time.Second

// Concern is why somebody should look at a topic, the worst first.
type Concern int

// The concerns.
const (
	Broken   Concern = iota // its destination refuses everything
	Paused                  // by an operator
	Waiting                 // what is pending is late
	Retried                 // a batch was refused, and is tried again
	Unrouted                // it has events and no destination
	DeadOnes                // it has dead letters
	Nothing                 // it flows, or rests
)

// Concern returns the worst there is of a topic.
func (s TopicState) Concern() Concern {
	switch {
	case s.Recovery != "":
		return Broken
	case s.PausedBy != "":
		return Paused
	case s.NoRoute && s.Pending > 0:
		return Unrouted
	case s.Oldest >= Late:
		return Waiting
	case s.Retrying > 0:
		return Retried
	case s.Dead > 0:
		return DeadOnes
	default:
		return Nothing
	}
}

// SortByConcern puts first what somebody should look at first, and then what has
// most pending.
func SortByConcern(topics []TopicState) {
	slices.SortFunc(topics, func(a, b TopicState) int {
		return cmp.Or(cmp.Compare(a.Concern(), b.Concern()), cmp.Compare(b.Pending, a.Pending), cmp.Compare(a.Topic, b.Topic))
	})
}
