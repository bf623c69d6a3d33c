package faults

import "time"

// Kind is what a rule does.
type Kind string

// Faults of single entries of a batch.
const (
	FailEntry     Kind = "entry failed"                // not forwarded, and reported as failed: InternalError
	ThrottleEntry Kind = "entry throttled"             // not forwarded, and reported as failed: throttled
	OmitAccepted  Kind = "entry unanswered (accepted)" // forwarded, and left out of the answer
	OmitDropped   Kind = "entry unanswered (dropped)"  // not forwarded, and left out of the answer
	Poison        Kind = "entry refused for good"      // not forwarded, and reported as failed for what is in it
)

// Faults of whole requests.
const (
	DropAnswer  Kind = "answer dropped"    // accepted, then the connection is closed
	DropRequest Kind = "request dropped"   // the connection is closed
	Throttle    Kind = "request throttled" // refused
	ServerError Kind = "server error"      // 500 or 503, the latter in a language that is not AWS's
	Slow        Kind = "slow"              // forwarded after a while
	Hang        Kind = "hang"              // no answer until the client gives up
	HangAfter   Kind = "hang (accepted)"   // accepted, and no answer until the client gives up
	Deny        Kind = "access denied"     // refused
	Hold        Kind = "held"              // waits until the rule is gone: no fault, but a gate
)

// entryKinds are tried for each entry by itself.
var entryKinds = map[Kind]bool{FailEntry: true, ThrottleEntry: true, OmitAccepted: true, OmitDropped: true, Poison: true}

// Rule makes a share of the requests, or of their entries, fail in one way.
type Rule struct {
	Kind Kind
	// Destination is the name of a topic or queue as AWS has it. Empty: all.
	Destination string
	// Spared are the names of topics and queues that it does not concern.
	Spared []string
	// Share is the part of requests, or of entries, that it meets, from 0 to 1.
	Share float64
	// Delay is how long Slow waits. Default 1 s.
	Delay time.Duration
}

// hangFor is longer than any client of ours waits.
const hangFor = 40 * time.Second
