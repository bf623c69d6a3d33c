package activities

import (
	"context"
	"maps"
	"slices"

	"github.com/temporal-outbox/relay/internal/relay"
)

// bound is the first round of parking. It says how far parking goes, and gives nothing
// up: services may go on writing, and what they write from now on nobody has given up.
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

// parked makes dead letters of everything that was refused. While there was
// something, it keeps its lanes for a next round, so that on an ordered destination
// nothing of theirs gets between.
func (t *attempt) parked(ctx context.Context, dead []relay.Outcome) error {
	if err := t.bury(ctx, dead); err != nil {
		return err
	}
	if len(dead) > 0 || t.mayHoldMore() {
		return t.store.Keep(ctx, t.lease, t.flight.lanes(t.lease.Topic))
	}
	return t.release(ctx, nil)
}

// mayHoldMore reports whether parking that has a bound has to go on. It ends with a
// round that finds nothing at or below its bound: what was held back behind a refusal,
// or committed late, is in the next one.
func (t *attempt) mayHoldMore() bool {
	return t.ParkUpTo > 0 && t.flight.state(t.lease.Topic).loaded > 0
}
