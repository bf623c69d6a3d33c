package activities

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// feed loads page after page into events and closes it at the end. When the lanes
// are empty it stays on them for a while, because what comes next is then
// published without another claim. It ends when nothing has come for that long,
// the time is over, or something was refused: then it is the next attempt's turn.
func (t *attempt) feed(ctx context.Context, events chan<- []relay.Event, until time.Time, stay time.Duration) error {
	defer close(events)
	lease := t.lease
	lease.LowID = maps.Clone(lease.LowID)
	var seen mark
	for lastCame := time.Now(); ; {
		before := time.Now()
		page, err := t.store.Load(ctx, lease, t.flight.inHand(t.lease.Topic), loadEvents)
		if err != nil {
			if ctx.Err() != nil {
				return nil // stopped; whoever stopped it knows why
			}
			if errors.Is(err, relay.ErrClaimLost) {
				t.stop(err) // what is in hand is in other hands, too
			}
			return err
		}
		first := firstIDs(page.Events)
		blocked, err := t.blockedKeys(ctx, page.Events)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		t.flight.loaded(t.lease.Topic, page, before)
		if ready := t.opened(page.Events, blocked); len(ready) > 0 {
			select {
			case events <- ready:
			case <-ctx.Done():
				return nil
			}
		}
		if len(page.Events) > 0 {
			lastCame = time.Now()
			if seen, err = t.raise(ctx, lease.LowID, seen, page, first); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
		if !page.More {
			if time.Since(lastCame) >= stay {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(t.cfg.PollEvery):
			}
		}
		// A page is enough for a recovery to tell. Parking goes on while nothing is
		// refused: it has an end, and is not to take an activity for every page.
		if t.mode != relaying && t.ParkUpTo == 0 || time.Now().After(until) || !t.flight.room(ctx, t.lease.Topic) {
			return nil
		}
	}
}

// mark is how far the lanes had been read, and in which round of the store.
type mark struct {
	relay.Read
	round int64
}

// raise advances the low watermark from which pages are read: while a snapshot is held
// open somewhere, everything settled above it is read again each time. It does so when the
// mark's round had ended before a page was read from the old low watermark: then nothing
// comes below the mark any more except what that page begins with. And the database still
// has to have the event that the mark follows: after a failover it gives the ids below the
// mark to other events.
func (t *attempt) raise(ctx context.Context, low map[int16]int64, seen mark, page relay.Page, first map[int16]int64) (mark, error) {
	if seen.Next != nil {
		if page.Ended < seen.round {
			return seen, nil
		}
		exists, err := t.store.Exists(ctx, seen.Last)
		if err != nil {
			return seen, err
		}
		for lane, next := range seen.Next {
			switch id, ok := first[lane]; {
			case !exists:
			case ok:
				low[lane] = min(next, id)
			case !page.More:
				low[lane] = next
			}
		}
	}
	return mark{t.flight.read(t.lease.Topic), page.Round}, nil
}

// firstIDs are the lowest ids in each lane of a page.
func firstIDs(events []relay.Event) map[int16]int64 {
	first := make(map[int16]int64)
	for _, e := range events {
		if id, ok := first[e.Lane]; !ok || e.ID < id {
			first[e.Lane] = e.ID
		}
	}
	return first
}

// blockedKeys is what has a dead letter of the keys among events, with its id, in a topic
// where that blocks a key.
func (t *attempt) blockedKeys(ctx context.Context, events []relay.Event) (map[relay.Chain]int64, error) {
	if t.policy.OnPoison != BlockKey || len(events) == 0 {
		return nil, nil
	}
	keys := make(map[string]bool)
	for _, e := range events {
		if e.Key != "" {
			keys[e.Key] = true
		}
	}
	return t.store.Blocked(ctx, t.lease.Topic, slices.Sorted(maps.Keys(keys)))
}
