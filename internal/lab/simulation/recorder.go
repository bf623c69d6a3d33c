package simulation

import (
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/outbox"
)

// The queues that the shop's services read.
const (
	queueInventory = "inventory"
	queueBilling   = "billing"
	queueLedger    = "ledger.fifo"
)

// queuesFor returns the queues in which an event must arrive, and no other. The topology's
// subscriptions and filter policies say the same. It is stated a second time here to
// check them.
func queuesFor(topic, kind string) []string {
	switch {
	case topic == order.TopicLedger:
		return []string{queueLedger}
	case kind == order.Paid || kind == order.Refunded:
		return []string{queueInventory, queueBilling}
	default:
		return []string{queueInventory}
	}
}

// Receipt is a message that a consumer was given.
type Receipt struct {
	Queue  string
	Event  outbox.ID
	Key    string // on ordered queues, else empty
	Number int64  // on ordered queues the position within the key
	At     time.Time
	// Outcome is what the consumer made of it.
	Outcome Outcome
}

// Outcome is what a consumer made of a message.
type Outcome string

// The outcomes.
const (
	Applied    Outcome = "applied"
	Suppressed Outcome = "suppressed" // as a repeat
	Failed     Outcome = "failed"     // it stays in its queue and comes back
)

type delivery struct {
	queue string
	event outbox.ID
}

// recorder writes down what the customers did and what the consumers saw. Both
// are in this process, so their times are of one clock.
type recorder struct {
	mu        sync.Mutex
	orders    int
	rollbacks int
	sent      map[outbox.ID]Sent
	rolled    map[outbox.ID]bool
	expected  map[delivery]bool
	receipts  []Receipt
	first     map[delivery]time.Time
	latencies []time.Duration
	apart     string // topic, whose latencies are left out
}

// Sent is an event whose transaction committed.
type Sent struct {
	Topic, Type string
	At          time.Time // Commit had returned
}

func newRecorder() *recorder {
	return &recorder{
		sent: map[outbox.ID]Sent{}, rolled: map[outbox.ID]bool{},
		expected: map[delivery]bool{}, first: map[delivery]time.Time{},
	}
}

func (r *recorder) ordered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orders++
}

func (r *recorder) rolledBack(events []outbox.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rollbacks++
	for _, e := range events {
		r.rolled[e.ID] = true
	}
}

func (r *recorder) committed(events []outbox.Event, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		r.sent[e.ID] = Sent{Topic: e.Topic, Type: e.Type, At: at}
		for _, queue := range queuesFor(e.Topic, e.Type) {
			d := delivery{queue, e.ID}
			r.expected[d] = true
			// The relay can be quicker than the goroutine that committed.
			if received, early := r.first[d]; early && e.Topic != r.apart {
				r.latencies = append(r.latencies, max(0, received.Sub(at)))
			}
		}
	}
}

// received is called when a consumer begins with a message. Call the returned function
// with the outcome.
func (r *recorder) received(receipt Receipt, at time.Time) (handled func(Outcome)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.receipts)
	receipt.Outcome, receipt.At = Failed, at
	r.receipts = append(r.receipts, receipt)
	d := delivery{receipt.Queue, receipt.Event}
	if _, again := r.first[d]; !again {
		r.first[d] = at
		if sent, known := r.sent[receipt.Event]; known && sent.Topic != r.apart {
			r.latencies = append(r.latencies, at.Sub(sent.At))
		}
	}
	return func(o Outcome) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.receipts[i].Outcome = o
	}
}

// missing is how many deliveries are still to come.
func (r *recorder) missing() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d := range r.expected {
		if _, received := r.first[d]; !received {
			n++
		}
	}
	return n
}

// figures are what the live view shows.
type figures struct {
	orders, rolledBack, events int
	received                   map[string]int // by queue
	p50, p99                   time.Duration
}

func (r *recorder) figures() figures {
	r.mu.Lock()
	f := figures{orders: r.orders, rolledBack: r.rollbacks, events: len(r.sent), received: map[string]int{}}
	for _, receipt := range r.receipts {
		f.received[receipt.Queue]++
	}
	latencies := slices.Clone(r.latencies)
	r.mu.Unlock()
	slices.Sort(latencies)
	f.p50, f.p99 = percentile(latencies, 50), percentile(latencies, 99)
	return f
}

// percentile is the smallest of sorted values that p percent do not exceed, or
// zero if there are none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}
