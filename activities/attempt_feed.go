package activities

import (
	"context"
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
		page, err := t.cfg.Store.Load(ctx, lease, t.inHand(), loadEvents)
		if err != nil {
			if ctx.Err() != nil {
				return nil // stopped; whoever stopped it knows why
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
		if ready := t.opened(page, before, blocked); len(ready) > 0 {
			select {
			case events <- ready:
			case <-ctx.Done():
				return nil
			}
		}
		if len(page.Events) > 0 {
			lastCame = time.Now()
			seen = t.raise(lease.LowID, seen, page, first)
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
		if t.Recovering && t.ParkUpTo == 0 || time.Now().After(until) || !t.roomForMore(ctx) {
			return nil
		}
	}
}

// mark is how far the lanes had been read, and in which snapshot.
type mark struct {
	next map[int16]int64
	xmax int64
	at   time.Time
}

// raise moves the place from which pages are read behind what is settled, because
// while a snapshot is held open somewhere, what is settled is read again each
// time. It does so once every transaction that was open at the mark has ended, and
// a page has been read since: then nothing comes below the mark any more but what
// that page begins with. (The second that it waits is for a transaction that had
// drawn an id and did not show in the snapshot yet.)
func (t *attempt) raise(low map[int16]int64, seen mark, page relay.Page, first map[int16]int64) mark {
	if seen.next != nil {
		if time.Since(seen.at) < markAge || page.Xmin < seen.xmax {
			return seen
		}
		for lane, next := range seen.next {
			switch id, ok := first[lane]; {
			case ok:
				low[lane] = min(next, id)
			case !page.More:
				low[lane] = next
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return mark{next: maps.Clone(t.next), xmax: page.Xmax, at: time.Now()}
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

// inHand is what is loaded and not settled.
func (t *attempt) inHand() []relay.Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.open))
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
	return t.cfg.Store.Blocked(ctx, t.lease.Topic, slices.Sorted(maps.Keys(keys)))
}

// roomForMore waits until half a page is settled. It reports false if there is
// nothing to load for: something was refused, or ctx ended.
func (t *attempt) roomForMore(ctx context.Context) bool {
	for {
		t.mu.Lock()
		room := len(t.open) <= relay.PageEvents-loadEvents && t.openBytes <= relay.PageBytes/2
		refused := t.refused.any()
		t.mu.Unlock()
		if refused || ctx.Err() != nil {
			return false
		}
		if room {
			return true
		}
		select {
		case <-t.settled:
		case <-ctx.Done():
		}
	}
}
