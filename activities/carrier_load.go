package activities

import (
	"context"
	"log/slog"
	"sync"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// contentBytes and contentEvents bound how much is loaded at once, unless the budget has let a topic wait
	// for more.
	contentBytes  = 2 << 20
	contentEvents = loadEvents
	// loadsAtOnce is how many statements load contents at the same time. One leaves the processor idle while
	// an answer is on its way.
	loadsAtOnce = 2
)

// carrierLoader loads the contents of events that are in hand, as far as the budget of the process has room for
// them, and hands them to the sender. It does so while the reader reads on.
type carrierLoader struct {
	store ReadStore
	hands *hands
	// send hands events of a topic to the sender, which have an epoch in hands.
	send func(topic string, epoch int, events []relay.Event)
	log  *slog.Logger

	mu      sync.Mutex
	failing bool
}

// run loads until ctx ends. Loads end in the order in which they began, so that events are sent in theirs.
func (l *carrierLoader) run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, loadsAtOnce)
	before := make(chan struct{})
	close(before)
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		next := l.hands.toLoad()
		if len(next.events) == 0 {
			<-slots
			select {
			case <-ctx.Done():
				return
			case <-l.hands.wakeLoader:
			}
			continue
		}
		earlier, over := before, make(chan struct{})
		before = over
		running.Go(func() {
			defer func() { <-slots }()
			defer close(over)
			l.load(ctx, next, earlier)
		})
	}
}

// load loads the contents that did not come along, and hands them over when earlier loads are over. If that
// fails, all events that are to be loaded are read again: the events of these loads may have to be sent after
// others.
func (l *carrierLoader) load(ctx context.Context, events load, earlier <-chan struct{}) {
	var missing []relay.Narrow
	for _, e := range events.events {
		if e.Content == nil {
			missing = append(missing, e)
		}
	}
	var contents []relay.TopicEvent
	var err error
	if len(missing) > 0 {
		contents, err = l.store.Contents(ctx, missing)
	}
	<-earlier
	l.note(ctx, err)
	if err != nil {
		l.hands.unread()
		pauseFor(ctx, timing.DatabaseRetryPauseFirst)
		return
	}
	l.hand(events, contents)
}

func (l *carrierLoader) note(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !l.failing && ctx.Err() == nil {
		l.log.Warn("contents of events could not be read from the database; the worker tries again", "error", err)
	}
	l.failing = err != nil
}

// hand hands events to the sender, topic by topic, in the order in which they were read. contents are of
// those that have no content. A topic with an event that cannot be sent leaves the shares.
func (l *carrierLoader) hand(asked load, contents []relay.TopicEvent) {
	found := make(map[relay.Ref]*relay.Event, len(contents))
	for i := range contents {
		found[contents[i].Ref] = &contents[i].Event
	}
	counts := make(map[string]int)
	for _, e := range asked.events {
		counts[e.Topic]++
	}
	events := make(map[string][]relay.Event, len(counts))
	bad := make(map[string]*relay.PublishError)
	var topics []string
	for _, e := range asked.events {
		if _, known := events[e.Topic]; !known {
			topics = append(topics, e.Topic)
			events[e.Topic] = make([]relay.Event, 0, counts[e.Topic])
		}
		event := e.Content
		if event == nil {
			event = found[e.Ref]
		}
		if event == nil {
			event = &relay.Event{Ref: e.Ref}
		}
		events[e.Topic] = append(events[e.Topic], *event)
		if err := unsendable(*event, nil); err != nil && bad[e.Topic] == nil {
			bad[e.Topic] = err
		}
	}
	for _, topic := range topics {
		if why := bad[topic]; why != nil {
			l.hands.eject(topic, why)
		} else {
			l.send(topic, asked.epochs[topic], events[topic])
		}
	}
}
