package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

// PublishRequest names a batch to publish.
type PublishRequest struct {
	Batch relay.Batch `json:"batch"`
	// Concurrency is how many requests to the destination may be under way.
	Concurrency int `json:"concurrency"`
	// For is how long to go on while the batch's lanes hold more. It is cut to
	// Config.BatchFor.
	For time.Duration `json:"for"`
	// Stay is how long to stay on lanes in which nothing is left, within For.
	// What comes meanwhile is published without another claim. 0: not at all.
	Stay time.Duration `json:"stay,omitempty"`
}

// PublishResult says what a batch came to, over all attempts.
type PublishResult struct {
	Published int `json:"published"`
	Requests  int `json:"requests"` // of the last attempt
}

// checkpoint is what a heartbeat carries: events that the destination has and
// the store does not know it yet. A later attempt settles them first, so that a
// database that was away for a moment causes no duplicates.
type checkpoint struct {
	Published int         `json:"published"`
	Unsettled []relay.Ref `json:"unsettled,omitempty"`
}

// PublishBatch publishes what is pending in a batch's lanes and settles it as it
// is acknowledged, page after page while the lanes hold more. It returns nil if
// everything that it sent was acknowledged, and also when it was stopped between
// two requests: its lanes are released, and the next claim goes on.
//
// If the destination refused some events, it keeps the lanes of those, releases
// the others and fails: the retry, its delay and its count are Temporal's.
func (a *Activities) PublishBatch(ctx context.Context, r PublishRequest) (PublishResult, error) {
	began := time.Now()
	var last checkpoint
	if activity.HasHeartbeatDetails(ctx) {
		if err := activity.GetHeartbeatDetails(ctx, &last); err != nil {
			return PublishResult{}, failure(ctx, err)
		}
		// Ours replaces it at the first heartbeat, so it is settled before that.
		if err := a.cfg.Store.Settle(ctx, r.Batch.Topic, last.Unsettled); err != nil {
			return PublishResult{}, failure(ctx, err)
		}
	}
	leaseFrom := time.Now()
	lease, err := a.cfg.Store.TakeOver(ctx, r.Batch)
	if err != nil {
		return PublishResult{}, failure(ctx, err)
	}
	t := newAttempt(a.cfg, lease, leaseFrom, last.Published)
	requests, err := t.run(ctx, r.Concurrency, began.Add(min(r.For, a.cfg.BatchFor)), r.Stay)
	result := PublishResult{Published: t.published, Requests: requests}
	if cause := context.Cause(ctx); err == nil &&
		(errors.Is(cause, activity.ErrActivityPaused) || errors.Is(cause, activity.ErrActivityReset)) {
		err = ctx.Err() // it has to end as an attempt, not as done
	}
	if err != nil {
		activity.RecordHeartbeat(ctx, t.checkpoint())
	}
	return result, failure(ctx, err)
}
