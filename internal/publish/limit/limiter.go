package limit

import (
	"slices"
	"sync"
	"time"
)

// Limiter shares the level of one destination among the batches that send to it. Requests wait in
// a queue in which each batch has one place, so a batch with many events keeps no other waiting
// for longer than one request each.
//
// A batch that has no request in flight never waits for the requests of others, only for the rate.
// So each batch soon finds out if the destination hangs: requests that are not answered would
// otherwise keep all batches but one waiting until their time is over.
//
// A Limiter is safe for concurrent use.
type Limiter struct {
	mu       sync.Mutex
	level    *Level
	inFlight int
	queue    []*Turn
	timer    *time.Timer // grants what the rate has kept back
	armed    bool
	armedFor time.Time
}

// New returns the limiter of a destination of which nothing is known.
func New() *Limiter { return &Limiter{level: NewLevel(Ceiling)} }

// Limit is how many requests may be in flight now.
func (l *Limiter) Limit() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level.Limit()
}

// Rate is how many requests may start in a second, 0 if there is no limit.
func (l *Limiter) Rate() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level.Rate()
}

// Join adds a batch. A batch that may have more than Ceiling requests in flight raises the
// ceiling of the destination. The function granted is called when a request may start that Take has
// refused. It must neither block nor call the limiter.
func (l *Limiter) Join(most int, granted func()) *Turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level.Raise(most)
	return &Turn{limiter: l, granted: granted}
}

// Turn is the place of one batch. Only one goroutine uses it.
type Turn struct {
	limiter *Limiter
	granted func()

	// The limiter's mutex guards these.
	waits    bool // in the queue
	has      bool // a request that has not been taken
	inFlight int  // with that
}

// Take reports whether a request may start now. If not, the batch has a place in the queue, and
// granted is called when it may ask again. Each request that may start needs a call of Done or PutBack.
func (t *Turn) Take() bool {
	l := t.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case t.has:
		t.has = false
		return true
	case t.waits:
		return false
	}
	now := time.Now()
	if (len(l.queue) == 0 || t.inFlight == 0) && l.hasPlace(t) && l.level.Wait(now) == 0 {
		l.start(t, now)
		return true
	}
	t.waits = true
	l.queue = append(l.queue, t)
	l.grant(now) // sets the timer
	return false
}

// PutBack gives back a request that was taken and did not start.
func (t *Turn) PutBack() {
	l := t.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putBack(t)
}

// Done ends a request, and returns how many requests the destination may have in flight now.
func (t *Turn) Done(a Answer) (limit int) {
	l := t.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	full := len(l.queue) > 0 && l.inFlight >= l.level.Limit()
	l.inFlight--
	t.inFlight--
	l.level.Answered(now, a, full)
	l.grant(now)
	return l.level.Limit()
}

// Leave gives up the place in the queue, with a request that has been granted and not taken.
func (t *Turn) Leave() {
	l := t.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.waits {
		t.waits = false
		l.queue = slices.DeleteFunc(l.queue, func(other *Turn) bool { return other == t })
	}
	if t.has {
		t.has = false
		l.putBack(t)
	}
}

func (l *Limiter) putBack(t *Turn) {
	l.inFlight--
	t.inFlight--
	l.level.PutBack()
	l.grant(time.Now())
}

// hasPlace reports whether one more request of a batch may be in flight.
func (l *Limiter) hasPlace(t *Turn) bool {
	return l.inFlight < l.level.Limit() || t.inFlight == 0
}

func (l *Limiter) start(t *Turn, now time.Time) {
	l.level.Started(now, l.inFlight == 0)
	l.inFlight++
	t.inFlight++
}

// grant lets those start that have waited the longest. If only the rate keeps the next one back,
// it comes back when the rate allows it.
func (l *Limiter) grant(now time.Time) {
	next := slices.IndexFunc(l.queue, l.hasPlace)
	for ; next >= 0 && l.level.Wait(now) == 0; next = slices.IndexFunc(l.queue, l.hasPlace) {
		t := l.queue[next]
		l.queue = slices.Delete(l.queue, next, next+1)
		l.start(t, now)
		t.waits, t.has = false, true
		t.granted()
	}
	if next < 0 {
		return
	}
	wait := l.level.Wait(now)
	at := now.Add(wait)
	if l.armed && !at.Before(l.armedFor) { // the rate may have been corrected since
		return
	}
	l.armed, l.armedFor = true, at
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.granting)
		return
	}
	l.timer.Reset(wait)
}

func (l *Limiter) granting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	l.grant(time.Now())
}
