package activities

import (
	"sync"
	"time"
)

// doubtLimit is how many doubtful poison verdicts a worker believes for a topic
// before anything is accepted again.
const doubtLimit = 2

// doubts is what a worker knows of each topic that speaks for or against a verdict
// on a single event: when something was accepted last, and how many doubtful
// verdicts were believed since. The codes that AWS has for a bad event it also has
// for a destination that is not what it is taken for; then every event looks like
// poison, and a trickle of them would go to the dead letters one by one.
type doubts struct {
	mu       sync.Mutex
	believed map[string]int
	accepted map[string]time.Time
}

// believe reports whether n doubtful verdicts are about the events.
func (d *doubts) believe(topic string, n, accepted int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if accepted > 0 {
		if d.accepted == nil {
			d.accepted = make(map[string]time.Time)
		}
		d.accepted[topic] = time.Now().Round(0) // the time of day, which counts suspension
		delete(d.believed, topic)
	}
	return n == 0 || accepted > 0 || d.believed[topic]+n <= doubtLimit
}

// buried notes that n doubtful verdicts were acted upon.
func (d *doubts) buried(topic string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n > 0 {
		if d.believed == nil {
			d.believed = make(map[string]int)
		}
		d.believed[topic] += n
	}
}

// othersGotThrough reports whether something of the topic was accepted lately.
func (d *doubts) othersGotThrough(topic string, lately time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ever := d.accepted[topic]
	return ever && time.Since(at) < lately
}
