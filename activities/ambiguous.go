package activities

import (
	"maps"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ambiguity is a worker's evidence about ambiguous refusals, by topic: when an event was accepted
// last, and of which events the worker has believed an ambiguous refusal, and when, without an event sent and
// accepted since. AWS answers with the same codes if an event is bad and if the destination is of
// another kind than the configuration says. In the second case each event looks like poison, and all
// events would become dead letters, a few at a time.
type ambiguity struct {
	mu       sync.Mutex
	believed map[string]beliefs
	accepted map[string]time.Time
}

// beliefs are the events whose refusals are believed, the last one at a time. An event counts once: nobody may
// know whether it became a dead letter, because the commit got no answer, and then it is refused again.
type beliefs struct {
	events map[relay.Ref]bool
	last   time.Time
}

// noteAccepted notes that an event of the topic was accepted whose request was started at the given time.
// If that was before a refusal was believed, the destination may have broken since.
func (a *ambiguity) noteAccepted(topic string, sent time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.accepted == nil {
		a.accepted = make(map[string]time.Time)
	}
	a.accepted[topic] = time.Now().Round(0) // the time of day, which counts suspension
	if b, some := a.believed[topic]; some && sent.After(b.last) {
		delete(a.believed, topic)
	}
}

// believe notes that ambiguous refusals are believed, if a batch of the topic may believe so many.
// It is noted before they become dead letters: batches of the topic may be refused at the same time.
func (a *ambiguity) believe(topic string, refused []relay.Outcome) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(refused) == 0 {
		return true
	}
	events := make(map[relay.Ref]bool, ambiguousLimit)
	maps.Copy(events, a.believed[topic].events)
	for _, o := range refused {
		events[o.Ref] = true
	}
	if len(events) > ambiguousLimit {
		return false
	}
	if a.believed == nil {
		a.believed = make(map[string]beliefs)
	}
	a.believed[topic] = beliefs{events: events, last: time.Now()}
	return true
}

// disbelieve takes back refusals that have certainly made no dead letters.
func (a *ambiguity) disbelieve(topic string, refused []relay.Outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range refused {
		delete(a.believed[topic].events, o.Ref)
	}
}

// of returns of how many other events of a topic ambiguous refusals were believed since an event of it was
// accepted, and whether that was lately.
func (a *ambiguity) of(topic string, refused []relay.Outcome, lately time.Duration) (believed int, gotThrough bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	others := maps.Clone(a.believed[topic].events)
	for _, o := range refused {
		delete(others, o.Ref)
	}
	at, ever := a.accepted[topic]
	return len(others), ever && time.Since(at) < lately
}
