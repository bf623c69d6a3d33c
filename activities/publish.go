package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// PublishStore is the part of Store that publishing a batch needs.
type PublishStore interface {
	LaneStore
	LoadStore
	ProbeStore
	SettleStore
	TopicStore
	// Highest returns the bound of parking: the highest pending id in the lanes.
	Highest(ctx context.Context, l relay.Lease) (relay.Bound, error)
	DeadLetter(ctx context.Context, l relay.Lease, workflowID string, dead []relay.Outcome) error
	// Refuse records events that were refused alone, and returns for how long each has been refused.
	Refuse(ctx context.Context, topic string, refused []relay.Outcome) ([]relay.Refusal, error)
}

// LaneStore holds the lanes of a batch for an attempt.
type LaneStore interface {
	TakeOver(ctx context.Context, b relay.Batch) (relay.Lease, error)
	Renew(ctx context.Context, l relay.Lease, lanes []int16) error
	// Keep renews the lease of lanes for the next attempt.
	Keep(ctx context.Context, l relay.Lease, lanes []int16) error
	Release(ctx context.Context, l relay.Lease, read relay.Read) error
	// ReleaseClaim releases the lanes of a batch, even if another attempt holds them.
	ReleaseClaim(ctx context.Context, b relay.Batch) error
}

// LoadStore is the part of Store from which an attempt loads events.
type LoadStore interface {
	// Page reads which events are pending. Fill loads the contents of some of them.
	Page(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (relay.Page, error)
	Fill(ctx context.Context, events []relay.Event) error
	Exists(ctx context.Context, r relay.Ref) (bool, error)
	// Blocked returns the id of the first dead letter of each key.
	Blocked(ctx context.Context, topic string, keys []string) (map[relay.Chain]int64, error)
}

// ProbeStore is the part of Store from which a recovery loads probes.
type ProbeStore interface {
	// Borrow leases the free lanes of a batch's topic, and returns the low watermark of each.
	Borrow(ctx context.Context, b relay.Batch, l relay.Lease) (map[int16]int64, error)
	Probe(ctx context.Context, l relay.Lease, inHand []relay.Ref, p relay.Probe) (relay.Probed, error)
	Exists(ctx context.Context, r relay.Ref) (bool, error)
}

// PublishRequest names a batch to publish.
type PublishRequest struct {
	Batch relay.Batch `json:"batch"`
	// Concurrency is the largest number of requests of this batch in flight, or of a seat to one
	// destination. 0, which only a seat has: the limiter of the destination alone decides.
	Concurrency int `json:"concurrency"`
	// FindLevel replaces Concurrency: the limiter of the destination alone decides how many requests
	// are in flight. Workers of an earlier version do not know it, and use Concurrency.
	FindLevel bool `json:"findLevel,omitempty"`
	// For is how long to go on while the batch's lanes hold more. It is cut to
	// Config.BatchFor. A seat lasts for all of it.
	For time.Duration `json:"for"`
	// Stay is how long to stay on lanes in which nothing is left, within For.
	// Events that come meanwhile are published without another claim. 0: not at all.
	Stay time.Duration `json:"stay,omitempty"`
	// RecoveryID is the id of the workflow Recovery that takes over a broken topic.
	// Claims are kept away from the topic under this id.
	RecoveryID string `json:"recoveryId,omitempty"`
	// Recovering is set by that workflow: every attempt keeps claims away from the
	// topic for longer, and no attempt fails for good.
	Recovering bool `json:"recovering,omitempty"`
	// Park makes dead letters of all refused events, for any reason. It implies Recovering.
	Park bool `json:"park,omitempty"`
	// Bound, with Park, asks only for the bound of parking. The answer is
	// PublishResult.ParkUpTo.
	Bound bool `json:"bound,omitempty"`
	// ParkUpTo is the highest id that may be given up. Events behind it are not even
	// loaded. 0, as from workflows of an earlier version: all pending events.
	ParkUpTo int64 `json:"parkUpTo,omitempty"`
	// ParkBefore is the latest time of an event that may be given up. The database may
	// give an id up to ParkUpTo to a later event, after a failover. Zero, as from workflows
	// of an earlier version: any time.
	ParkBefore time.Time `json:"parkBefore,omitzero"`
}

// PublishResult is the result of a batch over all its attempts. A failure has it as its detail.
type PublishResult struct {
	Published int `json:"published"`
	Dead      int `json:"dead,omitempty"`      // made dead letters
	Throttled int `json:"throttled,omitempty"` // attempts
	Requests  int `json:"requests"`            // of the last attempt
	// Topics are, of a seat, the topics with the most published events, at most seatTopics of them.
	// Published also counts the events of the topics that are left out, which are MoreTopics.
	Topics     []TopicCount `json:"topics,omitempty"`
	MoreTopics int          `json:"moreTopics,omitempty"`
	// PausedBy is the operator who has paused the topic. In this case, nothing was sent, and the
	// batch's lanes are released.
	PausedBy string `json:"pausedBy,omitempty"`
	// ParkUpTo and ParkBefore are the bound of parking. More reports whether events within the
	// bound may still be pending. Workers of an earlier version set none of them: their parking
	// goes on while Dead is not 0.
	ParkUpTo   int64     `json:"parkUpTo,omitempty"`
	ParkBefore time.Time `json:"parkBefore,omitzero"`
	More       bool      `json:"more,omitempty"`
	// Destination is the destination of the events. Only a failure has it.
	Destination string `json:"destination,omitempty"`
}

// concurrency is the largest number of requests in flight after so many attempts that were throttled.
// 0: the limiter of the destination alone decides.
func (r PublishRequest) concurrency(throttled int) int {
	if r.FindLevel {
		return 0
	}
	return max(1, r.Concurrency>>min(throttled, 8))
}

// mode says for which workflow the batch is published.
func (r PublishRequest) mode() mode {
	switch {
	case r.Park:
		return parking
	case r.Recovering:
		return recovering
	}
	return relaying
}

// TopicCount is how many events of a topic a worker published.
type TopicCount struct {
	Topic     string `json:"topic"`
	Published int    `json:"published"`
}

// checkpoint is what a heartbeat carries from attempt to attempt. Unsettled are acknowledged
// events that are not settled. The next attempt settles them first, so that a short outage of
// the database causes no duplicates.
type checkpoint struct {
	Published              int         `json:"published"`
	Dead                   int         `json:"dead,omitempty"`
	Throttled              int         `json:"throttled,omitempty"`              // attempts
	AttemptsWithoutSuccess int         `json:"attemptsWithoutSuccess,omitempty"` // in a row
	Unsettled              []relay.Ref `json:"unsettled,omitempty"`
	// Waited says that an attempt has waited for the workers of earlier claims to settle.
	Waited bool `json:"waited,omitempty"`
	// ProbedTo is the id behind which the next attempt of a recovery probes.
	ProbedTo int64 `json:"probedTo,omitempty"`
	// Up to the id AmbiguousTo, each event was refused with an ambiguous code or waits behind a
	// refused event of its key. ProvedAt is the time at which another event was accepted.
	AmbiguousTo int64     `json:"doubtedTo,omitempty"`
	ProvedAt    time.Time `json:"provedAt,omitzero"`
	// Open and Passed are ids of events that were refused beside accepted events and are to be sent once more.
	// After the refusal of each event in Passed, the destination accepted another event, until ProvedAt. They
	// are at most passedMost together.
	Open   []int64 `json:"open,omitempty"`
	Passed []int64 `json:"passed,omitempty"`
	// GivenUp is how many events became dead letters because nothing else could be sent.
	GivenUp int `json:"givenUp,omitempty"`
	// Evidence is the event with the highest id among the probed and the ambiguous ones.
	Evidence *relay.Ref `json:"evidence,omitempty"`
}

// PublishBatch publishes the pending events in a batch's lanes and settles them as they
// are acknowledged, page after page while the lanes hold more. It returns nil if all events that
// it sent were acknowledged. It also returns nil if it was stopped between two requests, or if an
// operator has paused the topic: it then releases its lanes, and the next claim goes on.
//
// An event that the destination can never accept becomes a dead letter. If the destination refused
// other events, PublishBatch keeps their lanes, releases the others and fails. Temporal counts the
// attempts and delays the next one. PublishBatch fails for good, and keeps claims away from the
// topic, if you have to repair the destination, or if three attempts in a row got no event through.
//
// If the batch is a seat, PublishBatch lets its worker hold shares, see Carry. Its result counts the
// events that the worker published meanwhile.
func (a *Activities) PublishBatch(ctx context.Context, r PublishRequest) (PublishResult, error) {
	if r.Batch.Shared {
		return a.seat(ctx, r)
	}
	began, arrived := time.Now(), a.clock.Now()
	// These steps come before the first heartbeat. If they take too long, Temporal may have begun
	// another attempt, and this one ends without a trace.
	preparing, prepared := context.WithTimeout(ctx, timing.StallLimit)
	defer prepared()
	last, err := a.settleLast(ctx, preparing, r.Batch)
	if err != nil {
		return PublishResult{}, failure(ctx, err, nil)
	}
	leaseFrom := a.clock.Now()
	if leaseFrom.Since(arrived) > timing.StallLimit {
		// The machine was suspended, and another attempt may have the batch already.
		return PublishResult{}, failure(ctx, fmt.Errorf("%w: the machine was suspended", relay.ErrStopped), nil)
	}
	lease, err := a.batches.TakeOver(preparing, r.Batch)
	switch {
	case err != nil:
		a.countLostClaim(r.Batch.Topic, err)
		return PublishResult{}, failure(ctx, err, nil)
	case lease.PausedBy != "":
		result := PublishResult{Published: last.Published, Dead: last.Dead, Throttled: last.Throttled, PausedBy: lease.PausedBy}
		return result, failure(ctx, a.leaveToOperator(preparing, r.Batch, lease), result)
	}
	if r.mode() != relaying {
		if err := a.holdTopic(ctx, preparing, r); err != nil {
			return PublishResult{}, failure(ctx, err, nil)
		}
	}
	if r.Park && r.Bound {
		result, err := a.bound(ctx, lease)
		a.countLostClaim(r.Batch.Topic, err)
		return result, failure(ctx, err, nil)
	}
	t := a.newAttempt(r, lease, leaseFrom, last)
	t.tenure.aliveAt(arrived)
	t.workflowID, t.number = activity.GetInfo(ctx).WorkflowExecution.ID, activity.GetInfo(ctx).Attempt
	until := began.Add(min(r.For, a.cfg.BatchFor))
	if t.mustWait() {
		until = until.Add(timing.SettleGrace)
	}
	requests, err := t.run(ctx, until)
	a.countLostClaim(r.Batch.Topic, err)
	end := t.flight.checkpoint(r.Batch.Topic)
	result := PublishResult{
		Published: end.Published, Dead: end.Dead, Throttled: end.Throttled, Requests: requests,
		ParkUpTo: r.ParkUpTo, ParkBefore: r.ParkBefore, More: t.facts().parksOn(),
	}
	if cause := context.Cause(ctx); err == nil &&
		(errors.Is(cause, activity.ErrActivityPaused) || errors.Is(cause, activity.ErrActivityReset)) {
		err = ctx.Err() // Temporal expects another attempt of this batch
	}
	if err != nil {
		activity.RecordHeartbeat(ctx, end)
		result.Destination = a.cfg.Publisher.Destination(r.Batch.Topic)
	}
	return result, failure(ctx, err, result)
}

// settleLast settles the acknowledgements that the attempt before has left, and those of the batch
// that this worker knows. It returns what else that attempt has left.
func (a *Activities) settleLast(ctx, preparing context.Context, b relay.Batch) (last checkpoint, err error) {
	isRetry := activity.HasHeartbeatDetails(ctx)
	if isRetry {
		if err := activity.GetHeartbeatDetails(ctx, &last); err != nil {
			return last, err
		}
	}
	if err := a.wanted(ctx, last); err != nil {
		return last, err
	}
	if isRetry {
		// An earlier version noted no times, and the database may have been replaced since:
		// such an id may be another event's.
		last.Unsettled = slices.DeleteFunc(last.Unsettled, func(r relay.Ref) bool { return r.At == 0 })
		// Ours replaces it at the first heartbeat, so it is settled before that.
		if err := a.batches.Settle(preparing, b.Topic, last.Unsettled); err != nil {
			a.ledger.add(b.Topic, last.Unsettled) // the run may end, and its heartbeats with it
			return last, err
		}
	}
	if err := a.forgetOtherHistory(preparing, &last); err != nil {
		return last, err
	}
	// No event is loaded of which this worker knows that it is published.
	return last, a.ledger.settle(preparing, b.Topic, b.Lanes)
}

// leaveToOperator releases the lanes of a topic that an operator has paused.
func (a *Activities) leaveToOperator(ctx context.Context, b relay.Batch, l relay.Lease) error {
	if b.Settling { // the next claim has to wait for the earlier worker, too
		return a.batches.ReleaseClaim(ctx, b)
	}
	return a.batches.Release(ctx, l, relay.Read{Next: l.LowID})
}

// holdTopic keeps claims away from the topic during its recovery.
func (a *Activities) holdTopic(ctx, preparing context.Context, r PublishRequest) error {
	// After a reset of the activity, its attempts count from 1 again, but its heartbeats remain.
	if activity.GetInfo(ctx).Attempt == 1 && !activity.HasHeartbeatDetails(ctx) && r.mode() == recovering {
		a.cfg.Metrics.RecoveryBegun(r.Batch.Topic)
	}
	return a.batches.HoldForRecovery(preparing, r.Batch.Topic, r.RecoveryID, a.cfg.RecoveryHold)
}
