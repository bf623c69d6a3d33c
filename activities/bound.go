package activities

import (
	"context"
	"maps"
	"slices"

	"github.com/temporal-outbox/relay/internal/relay"
)

// bound is the first round of parking. It says how far parking goes, and gives nothing
// up: services may go on writing, and no operator has given up the events of later.
// It is a round of its own so that the bound is in the workflow's history before
// anything is a dead letter, whatever becomes of a heartbeat: an attempt that dies
// leaves nothing behind, and the next may look again. It heartbeats, because it reads all
// that is pending in the batch's lanes.
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
