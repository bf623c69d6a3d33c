// Package check decides whether the relay kept its promises in a chaos run. It is pure:
// it takes the recorded facts and returns violations. So tests can give it invented
// facts, above all facts that break a promise: a checker that never fails proves nothing.
package check

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Outcome is what became of the transaction that wrote an event.
type Outcome string

// The outcomes. If an outcome is still Ambiguous when the facts are judged, that is an
// error of the harness.
const (
	Committed  Outcome = "committed"
	RolledBack Outcome = "rolled back"
	Ambiguous  Outcome = "unknown"
	// LostCommit is a commit that the old primary had, and the standby or the backup that
	// replaced it did not.
	LostCommit Outcome = "lost with the old primary"
)

// Written is an event as its producer knows it.
type Written struct {
	ID          string // event id
	Topic       string
	Key         string
	Seq         int64 // place among the key's committed events; 0 for events without a key
	Type        string
	ContentType string
	Payload     string            // or its Digest
	Attributes  map[string]string // the producer's own
	Outcome     Outcome
	At          time.Time // when its outcome was known
}

// Digest stands for a payload, so that records stay small.
func Digest(payload string) string {
	sum := sha256.Sum256([]byte(payload))
	return fmt.Sprintf("%d bytes, %s", len(payload), hex.EncodeToString(sum[:12]))
}

// Queue is a queue that a consumer drains.
type Queue struct {
	Name    string
	Topic   string // the outbox topic whose events arrive here, or with an asterisk at the end, the beginning of its name
	Ordered bool   // FIFO, all the way from the destination
	Groups  bool   // messages have a group id
}

// Received is a message as a consumer got it.
type Received struct {
	// N is its place among all messages, in the order in which they were received.
	N         int
	Queue     string
	MessageID string
	EventID   string // from its attributes
	Group     string
	// Deduplication is the id by which a FIFO queue recognises a repetition: the event
	// id, or that and the number of a replay.
	Deduplication string
	Payload       string            // or its Digest
	Attributes    map[string]string // all of them
	Sent          time.Time         // when the queue accepted it
	Arrived       time.Time
}

// Send is one time that a destination accepted an event from a worker.
type Send struct {
	EventID string
	Process string    // that sent it
	Began   time.Time // when the request came, or was forwarded, if it was held
	Ended   time.Time // when the destination had answered
	// Told is true if the worker got the answer. Otherwise it cannot know that the event
	// was accepted, and has to send it again.
	Told bool
}

// Replay is one time that an event was published again because an operator asked for it.
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

// Role says which duplicates a fault can explain.
type Role string

// The roles. A fault without one explains none.
const (
	// Death: the process ended, with acknowledgements that it had not settled.
	Death Role = "death"
	// Standstill: the process stood still from Start to End.
	Standstill Role = "standstill"
	// NoTemporal: Temporal was away, and gave the batch to another attempt.
	NoTemporal Role = "no Temporal"
	// NoDatabase: the database was away, so that nothing could be settled nor renewed.
	NoDatabase Role = "no database"
	// NewPrimary: changes between Start and End went with the old primary.
	NewPrimary Role = "new primary"
)

// Fault is something that was done to the relay, from Start to End.
type Fault struct {
	Kind    string
	Topic   string // the one that has to recover from it; empty: every topic
	Start   time.Time
	End     time.Time
	Role    Role
	Process string // of a Death or a Standstill
}

// Lookup asks for what happened to an event in a time.
type Lookup struct {
	Event         string
	After, Before time.Time
}

// Evidence has the records that the database has about an event that came twice.
type Evidence struct {
	// Settled is when a delivery of it left outbox.pending, from the beginning on, and
	// Pended when one was put there for a replay or a redrive.
	Settled, Pended []time.Time
	// Undone are those of Settled, and Unpended those of Pended, that the old primary alone
	// knew of.
	Undone, Unpended []time.Time
	Held             []Hold
}

// Hold is one time that a lane got another holder: an attempt that has a claim of the lane, or the
// worker that has the share of the lane.
type Hold struct {
	At      time.Time
	Process string // of the holder
	Holder  string // an attempt, or a worker
	Share   bool   // the holder has the lane by its share
	Lost    bool   // with an old primary: the new one did not know of it
}

// Remaining is something in the outbox's tables that should be gone at the end.
type Remaining struct {
	What string // "pending", "leased", "paused", "dead", "under way", "incomplete", "kept"
	Text string
}

// LoneHold is a time in which claims left a topic out for a recovery that did not run.
type LoneHold struct {
	Topic string
	Since time.Time
	// For counts only the time in which PostgreSQL and Temporal answered.
	For time.Duration
	Why string // what was done to the recovery, for people
}

// Part is all that was recorded of some of the events.
type Part struct {
	Written  []Written
	Received []Received
	Sends    []Send
	// Replays has, by event id, how often an event has to come beside the first time.
	Replays map[string][]Replay
	// LostReplays are those that went with an old primary. They may have come before.
	LostReplays map[string][]Replay
	// Discards has, by event id, the deliveries that an operator gave up: 0 for the first,
	// or the replay's number. They need not come.
	Discards map[string][]int64
	// Kept has the ids of the events that the database has, or had until their partition
	// was dropped, and Lost those that only an old primary had. Nil: outcomes are final.
	Kept, Lost map[string]bool
}

// Facts are all that a run recorded. Part has all events, unless a Source gives them.
type Facts struct {
	Part
	// Began is the instant that texts count seconds from.
	Began     time.Time
	Queues    []Queue
	Faults    []Fault
	Remaining []Remaining
	// Drops are all partitions that were dropped, and Vanished the events that are gone
	// without one.
	Drops    []Drop
	Vanished []string
	// Missing are dead letters that say of an event that it does not exist, and it does.
	Missing []string
	// Refused are errors of producers' statements that no injected fault explains.
	Refused []string
	// LoneHolds are all that lasted for longer than a moment.
	LoneHolds []LoneHold
	// Problems are failures of the harness or of a worker that no rule covers.
	Problems []string
	// Evidence looks up what the database recorded about events that came twice.
	Evidence func([]Lookup) (map[string]Evidence, error)
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
	Lost      Rule = "lost"      // committed ⊆ received, replayed ⊆ received again, except for discarded events
	Phantom   Rule = "phantom"   // rolled back ∩ received = ∅; the same for replays without an operator, and for discarded events
	Disorder  Rule = "disorder"  // receptions of a key in commit order, and so within each replay
	Altered   Rule = "altered"   // received as written
	Repeated  Rule = "repeated"  // each duplicate has a cause of its own
	Retention Rule = "retention" // an event goes with its partition only, and none that is pending or dead
	Missing   Rule = "missing"   // no event that exists is taken for one that does not
	Refused   Rule = "refused"   // no producer's statement fails
	Left      Rule = "left"      // nothing pending, leased, paused, dead, under way, incomplete or kept at the end
	Held      Rule = "held"      // no topic is held for long for a recovery that has ended
	Harness   Rule = "harness"   // what is needed to judge is missing
)
