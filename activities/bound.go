package activities

import (
	"context"
	"maps"
	"slices"

	"github.com/temporal-outbox/relay/internal/relay"
)

// bound is the first round of parking. It looks up the bound and makes no dead letter. Parking
// needs a bound because services may go on writing, and the operator has not given up later events.
// bound is a round of its own, so that the workflow's history has the bound before the first dead
// letter. If an attempt of this round dies, the next one simply looks again. bound heartbeats,
// because it reads all pending rows of the batch's lanes.
func (a *Activities) bound(ctx context.Context, l relay.Lease) (PublishResult, error) {
	defer beat(ctx)()
	upTo, err := a.batches.Highest(ctx, l)
	switch {
	case err != nil:
		return PublishResult{}, err
	case upTo.ID == 0:
		return PublishResult{}, a.batches.Release(ctx, l, relay.Read{Next: l.LowID})
	}
	return PublishResult{ParkUpTo: upTo.ID, ParkBefore: upTo.At, More: true}, a.batches.Keep(ctx, l, slices.Sorted(maps.Keys(l.LowID)))
}
