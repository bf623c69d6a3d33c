package activities

import (
	"sync"
	"time"
)

// ambiguity is a worker's evidence about ambiguous refusals, by topic: when an event was accepted
// last, and how many ambiguous refusals the worker has believed, and when, without an event sent and
// accepted since. AWS answers with the same codes if an event is bad and if the destination is of
// another kind than the configuration says. In the second case each event looks like poison, and all
// events would become dead letters, a few at a time.
type ambiguity struct {
	mu       sync.Mutex
	believed map[string]beliefs
	accepted map[string]time.Time
}

// beliefs are how many refusals are believed, the last one at a time.
type beliefs struct {
	refusals int
	last     time.Time
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

// believe notes that n ambiguous refusals are believed, if a batch of the topic may believe so many.
// It is noted before they become dead letters: batches of the topic may be refused at the same time.
func (a *ambiguity) believe(topic string, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n == 0 {
		return true
	}
	b := a.believed[topic]
	if b.refusals+n > ambiguousLimit {
		return false
	}
	if a.believed == nil {
		a.believed = make(map[string]beliefs)
	}
	a.believed[topic] = beliefs{refusals: b.refusals + n, last: time.Now()}
	return true
}

// disbelieve takes back n refusals that have made no dead letters.
func (a *ambiguity) disbelieve(topic string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b, some := a.believed[topic]; some {
		b.refusals = max(0, b.refusals-n)
		a.believed[topic] = b
	}
}

// of returns how many ambiguous refusals of a topic were believed since an event of it was
// accepted, and whether that was lately.
func (a *ambiguity) of(topic string, lately time.Duration) (believed int, gotThrough bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ever := a.accepted[topic]
	return a.believed[topic].refusals, ever && time.Since(at) < lately
}
