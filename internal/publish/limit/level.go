// Package limit finds how many requests a destination should have in flight.
//
// A configured number is rarely the right one. It depends on the distance to the destination, on its
// quota, and on the processors that the worker has left. So each destination has a Limiter, which
// all batches of the worker share. The Limiter watches the answers. It raises the number of
// requests while this brings more events through, and lowers it when the destination asks for less
// or when the last requests only wait.
//
// level.go decides and is pure: no clock, no goroutine. limiter.go shares the decision among the
// batches.
package limit

import (
	"math"
	"time"
)

const (
	// Initial is the limit of a destination of which nothing is known yet.
	Initial = 16
	// Ceiling is the highest limit of a destination, unless a batch may have more. Requests of ten
	// events make this about 1,000 events, which a killed worker repeats.
	Ceiling = 96
	// floor is the lowest limit that slow answers lead to. Throttling leads to less.
	floor = 4
)

// Throughput is compared between spans of time.
const (
	// span is the shortest one. A shorter one sees the garbage collector and the neighbours.
	span = 200 * time.Millisecond
	// spanAnswers is how many answers it has at least, for each request that may be in flight.
	spanAnswers = 3
	// pause is how long nothing may be in flight within a span.
	pause = 20 * time.Millisecond
	// busy is the share of answers of a span at which a request had to wait for its turn. With
	// less, the limit is not the bottleneck, and the span says nothing about it.
	busy = 0.8
)

// A trial changes the limit and keeps it if that was good.
const (
	// gain is how much of the proportional gain a higher limit must bring: twice the requests must
	// bring 1.15 times the events.
	gain = 0.15
	// loss is the share of events that a lower limit may cost.
	loss = 0.05
	// trialSpans is how many spans a trial may take to show its use: one of them for a higher limit,
	// all together for a lower one. On a busy machine, spans differ, and in doubt more is better.
	trialSpans = 2
	// queueing is by how much answers must take longer than the fastest span before a lower limit
	// is tried: requests wait somewhere then, and fewer may do.
	queueing = 1.5
	// collapse is the share of the throughput below which something has changed, and a lower limit
	// is tried at once if the answers are slow.
	collapse = 0.6

	firstStep = 2.0 // up to the first failed trial
	laterStep = 1.5
	firstRest = time.Second // between trials. It doubles with each failed trial.
	mostRest  = time.Minute
)

// A destination that throttles has a rate.
const (
	// rateWindow is the time in which accepted requests are counted.
	rateWindow = time.Second
	// belowQuota is the share of the accepted requests that the rate is set to.
	belowQuota = 0.95
	// again is by how much the rate falls at least if it was throttled in spite of a rate.
	again = 0.95
	// atOnce is the share of its rate that a destination keeps however little it has accepted.
	atOnce = 0.7
	// relief is a pause in which a quota that is used up to the last request gets a few back.
	// Without it, the next request is refused at any rate.
	relief = 100 * time.Millisecond
	// firstCalm is the time without throttling after which the rate rises. It doubles if the
	// destination throttles again within soon after that.
	firstCalm = time.Second
	mostCalm  = 2 * time.Minute
	soon      = time.Minute
	// riseEvery is how often a rate rises that is used up. Until the quota is found, the steps are
	// riseMost: the first rate is that of a few requests. Then the steps begin with riseFirst. They
	// double every riseDoubles, so that a rate that is far too low does not last.
	riseEvery   = time.Second
	riseFirst   = 0.03
	riseMost    = 0.5
	riseDoubles = 10 * time.Second
	// usedUp is the share of a rate that must have been accepted before it rises.
	usedUp    = 0.8
	leastRate = 1.0
	// late is how far the requests may be behind the rate and catch up.
	late = 100 * time.Millisecond
	// headroom is how many times the requests that a rate needs the limit allows.
	headroom = 2
)

// Answer is the answer to one request.
type Answer struct {
	// Latency is the time from the start of the request.
	Latency time.Duration
	// Accepted is how many events the destination accepted.
	Accepted int
	// Throttled is true if the destination asked for less, also if a repetition of the request was
	// accepted.
	Throttled bool
}

// Level is how much may be sent to one destination: the requests in flight, and the requests in a
// second if the destination has throttled. It is not safe for concurrent use, and its methods get
// the time, which must not go backwards.
type Level struct {
	limit, ceiling int

	last    time.Time // of all answers
	began   time.Time // of the span; zero: at the next answer
	deaf    time.Time // answers to requests that began before say nothing
	answers int
	waited  int // answers at which another request waited for this one
	events  int
	latency time.Duration // sum

	// Of the limit, when no trial runs.
	throughput float64 // events in a second, 0: not measured yet
	normal     time.Duration
	fastest    time.Duration // span of all; it rises slowly, because destinations change
	trial      *trial
	step       float64
	down       bool // the next trial is one with fewer requests, if answers are slow
	rest       time.Duration
	nextTrial  time.Time

	rate     float64     // requests in a second, 0: no limit
	accepted rateCounter // requests. One whose events are refused for another reason is accepted, too
	next     time.Time   // when the rate allows the next request
	first    bool        // no other rate came before it
	used     bool        // a request has waited for the rate since it rose
	found    bool        // the rate has risen up to the quota once
	calm     time.Duration
	lowered  time.Time // when the rate was set
	rose     time.Time
}

// trial is a limit that is being tried.
type trial struct {
	from       int     // the limit before
	throughput float64 // with it
	spans      int
	sum        float64 // of their throughput
}

// NewLevel returns the level of a destination of which nothing is known. The limit never exceeds
// the ceiling.
func NewLevel(ceiling int) *Level {
	return &Level{limit: min(Initial, ceiling), ceiling: ceiling, step: firstStep, rest: firstRest, calm: firstCalm}
}

// Limit is how many requests may be in flight.
func (v *Level) Limit() int { return v.limit }

// Rate is how many requests may start in a second, 0 if there is no limit.
func (v *Level) Rate() float64 { return v.rate }

// Raise raises the ceiling.
func (v *Level) Raise(ceiling int) { v.ceiling = max(v.ceiling, ceiling) }

// Wait returns for how long the rate keeps back the next request.
func (v *Level) Wait(now time.Time) time.Duration {
	if v.rate == 0 {
		return 0
	}
	wait := v.next.Sub(now)
	if wait > 0 {
		v.used = true
	}
	return max(0, wait)
}

// Started notes that a request starts. First is true if no other is in flight.
func (v *Level) Started(now time.Time, first bool) {
	if first && now.Sub(v.last) > pause {
		v.restart(v.deaf) // a span with a pause in it says nothing
	}
	if v.rate == 0 {
		return
	}
	// A timer that was late loses nothing, as long as it was not much.
	earliest := now.Add(-max(v.interval(), late))
	if v.next.Before(earliest) {
		v.next = earliest
	}
	v.next = v.next.Add(v.interval())
}

// interval is the time between two requests at the rate.
func (v *Level) interval() time.Duration { return time.Duration(float64(time.Second) / v.rate) }

// PutBack undoes the last Started: no request was sent.
func (v *Level) PutBack() {
	if v.rate > 0 {
		v.next = v.next.Add(-v.interval())
	}
}

// Answered takes an answer. Full is true if as many requests were in flight as may be, and another
// waited for this one.
func (v *Level) Answered(now time.Time, a Answer, full bool) {
	v.last = now
	began := now.Add(-a.Latency)
	if a.Accepted > 0 || !a.Throttled {
		v.accepted.add(now)
	}
	if a.Accepted > 0 {
		v.correctFirstRate(now, began)
	}
	if a.Throttled {
		if began.After(v.lowered) {
			v.throttled(now)
		}
		return
	}
	v.raiseRate(now)
	if began.Before(v.deaf) {
		return
	}
	if v.began.IsZero() {
		v.began = now // the span begins with an answer, which it does not count
		return
	}
	v.answers++
	v.events += a.Accepted
	v.latency += a.Latency
	if full && v.Wait(now) == 0 {
		v.waited++
	}
	if now.Sub(v.began) >= span && v.answers >= spanAnswers*v.limit {
		v.judge(now)
	}
}

// restart begins a new span. Answers to requests that began before deaf do not count.
func (v *Level) restart(deaf time.Time) {
	v.began, v.deaf = time.Time{}, deaf
	v.answers, v.waited, v.events, v.latency = 0, 0, 0, 0
}

// set changes the limit.
func (v *Level) set(now time.Time, limit int) {
	v.limit = limit
	v.restart(now)
}

// judge looks at a span that is over.
func (v *Level) judge(now time.Time) {
	isBusy := float64(v.waited) >= busy*float64(v.answers)
	throughput := float64(v.events) / now.Sub(v.began).Seconds()
	latency := v.latency / time.Duration(v.answers)
	v.restart(v.deaf)
	v.began = now
	if v.fastest == 0 || latency < v.fastest {
		v.fastest = latency
	} else {
		v.fastest += (latency - v.fastest) / 500
	}
	switch {
	case v.trial != nil:
		v.endTrial(now, throughput, latency, isBusy)
	case !isBusy:
	case v.throughput > 0 && throughput < collapse*v.throughput && latency > 2*v.normal:
		// Something has changed in the middle of this span, so the next one is measured.
		v.throughput, v.down = 0, true
		v.rest, v.nextTrial = firstRest, now
	default:
		if v.throughput == 0 {
			v.throughput, v.normal = throughput, latency
		}
		v.throughput += (throughput - v.throughput) / 2
		v.normal += (latency - v.normal) / 2
		if !now.Before(v.nextTrial) {
			v.beginTrial(now)
		}
	}
}

// beginTrial tries more requests or, where they would wait anyway, fewer in turn.
func (v *Level) beginTrial(now time.Time) {
	up := min(v.ceiling, max(v.limit+1, int(float64(v.limit)*v.step)))
	less := min(v.limit, max(floor, int(float64(v.limit)/laterStep)))
	isSlow := float64(v.normal) > queueing*float64(v.fastest)
	switch {
	case isSlow && (v.down || up == v.limit) && less < v.limit:
		v.try(now, less)
	case up > v.limit && v.throughput > 0:
		v.try(now, up)
	}
}

func (v *Level) try(now time.Time, limit int) {
	if limit == v.limit {
		return
	}
	v.trial = &trial{from: v.limit, throughput: v.throughput}
	v.set(now, limit)
}

// endTrial decides about a trial after a span of it.
func (v *Level) endTrial(now time.Time, throughput float64, latency time.Duration, isBusy bool) {
	t := v.trial
	t.spans++
	t.sum += throughput
	ratio := float64(v.limit) / float64(t.from)
	need := t.throughput * (1 + gain*(ratio-1))
	if ratio < 1 || !isBusy {
		need = t.throughput * (1 - loss)
	}
	if ratio < 1 {
		if t.spans < trialSpans {
			return
		}
		throughput = t.sum / trialSpans
	}
	switch {
	case throughput >= need:
		// The limit before was worse. There may be a better one still.
		v.trial, v.throughput, v.normal = nil, throughput, latency
		v.rest, v.nextTrial = firstRest, now
		if ratio < 1 {
			v.throughput = max(throughput, t.throughput) // small losses must not add up
		}
	case t.spans >= trialSpans:
		v.trial = nil
		v.set(now, t.from)
		v.step, v.down = laterStep, ratio > 1
		v.nextTrial, v.rest = now.Add(v.rest), min(mostRest, 2*v.rest)
	}
}

// throttled lowers the rate below the one that the destination has just accepted, and the limit to
// the requests that this rate needs.
func (v *Level) throttled(now time.Time) {
	accepted := v.accepted.perSecond(now)
	rate := belowQuota * accepted
	if accepted == 0 {
		// This is no quota that one could keep below, so the rate rises fast when it is over.
		v.found, v.calm = false, firstCalm
	} else if v.rate > 0 {
		rate = max(min(rate, again*v.rate), atOnce*v.rate)
		switch quiet := now.Sub(v.lowered); {
		case quiet < v.calm: // it is still too high
		case !v.found:
			v.found = true
		case quiet < v.calm+soon:
			v.calm = min(mostCalm, 2*v.calm)
		default:
			v.calm = firstCalm
		}
	}
	v.first = v.rate == 0
	v.rate = max(leastRate, rate)
	v.lowered, v.rose, v.used, v.next = now, now.Add(v.calm), false, now.Add(max(relief, v.interval()))
	if v.fastest > 0 {
		v.limit = min(v.limit, max(1, int(math.Ceil(headroom*v.rate*v.fastest.Seconds()))))
	} else {
		v.limit = max(1, v.limit/2)
	}
	v.trial, v.throughput, v.nextTrial = nil, 0, now
	v.rest, v.step = firstRest, firstStep
	v.restart(now)
}

// correctFirstRate counts an accepted request that was under way when the first rate was set. The answers of
// a burst come in any order. If a refusal comes first, the rate would be that of the few answers before it,
// and would take twice as long to rise up to the quota. The next request starts earlier, too, but only the first
// one: an answer that comes late must not let a request through for which another one has taken its turn.
func (v *Level) correctFirstRate(now, began time.Time) {
	if v.first && !began.After(v.lowered) {
		isUnused := v.next.Equal(v.firstNext())
		v.rate = max(v.rate, belowQuota*v.accepted.perSecond(now))
		if isUnused {
			v.next = v.firstNext()
		}
	}
}

// firstNext is when the first request may start after the rate was set.
func (v *Level) firstNext() time.Time { return v.lowered.Add(max(relief, v.interval())) }

// raiseRate raises a rate that is used up and has not been throttled for a while.
func (v *Level) raiseRate(now time.Time) {
	if v.rate == 0 || !v.used || now.Sub(v.rose) < riseEvery {
		return
	}
	if v.accepted.perSecond(now) < usedUp*v.rate {
		v.used = false // something else is the bottleneck, or the batches come and go
		return
	}
	step := riseMost
	if v.found {
		since := now.Sub(v.lowered) - v.calm
		step = min(riseMost, riseFirst*math.Exp2(float64(since)/float64(riseDoubles)))
	}
	v.rate *= 1 + step
	v.rose, v.used = now, false
}

// rateCounter counts events of the last rateWindow, in ten parts of it.
type rateCounter struct {
	first time.Time
	part  int64
	parts [10]int
}

const ratePart = rateWindow / 10

func (c *rateCounter) move(now time.Time) {
	if c.first.IsZero() {
		c.first = now
	}
	part := int64(now.Sub(c.first) / ratePart)
	for p := c.part + 1; p <= part && p <= c.part+int64(len(c.parts)); p++ {
		c.parts[p%int64(len(c.parts))] = 0
	}
	c.part = part
}

func (c *rateCounter) add(now time.Time) {
	c.move(now)
	c.parts[c.part%int64(len(c.parts))]++
}

// perSecond returns the rate in the last second. The rate of a shorter time is not extrapolated
// beyond a quarter of a second: a quota may let a burst through.
func (c *rateCounter) perSecond(now time.Time) float64 {
	c.move(now)
	sum := 0
	for _, n := range c.parts {
		sum += n
	}
	elapsed := min(rateWindow, max(rateWindow/4, now.Sub(c.first)))
	return float64(sum) / elapsed.Seconds()
}
