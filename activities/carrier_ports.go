package activities

import (
	"context"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ShareStore is where workers hold shares: lane numbers of all topics.
type ShareStore interface {
	// Attend registers the worker, renews its shares, and reads who holds the others, which lanes of
	// its shares are not its own, and which topics are stopped. A share whose lease has ended is not
	// renewed.
	Attend(ctx context.Context, a relay.Attendance) (relay.Shares, error)
	// Leave gives all shares of the worker back, and forgets the worker.
	Leave(ctx context.Context, worker string) error
	// TakeShares takes those of the shares that are not live.
	TakeShares(ctx context.Context, worker string, lanes []int16) ([]relay.TakenShare, error)
	GiveBackShares(ctx context.Context, worker string, lanes []int16) error
	// Exceptions returns the lanes of some shares that are apart, claimed or reserved.
	Exceptions(ctx context.Context, lanes []int16) ([]relay.LaneException, error)
	// SetApart gives lanes of the worker's shares to the batches of their topics, and raises their low
	// watermarks to lowIDs. done are those whose share the worker holds.
	SetApart(ctx context.Context, worker string, lanes []relay.TopicLane, lowIDs []int64, cause string) (done []relay.TopicLane, err error)
	// Rejoin takes lanes back from the batches of their topics, if nothing keeps it from that.
	Rejoin(ctx context.Context, worker string, lanes []relay.TopicLane) (joined []relay.LaneException, err error)
	// Offer returns how many workers need an activity that lets them hold shares, and notes that it
	// was asked.
	Offer(ctx context.Context) (seats int, err error)
}

// ReadStore is where a worker reads the events of its shares, and settles them.
type ReadStore interface {
	Look(ctx context.Context, l relay.Look) (relay.Looked, error)
	// Discover returns the first pending event of each lane of the shares.
	Discover(ctx context.Context, worker string, lanes []int16) (relay.Discovered, error)
	// Pages returns the next pending events of each lane, at most so many altogether.
	Pages(ctx context.Context, worker string, lanes []relay.LaneCursor, most int) (relay.Pages, error)
	// Keys returns the keys of events, in their order: "" if an event has none, or it cannot be read.
	Keys(ctx context.Context, events []relay.Narrow) ([]string, error)
	Contents(ctx context.Context, events []relay.Narrow) ([]relay.TopicEvent, error)
	// SettleTopics settles events of several topics at once. If it fails, some may be settled; it can be
	// repeated.
	SettleTopics(ctx context.Context, done []relay.TopicRefs) error
}

// Sender sends the events of many topics. internal/publish implements it.
type Sender interface {
	Open(r relay.SenderRequest) relay.Sender
}
