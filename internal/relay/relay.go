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
// is pending beside the event's first delivery, and must be settled apart. And after
// the promotion of a standby that lagged, or a restore, the database gives ids again:
// At tells the events apart.
type Ref struct {
	ID     int64 `json:"id"`
	Lane   int16 `json:"lane"`
	Replay int64 `json:"replay,omitempty"`
	// At is the event's created_at in microseconds since 1970, PostgreSQL's resolution;
	// math.MinInt64 and math.MaxInt64 stand for its infinities. 0 in a heartbeat of an
	// earlier version: such a Ref names nothing.
	At int64 `json:"at,omitempty"`
}

// Chain is what is kept in order: the events of a key, in their first delivery or in
// one replay.
type Chain struct {
	Key    string
	Replay int64
}

// Event is a row of outbox.event on its way to a destination. It never enters
// a workflow history.
type Event struct {
	Ref
	CreatedAt time.Time
	// Bytes is about what the event measures, as its producer's transaction noted
	// it.
	Bytes       int64
	EventID     string // canonical lower-case UUID
	Key         string // empty: no ordering asked for
	Type        string
	Payload     string // published byte for byte
	ContentType string
	// Attributes are the producer's own, at most six, and "traceparent" when
	// the producer had a trace.
	Attributes map[string]string
	// Unreadable says which text of the event the database cannot convert to UTF-8, and
	// why. Then the event has no EventID and no texts but its key, if that can be read.
	Unreadable string
	// Invalid says why the event's row cannot become a message, though it can be read.
	Invalid string
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
	// Settling says that the last attempt on one of the lanes did not end in order, so
	// that its worker, if it lives, may still have acknowledgements to settle.
	Settling bool `json:"settling,omitempty"`
	// Shared marks a seat: it has no topic and no lanes. The worker that publishes it holds shares,
	// which are lanes of all topics, until the batch ends.
	Shared bool `json:"shared,omitempty"`
}

// Outcome is the fate of one event that was handed to a publisher.
type Outcome struct {
	Ref
	// Err is nil if the destination acknowledged the event.
	Err *PublishError
	// Sent is when the request with the event was started. It has a monotonic clock reading. Zero: the
	// event was not sent.
	Sent time.Time
	// MessageID and Destination are of an acknowledged event: the id that the destination
	// gave its message, and the destination's ARN or URL.
	MessageID   string
	Destination string
}

const (
	// PageEvents is how many events of a batch are loaded and unsettled at once. It bounds what is
	// sent again after a crash.
	PageEvents = 500
	// PageBytes is how large the events of a page are together. The contents of an event that alone
	// is larger are never loaded.
	PageBytes = 8 << 20
	// ProbeBytes is how large the events of a probe are together. A larger event is never probed.
	ProbeBytes = 2 << 20
)

// ClaimRequest asks for batches to publish.
type ClaimRequest struct {
	// By names who asks: the workflow run and activity. A retry of that activity
	// finds by it what the first attempt claimed.
	By string
	// Batches is the most that the caller can take.
	Batches int
	// PerTopic is the most that one topic may have leased at once, to whomever.
	PerTopic int
	// Shares lowers PerTopic for some topics.
	Shares map[string]int
	// Routed are the topics that have a destination, as far as the caller knows. nil: all
	// topics have one.
	Routed []string
	// Unrouted is how many other topics may be claimed or in recovery at once.
	Unrouted int
	// Carries says that the caller holds shares. Then it mostly finds nothing to claim, and need not look
	// at each lane to know.
	Carries bool
	// Linger is how old a topic's oldest event must be before less than a page
	// of it is claimed. It trades latency for fewer, fuller batches; 0 claims at
	// once.
	Linger time.Duration
}

// Lease is what an attempt holds of a batch.
type Lease struct {
	Topic string
	// Holder names the attempt. Renewing and releasing need it, so what an
	// earlier attempt still does cannot disturb a later one.
	Holder string
	// LowID has, for every lane held, the id from which its events are loaded.
	LowID map[int16]int64
	// PausedBy is the operator who has paused the topic, if one has.
	PausedBy string
	// UpTo bounds the events that are loaded. The zero value loads all.
	UpTo Bound
}

// Bound ends at the highest event that was pending at some time. An event is within it
// if neither its id nor its time is higher: after a failover, ids come again.
type Bound struct {
	ID int64 `json:"id"`
	// At is the later of the database's time and the times of these events. The zero
	// value: one of them has a time that is infinite or after the year 9999.
	At time.Time `json:"at,omitzero"`
}

// Read says how far an attempt has read its lanes.
type Read struct {
	// Next has, for every lane, the lowest id that may still be pending as far as the
	// attempt has seen.
	Next map[int16]int64
	// Last is the event with the highest id that it has loaded: the proof that Next is
	// about this history of the database. The zero value: it has loaded nothing.
	Last Ref
}

// Loaded notes that an event was loaded.
func (r *Read) Loaded(e Ref) {
	r.Next[e.Lane] = max(r.Next[e.Lane], e.ID+1)
	if e.ID > r.Last.ID {
		r.Last = e
	}
}

// Page is a part of a batch's events, ascending in each lane.
type Page struct {
	Events []Event
	// More is true if the lanes may hold more than this page.
	More bool
	// Reserved is true if an operation waits for one of the lanes.
	Reserved bool
	// At is when it was read, by the clock that events are dated by, if it has events.
	At time.Time
	// Round is the round of a mark that is noted from this page, and Ended the last round
	// that had ended when the page was read (see the store's rounds).
	Round, Ended int64
}

// Refusal is what is remembered of an event that its destination refuses and that
// is still pending.
type Refusal struct {
	Ref
	// For is how long it has been refused, over all runs.
	For time.Duration
}
