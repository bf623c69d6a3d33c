package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// seatTopics is how many topics the result of a seat names, so that a history does not grow
	// with their number.
	seatTopics = 200
	// seatPasses is how many workers in a row may pass a seat on because they have one.
	seatPasses = 30
	// seatShows is how soon the first heartbeat shows the lanes. By then they are shared evenly.
	seatShows = 5 * time.Second
)

// Sharing makes a worker hold shares, which are lane numbers of all topics. All fields are required
// except Waits and Log.
type Sharing struct {
	Worker string // the id of the process, a UUID
	Name   string // for people
	Shares ShareStore
	Reads  ReadStore
	Sender Sender
	// Waits reports that Temporal gives this worker no tasks, because its version is not current. The
	// worker then asks for no seat: other workers would only pass it on. Default: it never waits.
	Waits func() bool
	Log   *slog.Logger // default: slog.Default()
}

// Carry publishes the shares of this worker, while it has a seat, until ctx ends. Then it waits for
// its requests in flight, settles, and gives the shares back. It returns at once without
// Config.Sharing. (It is no method, because every method of Activities is an activity.)
func Carry(ctx context.Context, a *Activities) {
	if a.carrier != nil {
		a.carrier.run(ctx)
	}
}

// Held returns how many shares this worker holds, and whether it has a seat.
func Held(a *Activities) (shares int, seated bool) {
	if a.carrier == nil {
		return 0, false
	}
	return len(a.carrier.summary().Lanes), a.carrier.seating.isSeated()
}

// seat is the activity that lets this worker hold shares. It publishes nothing itself. It ends after
// r.For, when its worker stops, or when Temporal ends it. A worker that holds no shares, or has a
// seat already, passes the seat on to another one.
func (a *Activities) seat(ctx context.Context, r PublishRequest) (PublishResult, error) {
	began := time.Now()
	if a.carrier == nil {
		return passOn(ctx)
	}
	end, ok := a.carrier.sit(ctx, r.Concurrency)
	if !ok {
		return passOn(ctx)
	}
	err := a.stay(ctx, began.Add(seatLasts(ctx, r.For)))
	end()
	var result PublishResult
	counts := a.carried.take()
	for _, n := range counts {
		result.Published += n
	}
	result.Topics, result.MoreTopics = busiest(counts, seatTopics)
	return result, failure(ctx, err, nil)
}

// stay heartbeats until the seat is over. The error is that of Temporal, which ended it.
func (a *Activities) stay(ctx context.Context, until time.Time) error {
	over := time.NewTimer(time.Until(until))
	defer over.Stop()
	every := heartbeatOf(ctx)
	for next := time.After(min(every, seatShows)); ; next = time.After(every) {
		select {
		case <-ctx.Done():
			return ctx.Err() // it was cancelled, or Temporal expects another attempt
		case <-activity.GetWorkerStopChannel(ctx):
			return nil
		case <-over.C:
			return nil
		case <-next:
			activity.RecordHeartbeat(ctx, seatDetails{Now: a.carrier.summary().String()})
		}
	}
}

// seatDetails are what the heartbeat of a seat tells people. A worker of an earlier version may read it as a
// checkpoint.
type seatDetails struct {
	Now string `json:"now"`
}

// String returns the summary as a person reads it: "lanes 0-7 · 212 topics · 1,043 events".
func (s Summary) String() string {
	parts := []string{"no lanes yet"}
	switch len(s.Lanes) {
	case 0:
	case 1:
		parts[0] = "lane " + relay.FormatLanes(s.Lanes)
	default:
		parts[0] = "lanes " + relay.FormatLanes(s.Lanes)
	}
	return strings.Join(append(parts, printable.Counted(s.Topics, "topic"), printable.Counted(s.Published, "event")), " · ")
}

// heartbeatOf is how often this seat heartbeats. A run of an earlier version gives it less time.
func heartbeatOf(ctx context.Context) time.Duration {
	if timeout := activity.GetInfo(ctx).HeartbeatTimeout; timeout > 0 {
		return min(timing.SeatHeartbeat, timeout/3)
	}
	return timing.SeatHeartbeat
}

// seatLasts is how much is left of a seat that was scheduled for some time. Both times are of
// Temporal's clock: this machine's may differ.
func seatLasts(ctx context.Context, scheduled time.Duration) time.Duration {
	info := activity.GetInfo(ctx)
	if info.ScheduledTime.IsZero() || info.StartedTime.Before(info.ScheduledTime) {
		return scheduled
	}
	return scheduled - info.StartedTime.Sub(info.ScheduledTime)
}

// passOn gives a seat to the next poll that asks for a task. Temporal serves polls in turn, so that
// another worker soon gets it.
func passOn(ctx context.Context) (PublishResult, error) {
	if activity.GetInfo(ctx).Attempt > seatPasses {
		return PublishResult{}, nil
	}
	return PublishResult{}, failure(ctx, errSeated, nil)
}

// errSeated says that a worker does not need a seat.
var errSeated = errors.New("no fault: this worker has a seat or needs none, so another worker gets this one")

// seatOffers says when to offer seats to workers that have none.
type seatOffers struct {
	mu   sync.Mutex
	next time.Time
}

// due reports whether it is time to look for workers without a seat.
func (o *seatOffers) due() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if now.Before(o.next) {
		return false
	}
	o.next = now.Add(timing.ShareEvery)
	return true
}

// offer returns a batch for each worker that needs a seat, and at most so many.
func (a *Activities) offer(ctx context.Context, most int) ([]relay.Batch, error) {
	if a.carrier == nil || !a.offers.due() {
		return nil, nil
	}
	n, err := a.carrier.cfg.shares.Offer(ctx)
	if err != nil {
		return nil, fmt.Errorf("offer seats to workers: %w", err)
	}
	var offered []relay.Batch
	for range min(n, most) {
		offered = append(offered, relay.Batch{ClaimID: uuid.NewString(), Lanes: []int16{}, Shared: true})
	}
	return offered, nil
}

// carried counts the events by topic that were published in shares and that no run was told of.
type carried struct {
	mu     sync.Mutex
	topics map[string]int
}

func (t *carried) add(topic string, n int) {
	if n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.topics == nil {
		t.topics = make(map[string]int)
	}
	t.topics[topic] += n
}

// take returns the counts, and begins anew.
func (t *carried) take() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.topics
	t.topics = nil
	return taken
}

// busiest returns so many topics with the most events, by events and name, and how many are left out.
func busiest(topics map[string]int, most int) (list []TopicCount, more int) {
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		list = append(list, TopicCount{Topic: topic, Published: topics[topic]})
	}
	slices.SortStableFunc(list, func(a, b TopicCount) int { return cmp.Compare(b.Published, a.Published) })
	more = max(0, len(list)-most)
	return list[:len(list)-more], more
}

// tell adds the events that this worker published in its shares to an answer: those of the busiest
// topics, because a history must not grow with the number of topics. The others wait for a later answer
// or for the end of the seat.
func (t *carried) tell(r ClaimResult) ClaimResult {
	counts := t.take()
	r.Published, _ = busiest(counts, sampleMost)
	for _, told := range r.Published {
		delete(counts, told.Topic)
	}
	for topic, n := range counts {
		t.add(topic, n)
	}
	return r
}
