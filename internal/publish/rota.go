package publish

import (
	"slices"

	"github.com/temporal-outbox/relay/internal/publish/limit"
)

const (
	// leastAtOneDestination and mostAtOneDestination bound how many requests a Sender has in flight
	// to one destination, and mostInFlight how many to all of them together.
	leastAtOneDestination = 4
	mostAtOneDestination  = limit.Ceiling
	mostInFlight          = 256
)

// rota decides which outlet may start the next request. It is pure, as queue is.
//
// Outlets take turns: each that is due starts one request and goes to the end of the line. So an
// outlet with many events delays another one by one request, not by all of its events.
type rota struct {
	// most is how many requests may be in flight in total. 0 means that the gates alone decide.
	most     int
	inFlight int
	due      line
	paused   []*outlet
}

// turn is where an outlet stands in the rota.
type turn int

const (
	isResting turn = iota // in no list
	isDue                 // in line
	isWaiting             // at its gate, until a place is free
	isPausing             // until resume
)

// gate bounds the requests in flight to one destination. All topics that go there share it.
//
// The window is small until the destination answers. So destinations that hang do not take all
// places of the rota, even if there are many. Within the window, the destination's limiter decides,
// which all loops share.
type gate struct {
	address     string
	window      int // places
	least, most int // of window
	inFlight    int // places taken
	waiting     line
	outlets     int        // that use it
	ceiling     func() int // of places, as the sender's owner wants it; 0: no ceiling. nil: none
	limiter     limiter
	asked       bool // the limiter has refused a request, and will grant one
	granted     bool // it has, and no request has taken that
	silent      int  // how often a stream has found requests in flight since the last answer
}

// limiter is the place of a loop at a destination's limiter: a *limit.Turn, or a test's.
type limiter interface {
	Take() bool
	PutBack()
	Done(a limit.Answer) int
	Leave()
}

func newGate(l limiter, least, most int) *gate {
	return &gate{limiter: l, window: least, least: least, most: most}
}

// isOpen reports whether a place is free.
func (g *gate) isOpen() bool { return !g.asked && g.inFlight < g.places() }

// places is how many requests may be in flight.
func (g *gate) places() int {
	if g.ceiling != nil {
		if most := g.ceiling(); most > 0 {
			return min(g.window, most)
		}
	}
	return g.window
}

// ask asks the limiter whether a request may start. If not, it calls granted later.
func (g *gate) ask() bool {
	g.asked = !g.limiter.Take()
	if !g.asked {
		g.granted = false
	}
	return !g.asked
}

// leave gives up the gate. Requests in flight are over by then.
func (g *gate) leave() {
	g.limiter.Leave()
	g.asked, g.granted = false, false
}

// giveBack gives back what the limiter has granted if no outlet can use it.
func (g *gate) giveBack() {
	if g.granted && g.limiter.Take() {
		g.limiter.PutBack()
	}
	g.granted = false
}

// answered makes the window larger, and unanswered the smallest. The caller calls done next.
func (g *gate) answered() { g.window = min(g.window+1, g.most) }

func (g *gate) unanswered() { g.window = g.least }

// offer puts an outlet at the end of the line, unless it is in a list already.
func (r *rota) offer(o *outlet) {
	if o.turn == isResting {
		o.turn = isDue
		r.due.push(o)
	}
}

// next returns the outlet whose turn it is and takes it out of the line. Nil means that no outlet
// may start a request now. The caller then calls take, rest, or again for the outlet.
func (r *rota) next() *outlet {
	if r.due.empty() || r.most > 0 && r.inFlight >= r.most {
		return nil
	}
	o := r.due.pop()
	o.turn = isResting
	return o
}

// again undoes next.
func (r *rota) again(o *outlet) {
	o.turn = isDue
	r.due.unpop(o)
}

// rest notes that the outlet that next has returned has nothing to send.
func (r *rota) rest(o *outlet) {
	if !r.call(o.gate) {
		o.gate.giveBack()
	}
}

// granted notes that the limiter of a gate lets a request start that it has refused before.
func (r *rota) granted(g *gate) {
	if !g.asked {
		return
	}
	g.asked, g.granted = false, true
	if !r.call(g) {
		g.giveBack()
	}
}

// take takes a place for a request of the outlet that next has returned. If none is free, the
// outlet waits at its gate, and take returns false.
func (r *rota) take(o *outlet) bool {
	switch {
	case !o.gate.isOpen():
		o.turn = isWaiting
		o.gate.waiting.push(o)
		return false
	case !o.gate.ask():
		o.turn = isWaiting
		o.gate.waiting.unpop(o) // it is its turn as soon as the limiter grants one
		return false
	}
	if o.gate.inFlight == 0 {
		o.gate.silent = 0
	}
	o.gate.inFlight++
	r.inFlight++
	r.call(o.gate)
	return true
}

// putBack gives back a place for a request that was not started.
func (r *rota) putBack(o *outlet) {
	o.gate.limiter.PutBack()
	r.done(o)
}

// done gives back the place of a request that is over. The limiter knows it already.
func (r *rota) done(o *outlet) {
	o.gate.inFlight--
	r.inFlight--
	r.call(o.gate)
}

// pause keeps an outlet that next has returned out of the line until resume.
func (r *rota) pause(o *outlet) {
	o.turn = isPausing
	r.paused = append(r.paused, o)
}

// unpause ends the pause of an outlet, if it has one.
func (r *rota) unpause(o *outlet) {
	if o.turn != isPausing {
		return
	}
	i := slices.Index(r.paused, o)
	r.paused = slices.Delete(r.paused, i, i+1)
	o.turn = isResting
	r.offer(o)
}

// resume ends all pauses.
func (r *rota) resume() {
	for _, o := range r.paused {
		o.turn = isResting
		r.offer(o)
	}
	clear(r.paused)
	r.paused = r.paused[:0]
}

// call puts the first outlet that waits at a gate in line if a place is free. It returns false if
// there is none.
func (r *rota) call(g *gate) bool {
	if g.waiting.empty() || !g.isOpen() {
		return false
	}
	o := g.waiting.pop()
	o.turn = isResting
	r.offer(o)
	return true
}

// line is a queue of outlets, first in, first out.
type line struct {
	outlets []*outlet
	first   int // those before have left
}

func (l *line) empty() bool { return l.first == len(l.outlets) }

func (l *line) push(o *outlet) {
	if l.first > 0 && len(l.outlets) == cap(l.outlets) {
		l.outlets, l.first = slices.Delete(l.outlets, 0, l.first), 0
	}
	l.outlets = append(l.outlets, o)
}

func (l *line) pop() *outlet {
	o := l.outlets[l.first]
	l.outlets[l.first] = nil
	l.first++
	if l.empty() {
		l.outlets, l.first = l.outlets[:0], 0
	}
	return o
}

// unpop puts an outlet first.
func (l *line) unpop(o *outlet) {
	if l.first == 0 {
		l.outlets = slices.Insert(l.outlets, 0, o)
		return
	}
	l.first--
	l.outlets[l.first] = o
}
