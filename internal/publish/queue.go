package publish

import (
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// entry is one event on its way.
type entry struct {
	ev    *relay.Event
	seq   int       // position in the stream
	bytes int       // as the destination counts
	added time.Time // if the outlet fills requests
	// invalid is set where the event need not be sent to know its outcome.
	invalid *relay.PublishError
	key     *keyQueue // the key's, nil where nothing is to be kept in order
	next    *entry    // behind this one in its key's queue
}

// forget gives up the contents of an event that is not sent any more: the other events of its page keep the
// event in memory.
func (e *entry) forget() { e.ev.Payload, e.ev.Attributes = "", nil }

// keyQueue is the events of one key on an ordered destination. As long as it exists
// one of them is ready, or some of one request are out, and the others wait here. Once one
// has failed the queue is blocked for good.
type keyQueue struct {
	first, last *entry
	waiting     int
	out         int
	blocked     bool
	single      bool // a request has one event of the key
}

func (k *keyQueue) push(e *entry) {
	if k.first == nil {
		k.first = e
	} else {
		k.last.next = e
	}
	k.last = e
	k.waiting++
}

func (k *keyQueue) pop() *entry {
	e := k.first
	k.first, e.next = e.next, nil
	k.waiting--
	return e
}

// putBack puts an event before those that wait.
func (k *keyQueue) putBack(e *entry) {
	e.next = k.first
	k.first = e
	if k.last == nil || e.next == nil {
		k.last = e
	}
	k.waiting++
}

// block gives up the events that wait, and returns how many there were.
func (k *keyQueue) block() (waiting int) {
	waiting = k.waiting
	for e := k.first; e != nil; e = e.next {
		e.forget()
	}
	*k = keyQueue{blocked: true, out: k.out}
	return waiting
}

// queue decides which events may be sent next, and together. It is pure: no clock, no
// network, no goroutines, so that it can be tested against a model.
//
// Ready events leave oldest first. On ordered destinations that serves the key
// with the most events best: its next one does not queue behind younger ones of
// others, and the number of its events is what the whole takes at least.
type queue struct {
	maxEvents int                  // of a request
	keyEvents int                  // of one key in a request
	keys      map[string]*keyQueue // nil where nothing is to be kept in order
	ready     readyHeap
	waiting   int // in key queues
	held      int // behind a failed event of their key
	seq       int
	batch     []*entry // of the last call of next
}

func newQueue(ordered bool, maxEvents int) *queue {
	q := &queue{maxEvents: maxEvents, keyEvents: 1}
	if ordered {
		q.keys = make(map[string]*keyQueue)
	}
	return q
}

// add takes the next events of the stream. They must stay untouched until they
// are done.
func (q *queue) add(entries []entry) {
	for i := range entries {
		e := &entries[i]
		e.seq = q.seq
		q.seq++
		if q.keys == nil || e.ev.Key == "" {
			q.ready.push(e)
			continue
		}
		k := q.keys[e.ev.Key]
		switch {
		case k == nil:
			e.key = &keyQueue{}
			q.keys[e.ev.Key] = e.key
			q.ready.push(e)
		case k.blocked:
			q.held++
			e.forget()
		default:
			e.key = k
			k.push(e)
			q.waiting++
		}
	}
}

// forget gives up all events that are neither out nor held.
func (q *queue) forget() {
	for _, k := range q.keys {
		k.first, k.last, k.waiting = nil, nil, 0
	}
	q.ready, q.waiting = nil, 0
}

// unsent is the number of events that were added and neither left nor are held.
func (q *queue) unsent() int { return len(q.ready) + q.waiting }

// next returns the entries of the next request, of maxBytes at most unless it is a single one,
// and the invalid entries that it met, which need no request. Both are out until done is called
// for them. An empty batch means that nothing can be sent now. The batch is valid until the next
// call.
func (q *queue) next(maxBytes int) (batch, invalid []*entry) {
	bytes := 0
	batch = q.batch[:0]
	for len(q.ready) > 0 && len(batch) < q.maxEvents {
		e := q.ready[0]
		if e.invalid == nil {
			if len(batch) > 0 && bytes+e.bytes > maxBytes {
				break
			}
			bytes += e.bytes
			batch = append(batch, e)
		} else {
			invalid = append(invalid, e)
		}
		q.ready.pop()
		if e.key == nil {
			continue
		}
		e.key.out++
		if e.invalid == nil {
			batch, bytes = q.run(e.key, batch, bytes, maxBytes)
		}
	}
	q.batch = batch
	return batch, invalid
}

// run adds to a request the events of a key that follow the one that the request has.
func (q *queue) run(k *keyQueue, batch []*entry, bytes, maxBytes int) ([]*entry, int) {
	for n := 1; n < q.keyEvents && !k.single && k.first != nil && len(batch) < q.maxEvents; n++ {
		e := k.first
		if e.invalid != nil || bytes+e.bytes > maxBytes {
			break
		}
		k.pop()
		q.waiting--
		k.out++
		bytes += e.bytes
		batch = append(batch, e)
	}
	return batch, bytes
}

// single returns the first event of each key in a request that is divided. It puts the others back:
// they have to wait until these are accepted. From then on, a request has one event of each of these keys.
func (q *queue) single(entries []*entry) (firsts []*entry) {
	seen := make(map[*keyQueue]bool)
	var others []*entry
	for _, e := range entries {
		if e.key == nil || !seen[e.key] {
			firsts = append(firsts, e)
			seen[e.key] = true
		} else {
			others = append(others, e)
		}
	}
	for _, e := range slices.Backward(others) {
		e.key.single = true
		e.key.out--
		e.key.putBack(e)
		q.waiting++
	}
	return firsts
}

// done says what became of an entry that next has returned: if it was accepted, and so were those of its
// key in the request, the next of its key becomes ready. If not, all that have not left are held. The contents
// of its event, and of those that are held, are forgotten.
func (q *queue) done(e *entry, accepted bool) {
	e.forget()
	k := e.key
	if k != nil {
		k.out--
	}
	switch {
	case k == nil:
	case !accepted:
		waiting := k.block()
		q.held += waiting
		q.waiting -= waiting
	case k.blocked, k.out > 0:
	case k.first == nil:
		delete(q.keys, e.ev.Key)
	default:
		q.waiting--
		q.ready.push(k.pop())
	}
}

// readyHeap is a binary heap with the oldest entry on top. (container/heap would
// do, but for its detour over any.)
type readyHeap []*entry

func (h *readyHeap) push(e *entry) {
	*h = append(*h, e)
	q := *h
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if q[parent].seq < q[i].seq {
			return
		}
		q[parent], q[i] = q[i], q[parent]
		i = parent
	}
}

func (h *readyHeap) pop() *entry {
	q := *h
	top, last := q[0], len(q)-1
	q[0], q[last] = q[last], nil
	q = q[:last]
	*h = q
	for i := 0; ; {
		child := 2*i + 1
		if child+1 < last && q[child+1].seq < q[child].seq {
			child++
		}
		if child >= last || q[i].seq < q[child].seq {
			return top
		}
		q[i], q[child] = q[child], q[i]
		i = child
	}
}
