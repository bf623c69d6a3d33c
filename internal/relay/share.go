package relay

import (
	"context"
	"time"
)

// TopicLane is one lane of one topic.
type TopicLane struct {
	Topic string
	Lane  int16
}

// A share is a lane number of all topics together. A worker process holds shares, and publishes all
// topics in them, except lanes that are apart: these belong to batches of one topic.

// Attendance is the sign of life of a worker that can hold shares.
type Attendance struct {
	Worker string // the id of the process, a UUID
	Name   string // for people
	// Seated reports whether an activity of Temporal lets the worker hold shares.
	Seated bool
	// Lanes are the lane numbers of the shares that the worker believes to hold. They are renewed.
	Lanes []int16
}

// Worker is a worker that was seen lately.
type Worker struct {
	ID     string
	Seated bool
}

// Shares is the answer to an Attendance.
type Shares struct {
	Workers []Worker      // by id, with the caller
	Holders [Lanes]string // the worker of each live share; "" if the share is not live
	Mine    []int16       // the caller's shares that this call has renewed, ascending
	// Exceptions are the lanes in Mine that are apart, claimed or reserved.
	Exceptions []LaneException
	// Stopped are the topics that an operator has paused, or that are held for a recovery.
	Stopped []string
}

// LaneException is a lane that may not belong to its share.
type LaneException struct {
	TopicLane
	Apart    bool // only batches of this topic may take it
	Claimed  bool // such a batch has it, or had it and did not give it back
	Reserved bool // an operation wants it
	// Free reports whether the lane is apart and nothing keeps its share from taking it back.
	Free  bool
	LowID int64 // nothing is pending below
}

// TakenShare is a share that a worker took.
type TakenShare struct {
	Lane int16
	// Settling reports whether the last holder did not give it back. It may still live, and have
	// acknowledgements to settle.
	Settling bool
}

// IDRange is a range of event ids, with both ends.
type IDRange struct{ From, To int64 }

// Look asks for events that a worker has not seen, of all topics.
type Look struct {
	Worker string
	Lanes  []int16   // the lane numbers that the worker holds
	Ranges []IDRange // ascending; the last one usually ends at math.MaxInt64
	Last   Ref       // the event with the highest id that the worker has seen; the zero value: none
	// Final and Server are those of the last answer that the worker has used. The zero values: none.
	Final  int64
	Server time.Time
	Most   int // events
	// Along asks for the contents of small events.
	Along bool
}

// Looked is the answer to a Look. All of it is of one snapshot.
type Looked struct {
	Held []int16 // of Look.Lanes, those that the worker holds
	// Final is the id up to which no transaction can insert an event any more.
	Final int64
	// SameHistory is false if the database may have given ids again, after a failover or a restore:
	// it does not have the event Look.Last, another server than Look.Server answers, or fewer ids
	// are final than before. Then the worker drops the answer and all that it knows of ids, and
	// begins with Discover.
	SameHistory bool
	Server      time.Time // when the server was started: it tells servers apart
	At          time.Time // by the clock that events are dated by
	Events      []Found   // by id, at most Look.Most
	More        bool      // the ranges may have more
}

// Found is an event that was found by its id.
type Found struct {
	Ref
	// Topic is "" if the event is in a lane that the worker does not hold. Then only the id counts.
	Topic string
	Bytes int64
	Place Place // if it is pending
	// Pending is false if the event is not pending: it was settled, or is a dead letter.
	Pending bool
	// Content is the whole event, if it is pending and the look has brought the content along. See Narrow.
	Content *Event
}

// FirstPending is the first pending event of a lane.
type FirstPending struct {
	TopicLane
	Ref Ref
}

// Discovered has all lanes of some shares that have pending events.
type Discovered struct {
	Held   []int16
	Final  int64
	Server time.Time
	First  []FirstPending // by topic and lane
}

// LaneCursor says from where a lane is read: the events with higher ids than After. An event and its replays
// have one id. So the reader of a full page goes on from the id before the last one, and leaves out those
// replays of the id After + 1 that are below Seen.
type LaneCursor struct {
	TopicLane
	After int64
	Seen  int64
	Most  int // events
}

// Covers reports whether an event of the lane is behind the cursor.
func (c LaneCursor) Covers(r Ref) bool {
	return r.ID > c.After+1 || r.ID == c.After+1 && r.Replay >= c.Seen
}

// Narrow is a pending event, usually without its content.
type Narrow struct {
	Topic     string
	Ref       Ref
	CreatedAt time.Time
	Bytes     int64
	Place     Place
	// Content is the whole event, if the read has brought it along. It is at most AlongBytes. nil: the
	// content has to be loaded.
	Content *Event
}

// AlongBytes is the size of an event up to which a read may bring the content along. A page of larger events
// would take much memory before the reader has decided which of them it takes.
const AlongBytes = 16 << 10

// Pages has the next pending events of several lanes.
type Pages struct {
	Held   []int16
	Final  int64
	Server time.Time // see Looked: another one than before means another history
	At     time.Time
	Events []Narrow    // ascending in each lane
	Full   []TopicLane // lanes that may have more than these
}

// TopicEvent is an event with its topic.
type TopicEvent struct {
	Topic string
	Event
}

// Place is where the database stored a pending event when it was read. It makes it quicker to find, and the
// event may be elsewhere by now. The zero value: it is not known.
type Place struct {
	Block  uint32
	Offset uint16
}

// TopicRefs are events of one topic.
type TopicRefs struct {
	Topic  string
	Refs   []Ref
	Places []Place // of Refs, in the same order; nil: they are not known
}

// SenderRequest configures a Sender. Its functions are called from one goroutine, never
// concurrently, and must not block. They may call methods of the Sender, but not Close. Report is
// required, and so is Dropped if Drop is used.
type SenderRequest struct {
	// Deadline returns the instant from which on nothing may be sent, for all topics, as far as it
	// is known now: the end of a lease less a margin. While it has passed, no request starts; once
	// it lies ahead again, sending goes on. It is asked before every request and before each attempt
	// of one, also concurrently. It does not end a request under way. The instant should carry a
	// monotonic clock reading. Default: none.
	Deadline func() time.Time
	// Most returns how many requests may be in flight to one destination, and 0 if the destination's
	// limiter alone decides. It is asked before every request, and must not block. Default: 0.
	Most func() int
	// Report gets the outcomes of every answered request of a topic, in the order of the answers.
	// The slice is the callee's to keep.
	Report func(topic string, outcomes []Outcome)
	// Answered is told of every request that is over, before its outcomes are reported, for
	// statistics. Default: it is not called.
	Answered func(topic string, a Answer)
	// Silent is called once a second for each topic that has events at a destination which has answered
	// nothing for more than five seconds, though requests are in flight. Default: it is not called.
	Silent func(topic string)
	// Dropping is called once for each Drop, before Dropped, as soon as the unsent events of the topic
	// are forgotten. inFlight are its other events: their outcomes follow, unless a request is divided
	// and the rest of it is forgotten, too. Default: it is not called.
	Dropping func(topic string, inFlight []Ref)
	// Dropped is called once for each Drop, when the outcomes of all requests with events of the
	// topic have been reported. From then on the topic can be added again.
	Dropped func(topic string)
}

// Sender sends the events of many topics until it is closed. It is safe for concurrent use.
type Sender interface {
	// Add sends events of a topic behind those that were added before. An event waits until the one
	// before it with the same key is acknowledged, if the topic's destination is FIFO. An event
	// behind a failed one of its key has no outcome: the caller should drop the topic.
	//
	// Add does not block. The slice belongs to the sender, which clears each event when it has an
	// outcome. It is a mistake to add events of a topic from Drop until Dropped is called, or after
	// Close: they are ignored, without outcomes.
	Add(topic string, events []Event)

	// Drop forgets the unsent events of a topic, without outcomes, and starts no request with
	// events of it any more. Dropped follows, also if the topic is not known. While a topic is
	// being dropped, and after Close, another Drop of it does nothing.
	Drop(topic string)

	// Backlog is the number of events that were added and neither sent nor forgotten. Events that
	// are held behind a failed one do not count.
	Backlog() int

	// Close forgets all unsent events, and waits until the requests in flight are reported. If ctx
	// ends before that, Close returns why; the requests go on, and are reported.
	Close(ctx context.Context) error
}
