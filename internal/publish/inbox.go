package publish

import (
	"sync"
	"sync/atomic"

	"github.com/temporal-outbox/relay/internal/relay"
)

// order is something that a stream is to do: to send events of a topic, or to drop the topic.
type order struct {
	topic  string
	events []relay.Event
	drop   bool
}

// inbox takes orders for a stream from other goroutines. It never blocks them.
type inbox struct {
	mu       sync.Mutex
	orders   []order
	dropping map[string]bool // topics, from Drop until Dropped
	closed   bool
	some     atomic.Bool   // there is something to take
	arrived  chan struct{} // the same, to wait for
}

func newInbox() *inbox {
	return &inbox{dropping: make(map[string]bool), arrived: make(chan struct{}, 1)}
}

// add returns false if the events are ignored: the inbox is closed, or the topic is being dropped.
func (i *inbox) add(topic string, events []relay.Event) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.dropping[topic] {
		return false
	}
	i.put(order{topic: topic, events: events})
	return true
}

func (i *inbox) drop(topic string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.dropping[topic] {
		return
	}
	i.dropping[topic] = true
	i.put(order{topic: topic, drop: true})
}

// dropped ends the dropping of a topic.
func (i *inbox) dropped(topic string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.dropping, topic)
}

func (i *inbox) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.wake()
}

// put needs the lock.
func (i *inbox) put(o order) {
	i.orders = append(i.orders, o)
	i.wake()
}

// wake needs the lock.
func (i *inbox) wake() {
	i.some.Store(true)
	select {
	case i.arrived <- struct{}{}:
	default:
	}
}

// take returns the orders since the last call.
func (i *inbox) take() (orders []order, closed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.some.Store(false)
	orders, i.orders = i.orders, nil
	return orders, i.closed
}
