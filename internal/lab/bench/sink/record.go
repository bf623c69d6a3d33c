package sink

import (
	"sync"
	"sync/atomic"
	"time"
)

// Ack is the first acknowledgement of an event.
type Ack struct {
	// At is when its answer was on its way; zero if it was not acknowledged.
	At time.Time
	// By is the number N of a client whose User-Agent has app/wN, or NoClient.
	By int
}

// NoClient is for clients whose User-Agent has no number.
const NoClient = 255

// record has the arrivals since a reset. Events are noted in place, without a lock.
type record struct {
	began time.Time
	// acks has nanoseconds since began, plus one, and the client in the lowest eight bits.
	acks []atomic.Int64

	accepted, again, disorder atomic.Int64
	requests, refused         atomic.Int64
	inFlight, mostInFlight    atomic.Int64
	first, last               atomic.Int64 // as in acks

	mu     sync.Mutex
	newest map[string]int // by queue and group, the highest number acknowledged
}

func newRecord(events int) *record {
	return &record{began: time.Now(), acks: make([]atomic.Int64, events), newest: map[string]int{}}
}

// begin counts a request under way.
func (r *record) begin() {
	r.requests.Add(1)
	n := r.inFlight.Add(1)
	for {
		most := r.mostInFlight.Load()
		if n <= most || r.mostInFlight.CompareAndSwap(most, n) {
			return
		}
	}
}

func (r *record) end() { r.inFlight.Add(-1) }

// stamp is the moment, as acks has it.
func (r *record) stamp(client int) int64 {
	return (time.Since(r.began).Nanoseconds()+1)<<8 | int64(client&0xff)
}

func (r *record) time(stamp int64) time.Time {
	if stamp == 0 {
		return time.Time{}
	}
	return r.began.Add(time.Duration(stamp>>8 - 1))
}

// accept notes acknowledged messages. ordered checks the order within each group.
func (r *record) accept(queue string, entries []entry, stamp int64, ordered bool) {
	r.first.CompareAndSwap(0, stamp)
	r.last.Store(stamp)
	for i := range entries {
		n := number(entries[i].body)
		if n < 0 || n >= len(r.acks) {
			r.accepted.Add(1)
			continue
		}
		if !r.acks[n].CompareAndSwap(0, stamp) {
			r.again.Add(1)
			continue
		}
		r.accepted.Add(1)
		if ordered {
			r.order(queue, entries[i].group, n)
		}
	}
}

// order counts an event that was acknowledged for the first time after a later one of its
// group.
func (r *record) order(queue string, group []byte, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := queue + "\x00" + string(group)
	if newest, ok := r.newest[key]; ok && n < newest {
		r.disorder.Add(1)
		return
	}
	r.newest[key] = n
}

// State counts the arrivals since the last Reset.
type State struct {
	// Accepted messages, each marked event once; Again counts repetitions.
	Accepted int `json:"accepted"`
	Again    int `json:"again"`
	// Disorder counts events of FIFO queues that came after a later one of their group.
	Disorder int `json:"disorder"`
	Requests int `json:"requests"`
	Refused  int `json:"refused"` // among them
	// InFlight is the highest number of requests at once.
	InFlight int `json:"in_flight"`
	// First and Last are the first and the last acknowledgement.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

func (r *record) state() State {
	return State{
		Accepted: int(r.accepted.Load()), Again: int(r.again.Load()), Disorder: int(r.disorder.Load()),
		Requests: int(r.requests.Load()), Refused: int(r.refused.Load()), InFlight: int(r.mostInFlight.Load()),
		First: r.time(r.first.Load()), Last: r.time(r.last.Load()),
	}
}
