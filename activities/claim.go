package activities

import (
	"context"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// ClaimStore is the part of Store that claiming needs.
type ClaimStore interface {
	Claim(ctx context.Context, r relay.ClaimRequest) ([]relay.Batch, error)
	// Claimed finds what an earlier attempt of the same activity has claimed.
	Claimed(ctx context.Context, by string) ([]relay.Batch, error)
	// LeavesOut reports whether topics without a route have events that no claim takes.
	LeavesOut(ctx context.Context, routed []string) (bool, error)
	ReleaseClaim(ctx context.Context, b relay.Batch) error
}

// ClaimRequest asks for batches and says how long to wait for the first.
type ClaimRequest struct {
	// Batches is the most that the workflow can take.
	Batches int `json:"batches"`
	// PerTopic is the most that one topic may have leased at once.
	PerTopic int `json:"perTopic"`
	// Shares lowers PerTopic for some topics.
	Shares map[string]int `json:"shares,omitempty"`
	// Linger is how old a topic's oldest event must be before less than a page
	// of it is claimed.
	Linger time.Duration `json:"linger,omitempty"`
	// Wait is how long to look for something pending before answering with
	// nothing.
	Wait time.Duration `json:"wait"`
}

// ClaimResult refers to claimed batches. Each must be published, or its lanes
// stay leased until the claim expires.
type ClaimResult struct {
	Batches []relay.Batch `json:"batches,omitempty"`
	// Topics is the newest sample of the outbox's topics that the run was not told
	// of yet, at most sampleMost of them, those first that need a look.
	Topics []relay.TopicState `json:"topics,omitempty"`
	// MoreTopics is how many are left out.
	MoreTopics int `json:"moreTopics,omitempty"`
	// Published are events that this worker published in its shares, and that no run was told of.
	Published []TopicCount `json:"published,omitempty"`
	// Unrouted is how many topics have events and no destination, those that are left out
	// included.
	Unrouted int `json:"unrouted,omitempty"`
	// LeftOut says that events wait which this worker has no route for.
	LeftOut bool `json:"leftOut,omitempty"`
}

// unroutedMost is how many topics without a route are claimed or in recovery at once: enough
// to show the fault. An attempt finds no destination, so the others only wait.
const unroutedMost = 3

// pollShare is how much of its time a poll may spend in the database: one part
// in so many. An outbox with many topics is polled less often, not harder.
const pollShare = 5

// ClaimBatches waits until something is pending, and claims it. It answers with
// nothing when the wait is over, or at once when the worker shuts down. It leaves out
// topics of which this worker has acknowledgements to settle, and most of those that it has no
// route for. While such topics have events, it waits for timing.RouteWait at most: a worker of
// another version may have the route, and get the next claim.
//
// About every ten seconds it also samples all topics, if no other worker has. The sample goes along
// with the next answer. ClaimBatches answers at once only if a topic begins or ceases to need you.
//
// Every few seconds it also ends the holds of topics whose recovery has ended.
//
// If this worker can hold shares, the answer also has a batch for each worker that has no seat.
//
// It polls inside the worker: one look at the database takes a fraction of a millisecond, and an
// activity for each look would take a hundred times as long.
func (a *Activities) ClaimBatches(ctx context.Context, r ClaimRequest) (ClaimResult, error) {
	a.delays.arrives(ctx) // so that a new worker can tell which tasks were delayed
	info := activity.GetInfo(ctx)
	run := info.WorkflowExecution.RunID
	by := run + "/" + info.ActivityID
	if info.Attempt > 1 {
		// The attempt before may have claimed and then lost its answer.
		held, err := a.claims.Claimed(ctx, by)
		// A batch whose acknowledgements have to be settled first expires, and is claimed again.
		unsettled := a.ledger.waiting()
		held = slices.DeleteFunc(held, func(b relay.Batch) bool { return slices.Contains(unsettled, b.Topic) })
		if err != nil || len(held) > 0 {
			return ClaimResult{Batches: held}, failure(ctx, err, nil)
		}
	}
	stop := activity.GetWorkerStopChannel(ctx)
	heartbeat, unroutedDue := every(timing.ClaimHeartbeatEvery), every(a.routeWait)
	for deadline := time.Now().Add(r.Wait); ; {
		a.sampler.lookWhenDue(func(every time.Duration) sample { return a.look(ctx, every) })
		a.endHoldsWhenDue(ctx)
		// A run of one slot gets a seat, too. Other runs keep a slot for batches.
		offered, err := a.offer(ctx, max(1, r.Batches-1))
		if err != nil {
			return ClaimResult{}, failure(ctx, err, nil)
		}
		looked := time.Now()
		batches, err := a.claims.Claim(ctx, relay.ClaimRequest{
			By: by, Batches: r.Batches, PerTopic: r.PerTopic, Shares: a.shares(r.Shares), Linger: r.Linger,
			Routed: a.cfg.Routes, Unrouted: unroutedMost, Carries: a.carries(),
		})
		if err != nil {
			return ClaimResult{}, failure(ctx, err, nil)
		}
		interval := max(a.pollEvery(), (pollShare-1)*time.Since(looked))
		batches = append(batches, offered...)
		if len(batches) > 0 || time.Now().Add(interval).After(deadline) || a.sampler.isUrgent(run) {
			return a.answer(run, ClaimResult{Batches: batches}), nil
		}
		if a.cfg.Routes != nil && unroutedDue() {
			leaves, err := a.claims.LeavesOut(ctx, a.cfg.Routes)
			if err != nil {
				return ClaimResult{}, failure(ctx, err, nil)
			}
			if leaves {
				return a.answer(run, ClaimResult{LeftOut: true}), nil
			}
		}
		if heartbeat() {
			activity.RecordHeartbeat(ctx)
		}
		select {
		case <-ctx.Done():
			return ClaimResult{}, failure(ctx, ctx.Err(), nil)
		case <-stop:
			return ClaimResult{}, nil
		case <-time.After(interval):
		}
	}
}

// answer adds to an answer the news that its run was not told of.
func (a *Activities) answer(run string, r ClaimResult) ClaimResult {
	return a.carried.tell(a.sampler.tell(run, r))
}

// carries reports whether this worker holds shares.
func (a *Activities) carries() bool {
	return a.carrier != nil && len(a.carrier.hands.held()) > 0
}

// pollEvery is the shortest time between two looks at the database. What flows in shares waits for no
// claim.
func (a *Activities) pollEvery() time.Duration {
	if a.carries() {
		return max(a.cfg.PollEvery, timing.ApartEvery)
	}
	return a.cfg.PollEvery
}

// ReleaseBatch gives up a claim whose PublishBatch was cancelled before it could
// do so itself, between two attempts.
func (a *Activities) ReleaseBatch(ctx context.Context, b relay.Batch) error {
	return failure(ctx, a.claims.ReleaseClaim(ctx, b), nil)
}

// every returns a function that reports true once an interval, and not before the
// first is over: most claims are answered sooner and need no heartbeat.
func every(interval time.Duration) func() bool {
	last := time.Now()
	return func() bool {
		if time.Since(last) < interval {
			return false
		}
		last = time.Now()
		return true
	}
}
