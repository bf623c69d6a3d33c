// Package check decides whether a chaos run kept the relay's promises. It is
// pure: facts that were recorded go in, violations come out. So it can be tested
// with made-up facts, above all with such as must make it fail: a checker that
// never goes red proves nothing.
package check

import "time"

// Fate is what became of the transaction that wrote an event.
type Fate string

// The fates. What is still Unknown when the facts are judged is an error of the
// harness.
const (
	Committed  Fate = "committed"
	RolledBack Fate = "rolled back"
	Unknown    Fate = "unknown"
)

// Written is an event as its producer knows it.
type Written struct {
	ID          string // event id
	Topic       string
	Key         string
	Seq         int64 // place among the key's committed events; 0 for events without a key
	Type        string
	ContentType string
	Payload     string
	Attributes  map[string]string // the producer's own
	Fate        Fate
	At          time.Time // when its fate was known
}

// Queue is a queue that a consumer drains.
type Queue struct {
	Name    string
	Topic   string // the outbox topic whose events arrive here
	Ordered bool   // FIFO, all the way from the destination
	Groups  bool   // messages have a group id
}

// Received is a message as a consumer got it. Messages of one queue are in the
// order in which they were received.
type Received struct {
	Queue     string
	MessageID string
	EventID   string // from its attributes
	Group     string
	// Deduplication is the id by which a FIFO queue recognises a repetition: the event
	// id, or that and the number of a replay.
	Deduplication string
	Payload       string
	Attributes    map[string]string // all of them
	Sent          time.Time         // when the queue accepted it
	Arrived       time.Time
}

// Replay is one time that an event was published again because somebody asked.
type Replay struct {
	Number int64     // tells replays of an event apart
	At     time.Time // when it was made pending; it cannot have been sent before
}

// Drop is one time that a partition was dropped.
type Drop struct {
	Partition string
	At        time.Time
	Events    int // that went with it
	Needed    int // of them, pending or dead at that instant
}

// Fault is something that was done to the relay, from Start to End.
type Fault struct {
	Kind  string
	Topic string // the one that has to recover from it; empty: every topic
	Start time.Time
	End   time.Time
	// Repeats is true if what was under way may be published again: whatever was
	// acknowledged then and could not be settled.
	Repeats bool
}

// Leftover is something in the outbox's tables that should be gone.
type Leftover struct {
	What string // "pending", "leased", "paused", "dead", "under way", "incomplete", "kept"
	Text string
}

// Facts are all that a run recorded.
type Facts struct {
	// Began is the instant that texts count seconds from.
	Began     time.Time
	Queues    []Queue
	Written   []Written
	Received  []Received
	Faults    []Fault
	Leftovers []Leftover
	// Replays has, by event id, how often an event has to come beside the first time.
	Replays map[string][]Replay
	// Discards has, by event id, the deliveries that an operator gave up: 0 for the first,
	// or the replay's number. They need not come.
	Discards map[string][]int64
	// Drops are all partitions that were dropped, and Vanished the events that are gone
	// without one.
	Drops    []Drop
	Vanished []string
	// Unanswered counts, by event id, how often a destination accepted the event
	// and the relay was kept from hearing of it.
	Unanswered map[string]int
	// Problems are failures of the harness or of a worker that no rule covers.
	Problems []string
}

// Violation is a promise that was broken.
type Violation struct {
	Rule Rule   `json:"rule"`
	Text string `json:"text"`
}

// Rule names a promise.
type Rule string

// The rules.
const (
	Lost      Rule = "lost"      // committed ⊆ received, replayed ⊆ received again, but for what was discarded
	Phantom   Rule = "phantom"   // rolled back ∩ received = ∅, and so for replays that nobody asked for, and what was discarded
	Disorder  Rule = "disorder"  // first receptions of a key in commit order, and so within each replay
	Altered   Rule = "altered"   // received as written
	Repeated  Rule = "repeated"  // duplicates have a cause, and a bound
	Retention Rule = "retention" // an event goes with its partition only, and none that is pending or dead
	Left      Rule = "left"      // nothing pending, leased, paused, dead, under way, incomplete or kept at the end
	Harness   Rule = "harness"   // what is needed to judge is missing
)
