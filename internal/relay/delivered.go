package relay

import "time"

// Delivered says what became of the events that a redrive or a replay has made pending.
type Delivered struct {
	// Moved is how many events the operation has made pending. Each is in one of the
	// four numbers that follow.
	Moved int64 `json:"-"`
	// Published is how many are neither pending nor dead any more. If NotKnown or Taken
	// says so, this is a number that may be too high.
	Published int64 `json:"published"`
	// Pending is how many wait to be published.
	Pending int64 `json:"pending"`
	// Dead is how many are dead letters again.
	Dead int64 `json:"dead"`
	// NotKnown is of how many nothing is known: a worker of the version before has moved
	// them, or may have made dead letters of them.
	NotKnown int64 `json:"notKnown,omitempty"`
	// Causes are why they are dead letters again: the most frequent codes, up to
	// MostCauses.
	Causes []Cause `json:"causes,omitempty"`
	// Taken are operations that have moved dead letters of these since, up to five: a redrive
	// has made them pending once more, or a discard has dropped them.
	Taken []int64 `json:"taken,omitempty"`
	// Lost is how many events fewer are on record than were moved, and UnderWay is true if the
	// operation is on record as under way though it has ended: a failover or a restore has lost
	// a part of it. Those events may be dead letters as before.
	Lost     int64 `json:"lost,omitempty"`
	UnderWay bool  `json:"underWay,omitempty"`
	// Why says what keeps the topic's events pending, if an operator or a recovery does.
	Why string `json:"why,omitempty"`
}

// MostCauses is how many codes Delivered names.
const MostCauses = 3

// Cause is a code of which events died.
type Cause struct {
	Code    string `json:"code"`
	Message string `json:"message"` // of the one that died last
	Events  int64  `json:"events"`
}

// Over reports whether each event has an outcome.
func (d Delivered) Over() bool { return d.Pending == 0 }

// Lacks reports whether the record is not that of an operation that has ended with as many
// events as were moved.
func (d Delivered) Lacks() bool { return d.Lost > 0 || d.UnderWay }

// Confirmed reports whether all events are known to have been published.
func (d Delivered) Confirmed() bool {
	return d.Over() && d.Dead == 0 && d.NotKnown == 0 && len(d.Taken) == 0 && !d.Lacks()
}

// LookAgain is the pause before another look at the outcome of events. A look reads all that
// is pending of the topic, so that the pause is ten times as long as it took.
func LookAgain(took time.Duration) time.Duration { return max(500*time.Millisecond, 10*took) }
