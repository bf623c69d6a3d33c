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
	believed map[string]*beliefs
	accepted map[string]time.Time
}

// beliefs are the events whose refusals are believed, the last one at a time. An event counts once: nobody may
// know whether it became a dead letter, because the commit got no answer, and then it is refused again.
type beliefs struct {
	attempts map[relay.Ref]int // that believe each event
	last     time.Time
}

// belief is what one attempt has added to the beliefs of its topic. The zero value is ready.
type belief struct {
	in     *beliefs
	events map[relay.Ref]bool
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

// believe notes that an attempt believes ambiguous refusals, if a batch of the topic may believe so many.
// It is noted before they become dead letters: batches of the topic may be refused at the same time.
func (a *ambiguity) believe(topic string, by *belief, refused []relay.Outcome) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(refused) == 0 {
		return true
	}
	b := a.believed[topic]
	if b == nil {
		b = &beliefs{attempts: make(map[relay.Ref]int, ambiguousLimit)}
	}
	fresh := 0
	for _, o := range refused {
		if b.attempts[o.Ref] == 0 {
			fresh++
		}
	}
	if len(b.attempts)+fresh > ambiguousLimit {
		return false
	}
	if a.believed == nil {
		a.believed = make(map[string]*beliefs)
	}
	a.believed[topic] = b
	b.last = time.Now()
	if by.in != b {
		*by = belief{in: b, events: make(map[relay.Ref]bool, len(refused))}
	}
	for _, o := range refused {
		if !by.events[o.Ref] {
			by.events[o.Ref] = true
			b.attempts[o.Ref]++
		}
	}
	return true
}

// disbelieve takes back what an attempt believes, if it has certainly made no dead letters of it. Another attempt may
// believe the same events: one that lost its claim and the next one of the batch are refused alike.
func (a *ambiguity) disbelieve(by *belief) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ref := range by.events {
		if by.in.attempts[ref]--; by.in.attempts[ref] == 0 {
			delete(by.in.attempts, ref)
		}
	}
	*by = belief{}
}

// of returns of how many other events of a topic ambiguous refusals were believed since an event of it was
// accepted, and whether that was lately.
func (a *ambiguity) of(topic string, refused []relay.Outcome, lately time.Duration) (believed int, gotThrough bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.believed[topic]; b != nil {
		others := maps.Clone(b.attempts)
		for _, o := range refused {
			delete(others, o.Ref)
		}
		believed = len(others)
	}
	at, ever := a.accepted[topic]
	return believed, ever && time.Since(at) < lately
}
