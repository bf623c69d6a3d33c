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
	// Highest says how far parking goes.
	Highest(ctx context.Context, l relay.Lease) (relay.Bound, error)
	DeadLetter(ctx context.Context, l relay.Lease, workflowID string, dead []relay.Outcome) error
	// Refuse remembers events that were refused alone, and says for how long each has been refused.
	Refuse(ctx context.Context, topic string, refused []relay.Outcome) ([]relay.Refusal, error)
}

// LaneStore holds the lanes of a batch for an attempt.
type LaneStore interface {
	TakeOver(ctx context.Context, b relay.Batch) (relay.Lease, error)
	Renew(ctx context.Context, l relay.Lease, lanes []int16) error
	// Keep renews the lease of lanes for the next attempt.
	Keep(ctx context.Context, l relay.Lease, lanes []int16) error
	Release(ctx context.Context, l relay.Lease, read relay.Read) error
	// ReleaseClaim releases the lanes of a batch, whichever attempt holds them.
	ReleaseClaim(ctx context.Context, b relay.Batch) error
}

// LoadStore is what an attempt loads from.
type LoadStore interface {
	Load(ctx context.Context, l relay.Lease, inHand []relay.Ref, events int) (relay.Page, error)
	Exists(ctx context.Context, r relay.Ref) (bool, error)
	// Blocked has the first dead letter of each key.
	Blocked(ctx context.Context, topic string, keys []string) (map[relay.Chain]int64, error)
}

// ProbeStore is what a recovery probes.
type ProbeStore interface {
	// Borrow leases the free lanes of a batch's topic, and says from where each is read.
	Borrow(ctx context.Context, b relay.Batch, l relay.Lease) (map[int16]int64, error)
	Probe(ctx context.Context, l relay.Lease, inHand []relay.Ref, p relay.Probe) (relay.Probed, error)
	Exists(ctx context.Context, r relay.Ref) (bool, error)
}

// PublishRequest names a batch to publish.
type PublishRequest struct {
	Batch relay.Batch `json:"batch"`
	// Concurrency is how many requests to the destination may be under way.
	Concurrency int `json:"concurrency"`
	// For is how long to go on while the batch's lanes hold more. It is cut to
	// Config.BatchFor.
	For time.Duration `json:"for"`
	// Stay is how long to stay on lanes in which nothing is left, within For.
	// Events that come meanwhile are published without another claim. 0: not at all.
	Stay time.Duration `json:"stay,omitempty"`
	// RecoveryID is the id of the workflow that takes the topic over when its
	// destination is broken. Claims are kept away from the topic in its name.
	RecoveryID string `json:"recoveryId,omitempty"`
	// Recovering is set by that workflow: every attempt renews the pause, and none
	// fails for good.
	Recovering bool `json:"recovering,omitempty"`
	// Park makes dead letters of all events that are refused, for any reason. It implies
	// Recovering.
	Park bool `json:"park,omitempty"`
	// Bound asks, with Park, how far that goes, and for nothing else: the answer is
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

// PublishResult says what a batch came to, over all attempts. It is also the
// detail of a failure.
type PublishResult struct {
	Published int `json:"published"`
	Dead      int `json:"dead,omitempty"`      // made dead letters
	Throttled int `json:"throttled,omitempty"` // attempts
	Requests  int `json:"requests"`            // of the last attempt
	// PausedBy is the operator who has paused the topic: nothing was sent, and the
	// batch's lanes are released.
	PausedBy string `json:"pausedBy,omitempty"`
	// ParkUpTo and ParkBefore are how far parking goes, and More says that something may still be
	// pending of that. Workers of an earlier version say neither, and have parking go on
	// while Dead is not 0.
	ParkUpTo   int64     `json:"parkUpTo,omitempty"`
	ParkBefore time.Time `json:"parkBefore,omitzero"`
	More       bool      `json:"more,omitempty"`
	// Destination is where the events were to go. Of a failure only.
	Destination string `json:"destination,omitempty"`
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

// checkpoint is what a heartbeat carries from attempt to attempt. Unsettled are
// events that the destination has and the store does not know it yet. A later
// attempt settles them first, so that a database that was away for a moment
// causes no duplicates.
type checkpoint struct {
	Published              int         `json:"published"`
	Dead                   int         `json:"dead,omitempty"`
	Throttled              int         `json:"throttled,omitempty"`              // attempts
	AttemptsWithoutSuccess int         `json:"attemptsWithoutSuccess,omitempty"` // in a row
	Unsettled              []relay.Ref `json:"unsettled,omitempty"`
	// Waited says that the workers of earlier claims have had their time to settle.
	Waited bool `json:"waited,omitempty"`
	// ProbedTo is the id behind which the next attempt of a recovery probes.
	ProbedTo int64 `json:"probedTo,omitempty"`
	// AmbiguousTo is the id up to which everything was refused alike or is behind an event
	// of its key that was, and ProvedAt the time at which another event was accepted.
	AmbiguousTo int64     `json:"doubtedTo,omitempty"`
	ProvedAt    time.Time `json:"provedAt,omitzero"`
	// GivenUp is how many events became dead letters because nothing else could be sent.
	GivenUp int `json:"givenUp,omitempty"`
	// Evidence is the event with the highest id that these are about.
	Evidence *relay.Ref `json:"evidence,omitempty"`
}

// PublishBatch publishes the pending events in a batch's lanes and settles them as they
// are acknowledged, page after page while the lanes hold more. It returns nil if
// everything that it sent was acknowledged, and also when it was stopped between
// two requests: its lanes are released, and the next claim goes on. So it does,
// before it sends anything, where an operator has paused the topic.
//
// An event that the destination will never accept becomes a dead letter. If it refused
// other events, PublishBatch keeps the lanes of those, releases the others and
// fails: the retry, its delay and its count are Temporal's. It fails for good,
// with the topic held back in the name of its recovery, when a person has to
// repair the destination, and when no event got through in three
// attempts.
func (a *Activities) PublishBatch(ctx context.Context, r PublishRequest) (PublishResult, error) {
	began, arrived := time.Now(), a.clock.Now()
	// Before it heartbeats. If this takes longer, it leaves nothing behind that another
	// attempt, which Temporal may have begun meanwhile, would have to share.
	preparing, prepared := context.WithTimeout(ctx, timing.StallLimit)
	defer prepared()
	last, err := a.settleLast(ctx, preparing, r.Batch)
	if err != nil {
		return PublishResult{}, failure(ctx, err, nil)
	}
	leaseFrom := a.clock.Now()
	if leaseFrom.Since(arrived) > timing.StallLimit {
		// The machine was suspended, and another attempt may have the batch already.
		return PublishResult{}, failure(ctx, fmt.Errorf("%w: the machine stood still", relay.ErrStopped), nil)
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
		err = ctx.Err() // it has to end as an attempt, not as done
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

// leaveToOperator gives the lanes of a topic back that an operator has paused.
func (a *Activities) leaveToOperator(ctx context.Context, b relay.Batch, l relay.Lease) error {
	if b.Settling { // the next claim is to know it as well
		return a.batches.ReleaseClaim(ctx, b)
	}
	return a.batches.Release(ctx, l, relay.Read{Next: l.LowID})
}

// holdTopic keeps claims away from the topic while its recovery is at work.
func (a *Activities) holdTopic(ctx, preparing context.Context, r PublishRequest) error {
	// A reset of the activity begins its attempts anew, and not its heartbeats.
	if activity.GetInfo(ctx).Attempt == 1 && !activity.HasHeartbeatDetails(ctx) && r.mode() == recovering {
		a.cfg.Metrics.RecoveryBegun(r.Batch.Topic)
	}
	return a.batches.HoldForRecovery(preparing, r.Batch.Topic, r.RecoveryID, a.cfg.RecoveryHold)
}
