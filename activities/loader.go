package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// loadEvents is how much is loaded at once: half a page, so that one half is
// sent while the other is loaded and both together stay a page.
const loadEvents = relay.PageEvents / 2

// loader loads the pending events in the lanes of a lease, page after page, and the contents of a page
// in portions for which the budget has room. When the lanes are empty it stays on them for a while, so
// that events that come next are published without another claim.
type loader struct {
	store  LoadStore
	screen screen
	flight *inFlight
	stop   context.CancelCauseFunc
	poll   time.Duration

	lease  relay.Lease // with the low watermark of each lane, from which it is read
	before extent

	until   time.Time     // when no further page is loaded
	stay    time.Duration // how long empty lanes are looked at
	onePage bool
	ofRelay bool // not of a recovery, which must know why it has loaded nothing
}

// extent is how far the lanes had been read, and in which round of the store. Low watermarks follow.
type extent struct {
	relay.Read
	round int64
}

func (t *attempt) newLoader(stop context.CancelCauseFunc, until time.Time) *loader {
	l := &loader{
		store: t.store, screen: t.screen(), flight: t.flight, stop: stop, poll: t.cfg.PollEvery,
		lease: t.lease, until: until, stay: t.request.Stay, ofRelay: t.mode == relaying,
		// A page is enough for a recovery to tell. Parking goes on while no event is
		// refused: it has an end, and is not to take an activity for every page.
		onePage: t.mode != relaying && t.request.ParkUpTo == 0,
	}
	l.lease.LowID = maps.Clone(t.lease.LowID)
	return l
}

// run loads into events until no event has come for as long as it stays, the time is over, or an
// event was refused: then it is the next attempt's turn. It returns no error if it was stopped.
func (l *loader) run(ctx context.Context, events chan<- []relay.Event) error {
	err := l.load(ctx, events)
	switch {
	case ctx.Err() != nil:
		err = nil // the cause is known to the part that stopped it
	case errors.Is(err, relay.ErrClaimLost):
		l.stop(err) // the events in hand are in other hands, too
	}
	return err
}

func (l *loader) load(ctx context.Context, events chan<- []relay.Event) error {
	for lastCame := time.Now(); ; {
		page, err := l.next(ctx, events)
		if err != nil || page == nil {
			return err
		}
		if len(page.Events) > 0 {
			lastCame = time.Now()
		}
		if l.ofRelay && page.Reserved {
			return nil // the operation goes on when the batch has given the lanes back
		}
		if !page.More {
			if time.Since(lastCame) >= l.stay {
				return nil
			}
			l.wait(ctx)
		}
		if l.onePage || time.Now().After(l.until) || !l.flight.room(ctx, l.lease.Topic) {
			return nil
		}
	}
}

// wait waits until it is time to look at empty lanes again.
func (l *loader) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(l.poll):
	}
}

// next reads a page, loads its contents, screens it, and hands the events that can be sent to the
// publisher. It returns nil if the time is over before all contents could be loaded.
func (l *loader) next(ctx context.Context, events chan<- []relay.Event) (*relay.Page, error) {
	asked := time.Now()
	page, err := l.store.Page(ctx, l.lease, l.flight.inHand(l.lease.Topic), loadEvents)
	if err != nil || len(page.Events) == 0 {
		return &page, err
	}
	first := firstIDs(page.Events)
	for left := page.Events; len(left) > 0; {
		n, err := l.take(ctx, left)
		if err != nil || n == 0 {
			return nil, err
		}
		// The page has no contents, because it would keep them in memory until its last portion is sent.
		portion := page
		portion.Events, left = slices.Clone(left[:n]), left[n:]
		if err := l.hand(ctx, portion, asked, events); err != nil {
			return nil, err
		}
	}
	return &page, l.raise(ctx, page, first)
}

// take waits until the budget has room for contents of the first events, and returns of how many: 0 if
// the time is over before.
func (l *loader) take(ctx context.Context, events []relay.Event) (n int, err error) {
	waiting, cancel := context.WithDeadline(ctx, l.until)
	defer cancel()
	n, err = l.flight.take(waiting, l.lease.Topic, events)
	if err == nil || ctx.Err() != nil {
		return n, err
	}
	if !l.ofRelay {
		l.stop(relay.ErrStopped)
	}
	return 0, nil
}

// hand loads the contents of a portion, whose cost has been taken, and hands it to the publisher.
func (l *loader) hand(ctx context.Context, portion relay.Page, asked time.Time, events chan<- []relay.Event) error {
	if err := l.store.Fill(ctx, portion.Events); err != nil {
		return err
	}
	ready, err := l.screen.admit(ctx, portion, asked)
	if err != nil {
		return err
	}
	l.flight.readOn(l.lease.Topic, portion)
	if len(ready) == 0 {
		return nil
	}
	select {
	case events <- ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// raise advances the low watermarks from which pages are read: while a snapshot is held
// open somewhere, everything settled above them is read again each time. It does so when the
// round in which the lanes had been read so far had ended before a page was read from the old low
// watermarks: then no event comes below any more but those that the page begins with. And the
// database still has to have the last event that had been read: after a failover it gives the ids
// below to other events.
func (l *loader) raise(ctx context.Context, page relay.Page, first map[int16]int64) error {
	if l.before.Next != nil {
		if page.Ended < l.before.round {
			return nil
		}
		exists, err := l.store.Exists(ctx, l.before.Last)
		if err != nil {
			return err
		}
		for lane, next := range l.before.Next {
			switch id, ok := first[lane]; {
			case !exists:
			case ok:
				l.lease.LowID[lane] = min(next, id)
			case !page.More:
				l.lease.LowID[lane] = next
			}
		}
	}
	l.before = extent{l.flight.read(l.lease.Topic), page.Round}
	return nil
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

// screen admits the events of pages to the flight, and refuses those that cannot or must not be sent.
type screen struct {
	topic   string
	policy  TopicPolicy
	store   LoadStore
	flight  *inFlight
	metrics Metrics
	// blocks has the first refused event of each key that this blocks. Its dead letter is not in the store
	// before the attempt ends, and the next portion of its page comes before that.
	blocks map[relay.Chain]int64
}

func (t *attempt) screen() screen {
	return screen{
		topic: t.topic, policy: t.policy, store: t.store, flight: t.flight, metrics: t.cfg.Metrics, blocks: make(map[relay.Chain]int64),
	}
}

// admit notes the events of a page as in flight, and returns those that can be sent. It notes them
// before the publisher has them, because an answer may come at once.
func (s screen) admit(ctx context.Context, page relay.Page, asked time.Time) (ready []relay.Event, err error) {
	ready, refused, err := s.sendable(ctx, page.Events)
	if err != nil {
		return nil, err
	}
	s.flight.loaded(s.topic, page, asked)
	if len(refused) > 0 {
		s.flight.screenedOut(s.topic, refused)
		s.metrics.Reported(s.topic, refused, nil)
	}
	return ready, nil
}

// sendable divides events into those that can be sent and those that are refused here.
func (s screen) sendable(ctx context.Context, events []relay.Event) (ready []relay.Event, refused []relay.Outcome, err error) {
	blocked, err := s.blocked(ctx, events)
	if err != nil {
		return nil, nil, err
	}
	ready = events
	for i, e := range events {
		err := cmp.Or(unsendable(e, blocked), unsendable(e, s.blocks))
		switch {
		case err == nil && len(refused) > 0:
			ready = append(ready, e)
			continue
		case err == nil:
			continue
		case len(refused) == 0:
			ready = slices.Clone(events[:i])
		}
		refused = append(refused, relay.Outcome{Ref: e.Ref, Err: err})
		if s.policy.OnPoison == BlockKey && e.Key != "" {
			chain := relay.Chain{Key: e.Key, Replay: e.Replay}
			if _, known := s.blocks[chain]; !known {
				s.blocks[chain] = e.ID
			}
		}
	}
	return ready, refused, nil
}

// blocked has the first dead letter of each key among events, in a topic where that blocks a key.
func (s screen) blocked(ctx context.Context, events []relay.Event) (map[relay.Chain]int64, error) {
	if s.policy.OnPoison != BlockKey {
		return nil, nil
	}
	keys := make(map[string]bool)
	for _, e := range events {
		if e.Key != "" {
			keys[e.Key] = true
		}
	}
	return s.store.Blocked(ctx, s.topic, slices.Sorted(maps.Keys(keys)))
}

// unsendable says why an event is a dead letter without being sent, or returns
// nil.
func unsendable(e relay.Event, blocked map[relay.Chain]int64) *relay.PublishError {
	first, isBlocked := blocked[relay.Chain{Key: e.Key, Replay: e.Replay}]
	switch {
	case e.Bytes > relay.PageBytes:
		return &relay.PublishError{
			Code: relay.CodeTooLarge, Class: relay.ClassPoison,
			Message: fmt.Sprintf("the event has %d bytes, no destination accepts more than %d", e.Bytes, maxMessage),
		}
	case e.Unreadable != "":
		return &relay.PublishError{Code: relay.CodeInvalidCharacter, Class: relay.ClassPoison, Message: e.Unreadable}
	case e.EventID == "":
		return &relay.PublishError{
			Code: relay.CodeEventMissing, Class: relay.ClassPoison,
			Message: fmt.Sprintf("event %d is pending, and two looks did not find it in outbox.event", e.ID),
		}
	case isBlocked && e.ID > first:
		return &relay.PublishError{
			Code: relay.CodeBlocked, Class: relay.ClassPoison,
			Message: "blocked behind an earlier event of its key that is a dead letter",
		}
	}
	return nil
}
