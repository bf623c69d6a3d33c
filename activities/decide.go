package activities

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// attemptsWithoutSuccessLimit is after how many attempts in a row without an accepted event a
	// topic is left to its recovery.
	attemptsWithoutSuccessLimit = 3
	// aloneLimit is how many events, each refused by itself and no other accepted, show that the
	// destination is at fault: a request's worth. Fewer are retried alone, and expire in the end.
	aloneLimit = 10
	// ambiguousLimit is how many ambiguous refusals a worker believes for a topic before an event
	// of it is accepted again.
	ambiguousLimit = 2
	// passedMost bounds the part of a heartbeat that says which events are sent once more.
	passedMost = loadEvents
	// Throttling is answered with a pause of between half of it and all of it.
	throttleBackoff    = 2 * time.Second
	throttleBackoffMax = 30 * time.Second
	// provedFor is how long an accepted probe speaks against the events that were
	// refused before it.
	provedFor = 2 * time.Minute
	// provedBackoff is the pause before the attempt that sends these once more, and
	// between two pages of dead letters.
	provedBackoff = 500 * time.Millisecond
)

// mode says for which workflow an attempt publishes.
type mode int

const (
	// relaying is for Relay. A batch that needs a recovery fails for good.
	relaying mode = iota
	// recovering is for a topic's Recovery, which retries without limit.
	recovering
	// parking is for a Recovery that an operator has told to give up: everything that is refused
	// becomes a dead letter.
	parking
)

// ending says how the sending of an attempt ended.
type ending int

const (
	// complete: every event that was loaded was sent, or its key was held back.
	complete ending = iota
	// stopped: some events were not sent. Another attempt or claim sends them.
	stopped
	// cancelled: the activity has no other attempt.
	cancelled
)

// facts are what an attempt knows of one topic. They do not change while decide looks at them.
type facts struct {
	mode   mode
	ending ending
	state         // of the events in flight
	probes probes // of events behind the first page
	number int32  // of the attempt, from 1, as Temporal counts for its backoff
	now    time.Time
	jitter float64 // from 0 to 1

	topic       string
	destination string // for people; "" if it is not known
	ordered     bool   // so is the destination
	expireAfter time.Duration
	// ambiguousTo is the id up to which attempts before this one were refused alike.
	ambiguousTo int64
	parkUpTo    int64
	// Of the worker: of how many other events it has believed ambiguous refusals, and whether it got an event of
	// the topic through within expireAfter.
	believed         int
	othersGotThrough bool
	// refusedFor says how long events have been refused alone, where that is remembered.
	refusedFor map[relay.Ref]time.Duration

	fault fault
}

// fault is an end of an attempt that says nothing of a destination.
type fault struct {
	settling   error // the settler's
	claim      error // the lanes are in other hands
	loading    error // the loader's
	publishing error // the publisher's
	early      bool  // the attempt ended before it could load
}

func (f fault) any() bool {
	return f.settling != nil || f.claim != nil || f.loading != nil || f.publishing != nil || f.early
}

// tally is the part of a checkpoint that a decision changes.
type tally struct {
	attemptsWithoutSuccess, throttled, givenUp int
	provedAt                                   time.Time
}

func (c checkpoint) tally() tally {
	return tally{
		attemptsWithoutSuccess: c.AttemptsWithoutSuccess, throttled: c.Throttled, givenUp: c.GivenUp, provedAt: c.ProvedAt,
	}
}

func (c *checkpoint) set(t tally) {
	c.AttemptsWithoutSuccess, c.Throttled, c.GivenUp, c.ProvedAt = t.attemptsWithoutSuccess, t.throttled, t.givenUp, t.provedAt
}

// decision is what becomes of one topic at the end of an attempt. It is carried out in the order
// of its fields, up to the first error.
type decision struct {
	deadLetters []relay.Outcome
	// giveBack are lanes that were borrowed for probing.
	giveBack []int16
	tally    tally // for the next attempt
	// isHandedOver keeps claims away from the topic in the name of its recovery, until that begins.
	isHandedOver bool
	// release are lanes for the next claim, and keep those for the next attempt. Lanes in neither
	// stay as they are, until their lease ends or the next attempt takes them over.
	release, keep []int16
	releaseClaim  bool // as if no attempt had begun
	// failure is kept with the topic, for people. The next attempt is due after next.
	failure *relay.Failure
	next    time.Duration
	// err is what the attempt ends with.
	err error
}

// attemptError is why an attempt failed.
type attemptError struct {
	*relay.PublishError
	text string
	// final means that Temporal's retry of this activity is over: a person has to
	// act, or it is time for the topic's recovery.
	final bool
	// retryAfter replaces the usual backoff.
	retryAfter time.Duration
}

func (r *attemptError) Error() string { return r.text }
func (r *attemptError) Unwrap() error { return r.PublishError }

// decide decides what becomes of a topic (docs/decisions/008). It is pure: an attempt gathers the
// facts before, and carries the decision out.
func decide(f facts) decision {
	d := decision{tally: f.noted.tally()}
	switch {
	case f.fault.settling != nil:
		// The database is away. The claim is kept for the next attempt, and lanes with
		// acknowledgements that are not settled are never given back.
		d.err = f.fault.settling
	case f.fault.claim != nil:
		// Some lanes may still be ours, and no other attempt would free them.
		d.release, d.err = slices.AppendSeq(slices.Clone(f.lanes), maps.Keys(f.borrowed)), f.fault.claim
	case f.fault.loading != nil:
		d.err = f.fault.loading
	case f.fault.early:
		// The next claim waits anew, because this attempt is not the lanes' last in order.
		d.releaseClaim = true
	case f.fault.publishing != nil:
		d.err = f.fault.publishing
	case f.mode == parking:
		f.park(&d)
	default:
		f.weigh(&d)
	}
	return d
}

// park makes dead letters of everything that was refused. While there was an event to load, it
// keeps the lanes for a next round, so that on an ordered destination no other event of theirs
// comes between.
func (f facts) park(d *decision) {
	switch d.deadLetters = f.refused.all(); {
	case f.ending == stopped && f.accepted == 0 && !f.refused.any():
		d.deadLetters, d.err = nil, f.inconclusive()
	case len(d.deadLetters) > 0 || f.parksOn():
		d.keep = f.lanes
	default:
		d.release = f.lanes
	}
}

// parksOn reports whether parking that has a bound has to go on. It ends with a
// round that finds no event at or below its bound: an event that was held back behind a refusal,
// or committed late, is in the next one.
func (f facts) parksOn() bool { return f.parkUpTo > 0 && f.loaded > 0 }

// weigh decides for Relay and for Recovery. Three questions follow one another: which refusals
// are the events' fault, which events have been refused for too long, and whether the destination
// is at fault for the others.
func (f facts) weigh(d *decision) {
	v := f.judge()
	expired := f.expired(v)
	d.deadLetters = slices.Concat(v.poison, v.ambiguous, expired)
	d.giveBack = slices.Sorted(maps.Keys(f.borrowed))
	d.tally.provedAt, d.tally.givenUp = v.provedAt, v.givenUp

	left := v.whole
	if left == nil && len(v.alone) > len(expired) {
		left = v.alone[0].Err
	}
	if f.ending != cancelled && v.whole == nil && v.soon != nil {
		d.keep = f.lanes
		f.fail(d, &attemptError{PublishError: v.soon, text: f.goesTo() + ": " + v.soon.Error(), retryAfter: provedBackoff})
		return
	}
	switch f.outlook(v, cmp.Or(left, v.soon)) {
	case isOver:
		d.release = f.lanes
	case isForOthers:
		d.keep, d.err = f.lanes, context.Canceled // the recovery that is cancelled decides about its batch
	case isInconclusive:
		d.err = f.inconclusive()
	case isRefused:
		f.endRefused(d, v, cmp.Or(left, v.soon))
	}
}

// outlook is what the events that are left mean for the next attempt.
type outlook int

const (
	isOver         outlook = iota // there is none: the next claim has the rest
	isForOthers                   // the attempt was cancelled: its workflow or an operator decides how the topic goes on
	isInconclusive                // it has to find out
	isRefused                     // it sends what was refused
)

// outlook says what follows from the first refusal that is left, if there is one. The batch of a
// recovery got through if any event did, or if those that are left fail alone, because that is for
// the relay to deal with.
func (f facts) outlook(v verdict, left *relay.PublishError) outlook {
	if f.mode == relaying {
		if left == nil || f.ending == cancelled {
			return isOver
		}
		return isRefused
	}
	gotThrough := f.accepted > 0
	failAlone := v.whole == nil && len(v.alone) < aloneLimit
	// Events behind the page got through lately, and this attempt has tried all others.
	othersDo := v.whole == nil && f.probes.exhausted && proves(v.provedAt, f.now)
	switch {
	case f.ending == cancelled && (!gotThrough || left != nil):
		return isForOthers
	case left == nil && !gotThrough && f.ending == stopped:
		return isInconclusive
	case left == nil, failAlone, othersDo, gotThrough && !needsRepair(left):
		return isOver
	}
	return isRefused
}

// goesTo names the topic and its destination: "orders → SQS queue orders-events".
func (f facts) goesTo() string {
	if f.destination != "" {
		return f.topic + " → " + f.destination
	}
	return f.topic
}

// inconclusive is the end of an attempt of a recovery that was stopped before it could
// tell whether the destination is back.
func (f facts) inconclusive() error {
	return fmt.Errorf("%s: %w before anything was sent", f.goesTo(), relay.ErrStopped)
}

// endRefused ends the attempt with a refusal, and keeps the lanes of the events that are left. If the
// activity has no other attempt, claims are kept away from the topic until its recovery begins.
func (f facts) endRefused(d *decision, v verdict, left *relay.PublishError) {
	hand, loaded := f.left(d)
	r := &attemptError{PublishError: left, text: fmt.Sprintf("%s: %d of %d left: %s", f.goesTo(), len(hand), loaded, left.Error())}
	isSuccess := f.accepted > 0 || f.mode == relaying && len(d.deadLetters) > 0
	// Refusals of single events speak against their destination only if there are
	// many of them and never an accepted one.
	if !isSuccess && (v.whole != nil || len(v.alone) >= aloneLimit && f.published == 0) {
		d.tally.attemptsWithoutSuccess++
	} else {
		d.tally.attemptsWithoutSuccess = 0
	}
	if v.throttle != nil {
		d.tally.throttled++
		delay := min(throttleBackoffMax, throttleBackoff<<min(d.tally.throttled-1, 8))
		r.retryAfter = delay/2 + time.Duration(f.jitter*float64(delay/2))
	}
	if f.mode == recovering && left.Code == relay.CodeNoRoute {
		// Only another worker can have the route, and may have it at any time.
		r.retryAfter = min(timing.RouteRetryPauseMost, timing.RecoveryPauseFirst<<min(max(0, d.tally.attemptsWithoutSuccess-1), 8))
	}
	isBroken := v.whole != nil && needsRepair(v.whole)
	r.final = f.mode == relaying && (isBroken || d.tally.attemptsWithoutSuccess >= attemptsWithoutSuccessLimit)
	d.isHandedOver = r.final
	for _, lane := range f.lanes {
		// The recovery tries all that this attempt had, so that it has more than one
		// event to tell by.
		if r.final || slices.ContainsFunc(hand, func(e relay.Ref) bool { return e.Lane == lane }) {
			d.keep = append(d.keep, lane)
		} else {
			d.release = append(d.release, lane)
		}
	}
	f.fail(d, r)
}

// left are the events that are still in hand when dead letters are made and borrowed lanes are
// given back, and how many were loaded without those of such lanes.
func (f facts) left(d *decision) (hand []relay.Ref, loaded int) {
	dead := make(map[relay.Ref]bool, len(d.deadLetters))
	for _, o := range d.deadLetters {
		dead[o.Ref] = true
	}
	loaded = f.loaded
	for _, e := range f.inHand {
		_, isBorrowed := f.borrowed[e.Lane]
		switch {
		case dead[e]:
		case isBorrowed:
			loaded--
		default:
			hand = append(hand, e)
		}
	}
	return hand, loaded
}

// fail ends the attempt, and says with the topic why it waits for its destination, so that people
// need not look for the recovery.
func (f facts) fail(d *decision, r *attemptError) {
	d.err = r
	switch {
	case f.mode == recovering:
		d.next = cmp.Or(r.retryAfter, backoff(f.number, timing.RecoveryPauseFirst, timing.RecoveryPauseMost))
	case r.final: // the recovery begins now
	default:
		return
	}
	d.failure = &relay.Failure{Code: r.Code, Message: printable.Cut(r.Message, relay.FailureText+len("…")), Destination: f.destination}
}

// verdict is the judgement about the refusals of an attempt: who is at fault for each.
type verdict struct {
	refusals // of these, ambiguous are believed to be about the events
	// believed are those of these that are believed without a proof.
	believed []relay.Outcome
	// passed are ambiguous refusals after which the destination accepted another event. The next attempt
	// sends these events once more, and believes a refusal. open are the others that it sends once more.
	passed, open []relay.Outcome
	// soon is set if another attempt follows at once, and says why.
	soon     *relay.PublishError
	provedAt time.Time
	givenUp  int
}

// judge decides about the ambiguous refusals of an attempt, and about events for which a person
// would have to repair the destination. Without other evidence, the destination is at fault.
func (f facts) judge() verdict {
	v := verdict{refusals: f.refused, provedAt: f.noted.ProvedAt, givenUp: f.noted.GivenUp}
	f.judgeAmbiguous(&v)
	switch {
	case len(v.broken) == 0:
	case f.accepted > 0: // then the event needs a repair, and not the destination
		v.alone = slices.Concat(v.alone, v.broken)
	default:
		v.stop(v.broken[0].Err)
	}
	return v
}

func (f facts) judgeAmbiguous(v *verdict) {
	ambiguous := f.refused.ambiguous
	proved, open := f.proved()
	switch {
	case len(ambiguous) == 0 && f.probes.accepted > 0 && !f.probes.exhausted && len(v.alone) > 0:
		v.provedAt = f.now
		v.soon = because(v.alone[0].Err, "the destination refused %d events and accepted %d later events; the next attempt continues after these later events",
			len(v.alone), f.probes.accepted)
		return
	case len(ambiguous) == 0 && len(v.alone) > 0: // provedAt stays
		return
	case f.probes.accepted > 0:
		v.ambiguous, v.provedAt = nil, f.now
		v.soon = because(ambiguous[0].Err, "the destination refused %d events and accepted %d later events; the relay sends the refused events once more, and makes dead letters of those that are refused again",
			len(ambiguous), f.probes.accepted)
		return
	case f.accepted == 0 && len(proved) > 0:
		v.ambiguous = proved
		v.soon = because(proved[0].Err, "the destination refused %d events again and accepted other events; the refused events become dead letters, and the next attempt continues with the other pending events", len(proved))
		return
	case f.accepted > 0 && !f.believes(open):
		// The destination may have been repaired during the attempt, or have broken.
		v.ambiguous = proved
		if v.passed, v.open = f.passed(open); len(v.passed) > 0 {
			v.provedAt = f.now
		}
		v.soon = because(open[0].Err, "the destination refused %d events and accepted other events; the relay sends the refused events once more", len(open))
		return
	case !f.believes(open) && f.mayGiveUpOne():
		last := slices.MaxFunc(ambiguous, func(a, b relay.Outcome) int { return cmp.Compare(a.ID, b.ID) })
		v.ambiguous = []relay.Outcome{last}
		v.givenUp++
		v.soon = because(last.Err, "every event that may be sent is refused alike, and all other events wait for an earlier event of their key; "+
			"the relay makes a dead letter of one event, so that it can send the next event of that key")
		return
	case !f.believes(open):
		v.stop(f.allAlike(*ambiguous[0].Err))
		v.ambiguous = nil
	default:
		v.believed = open
	}
	v.provedAt = time.Time{}
}

// proves reports whether the proof of a time still holds. The clock of the worker that had it may have been ahead of
// this one's by any time.
func proves(at, now time.Time) bool { return now.Sub(at).Abs() < provedFor }

// proved are the ambiguous refusals that are believed because an attempt before was refused
// the same, and then got another event through. The others are open.
func (f facts) proved() (proved, open []relay.Outcome) {
	if !proves(f.noted.ProvedAt, f.now) {
		return nil, f.refused.ambiguous
	}
	passed := setOf(f.noted.Passed)
	for _, o := range f.refused.ambiguous {
		if o.ID <= f.ambiguousTo || passed[o.ID] {
			proved = append(proved, o)
		} else {
			open = append(open, o)
		}
	}
	return proved, open
}

// believes reports whether ambiguous refusals are believed without a proof: few of them, by a worker
// that has not believed others. In a recovery that gets events through, the destination was probably
// repaired.
func (f facts) believes(open []relay.Outcome) bool {
	isRepaired := f.mode == recovering && f.accepted > 0
	return len(open) == 0 || !isRepaired && f.believed+len(open) <= ambiguousLimit
}

// passed divides open refusals into those after which the destination accepted another event, and others. It
// did so if the refusal was answered before the request of that event was started, or in an attempt before.
func (f facts) passed(open []relay.Outcome) (passed, others []relay.Outcome) {
	before := setOf(f.noted.Open)
	for i, o := range f.refused.ambiguous {
		if f.refused.answers[i].Before(f.sent) {
			before[o.ID] = true
		}
	}
	for _, o := range open {
		if before[o.ID] {
			passed = append(passed, o)
		} else {
			others = append(others, o)
		}
	}
	return passed, others
}

func setOf(ids []int64) map[int64]bool {
	set := make(map[int64]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// mayGiveUpOne reports whether an event may become a dead letter though it is not
// known to be poison: on an ordered destination, where all that may be sent was
// refused, and only for as many as are believed without proof anyway.
func (f facts) mayGiveUpOne() bool {
	return f.probes.exhausted && f.ordered && f.noted.GivenUp < ambiguousLimit
}

// because is an error that says what follows from it.
func because(first *relay.PublishError, format string, args ...any) *relay.PublishError {
	err := *first
	err.Message = fmt.Sprintf(format, args...) + ": " + err.Message
	return &err
}

// allAlike turns ambiguous refusals of every event into a verdict on the destination.
func (f facts) allAlike(first relay.PublishError) *relay.PublishError {
	probed := ""
	switch {
	case f.probes.failed != nil:
		probed = fmt.Sprintf(" (the relay could not probe later events: %v)", f.probes.failed)
	case f.probes.asked > 0:
		probed = fmt.Sprintf(", also %d probes behind the first page", f.probes.asked)
	}
	first.Class = relay.ClassDestination
	first.Message = "every event is refused alike" + probed + ", so the relay treats the destination as broken: " + first.Message
	return &first
}

// toRecord are the events that were refused alone, so that they expire one day. If many are,
// and no other is accepted, the destination is at fault and not the events. In a recovery, only an
// accepted probe shows that the events are.
func (f facts) toRecord(v verdict) []relay.Outcome {
	together := v.whole != nil || f.published == 0 && len(v.alone) >= aloneLimit
	if f.mode == recovering && f.probes.accepted == 0 || together {
		return nil
	}
	return v.alone
}

// expired are the events that have been refused alone for too long while others of their topic got
// through. An event that needs a new version of this program, or a repair, does not expire.
func (f facts) expired(v verdict) (expired []relay.Outcome) {
	if f.published == 0 && !f.othersGotThrough {
		return nil
	}
	for _, o := range f.toRecord(v) {
		if f.refusedFor[o.Ref] > f.expireAfter && !needsRepair(o.Err) {
			expired = append(expired, o)
		}
	}
	return expired
}

// isUndecided reports whether a recovery has to probe: everything that was sent was refused one by
// one, with codes that may be the events' fault or the destination's, or that ask for a retry. A
// page of such events cannot tell, and neither can any number of attempts with the same page.
func (f facts) isUndecided() bool {
	proved, _ := f.proved()
	return f.mode == recovering && f.accepted == 0 && f.refused.whole == nil && len(f.refused.broken) == 0 &&
		(len(f.refused.ambiguous) > 0 || len(f.refused.alone) >= aloneLimit) && len(proved) == 0
}

// probesOn reports whether the next portion is probed. An accepted event decides about ambiguous
// refusals. It does not about events that fail alone: the probes go on for the good ones among them.
func (f facts) probesOn() bool {
	onlyAlone := len(f.refused.ambiguous) == 0 && len(f.refused.alone) > 0 && f.refused.whole == nil && len(f.refused.broken) == 0
	return f.isUndecided() || onlyAlone
}
