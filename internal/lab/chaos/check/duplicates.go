package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/internal/timing"
)

const (
	// pageEvents and batches bound what one fault can repeat of a topic: a page for
	// each of its batches in flight.
	pageEvents = 500
	batches    = 4
	// carried bounds what one fault can repeat of the shares of a worker, of all topics together:
	// the events that it has in hand.
	carried = 1000
	// heartbeat is how long after its return Temporal still gives batches to other
	// attempts: the heartbeat's timeout, and some time to notice.
	heartbeat = 15 * time.Second
	// lease is the least that an outage of the database lasts before another worker may
	// take over the lanes of one that lives: the lease, less the time between two
	// renewals.
	lease = 45 * time.Second
	// shareLease is the same for the shares of a worker.
	shareLease = timing.ShareLease - timing.ShareEvery
	// still is the least time that a process stands still before Temporal gives its batch to another.
	still = timing.HeartbeatTimeout - timing.HeartbeatThrottle
	// settling is how long after its answer an event may be settled, if nothing is wrong.
	settling = 10 * time.Second
	// untilDiscarded is how long after it was accepted an event may be discarded and have
	// a cause.
	untilDiscarded = 10 * time.Minute
)

// Causes of duplicates that are not the kind of a fault.
const (
	// CauseUnanswered: the destination accepted the event and the relay was kept
	// from hearing of it.
	CauseUnanswered = "answer lost"
	// CauseUndone: the settlement of the event, or the claim of its batch, went with the
	// old primary.
	CauseUndone      = "settlement lost with the old primary"
	causeWindow      = "after the deduplication window"
	causeUnexplained = "unexplained"
)

// duplicates looks for the cause of every message that its event did not need. On a
// FIFO queue there must be none within the deduplication window. The message of a
// discarded delivery needs a cause, too: an attempt before the last was accepted and
// its answer or its settlement was lost.
func (j *judge) duplicates() error {
	evidence, err := j.evidence()
	if err != nil {
		return err
	}
	used := map[place]int{}                    // by queue, and by the fault and process that explain them
	usedShares := map[string]map[string]bool{} // events, by the fault and the process that had their share
	type message struct {
		at place
		n  int
	}
	explained := map[message]bool{} // each is repeated once, so that each repetition has a cause of its own
	brought := map[place]int{}      // messages of redrives that went with an old primary
	var unexplained, discarded []string
	for _, s := range j.suspects {
		var cause, of string
		var sent *Send // that the cause is of
		if s.overtaken() {
			cause = CauseUnanswered
			explained[message{s.at, s.n}] = true // it has made one request more, and not another
		}
		for _, first := range s.earlier {
			m := message{s.at, first.n}
			if explained[m] || cause != "" {
				continue
			}
			if cause, of = j.cause(s, first.by, evidence[s.at.event]); cause != "" {
				explained[m] = !s.discard // it repeats nothing
				sent = first.by
				break
			}
		}
		if cause == "" && s.gone {
			itself := s
			itself.discard = true
			cause, of = j.cause(itself, s.repeated, evidence[s.at.event])
			sent = s.repeated
		}
		if e := evidence[s.at.event]; cause == "" && brought[s.at] < len(e.Unpended) && j.unpended(s, e) {
			brought[s.at]++
			cause = CauseUndone
		}
		switch {
		case cause != "":
			j.counts.Duplicates[cause]++
			switch {
			case of == "":
			case evidence[s.at.event].carries(sent):
				of += " of " + sent.Process
				if usedShares[of] == nil {
					usedShares[of] = map[string]bool{}
				}
				usedShares[of][s.at.event] = true
			default:
				used[place{s.at.queue, of}]++
			}
		case s.discard:
			discarded = append(discarded, fmt.Sprintf("%s: %s sent at %.1fs (%s)", s.at.queue, s.at.event, j.since(s.sent), j.known(s, evidence[s.at.event])))
		default:
			unexplained = append(unexplained, fmt.Sprintf("%s: %s sent at %.1fs and again after %s (%s)",
				s.at.queue, s.at.event, j.since(s.earlier[0].sent), s.sent.Sub(s.earlier[0].sent).Round(time.Millisecond), j.known(s, evidence[s.at.event])))
			j.counts.Duplicates[causeUnexplained]++
		}
	}
	for _, found := range []struct {
		list []string
		rule Rule
		text string
	}{
		{j.within, Repeated, "%d times came the same event, or the same replay of it, twice from a FIFO queue, sent within " + Window.String() + ": %v"},
		{unexplained, Repeated, "%d duplicates that nothing explains: %v"},
		{discarded, Phantom, "%d discarded events came, and nothing explains it: %v"},
	} {
		if len(found.list) > 0 {
			slices.Sort(found.list)
			j.violate(found.rule, found.text, len(found.list), few(found.list))
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(used), byPlace) {
		if n := used[at]; n > pageEvents*batches {
			j.violate(Repeated, "%s: %d duplicates after one %s, more than a page for each of %d batches", at.queue, n, at.event, batches)
		}
	}
	for _, of := range slices.Sorted(maps.Keys(usedShares)) {
		if n := len(usedShares[of]); n > carried {
			j.violate(Repeated, "%d events came again after one %s, more than the %d that a worker may have in hand of its shares", n, of, carried)
		}
	}
	return nil
}

// evidence is that of all suspects that a lost answer does not explain.
func (j *judge) evidence() (map[string]Evidence, error) {
	times := map[string]Lookup{}
	for _, s := range j.suspects {
		for _, first := range s.earlier {
			if first.by == nil || !first.by.Told {
				continue
			}
			l := Lookup{s.at.event, first.by.Began, first.by.Ended.Add(untilDiscarded)}
			if s.repeated != nil && !s.discard {
				l.Before = s.repeated.Ended
			}
			if s.repeated != nil && s.gone {
				l.Before = s.repeated.Ended.Add(untilDiscarded)
			}
			if other, known := times[l.Event]; known {
				if other.After.Before(l.After) {
					l.After = other.After
				}
				if other.Before.After(l.Before) {
					l.Before = other.Before
				}
			}
			times[l.Event] = l
		}
	}
	if len(times) == 0 || j.facts.Evidence == nil {
		return nil, nil
	}
	found, err := j.facts.Evidence(slices.SortedFunc(maps.Values(times), func(a, b Lookup) int { return strings.Compare(a.Event, b.Event) }))
	if err != nil {
		return nil, fmt.Errorf("look up why events came twice: %w", err)
	}
	return found, nil
}

// cause explains a duplicate by the request or the batch of the message that it repeats: the
// answer was lost, or came while its process stood still, the settlement was lost with the old primary,
// another attempt took the batch over while the event was accepted and not settled, or two attempts had the batch,
// because the claim of one of them was lost with the old primary. A takeover, of the lane or of
// its share, needs a reason of its own. The cause is empty if there is none; of names the process or
// the fault.
func (j *judge) cause(s suspect, first *Send, e Evidence) (cause, of string) {
	switch {
	case first == nil:
		return "", ""
	case !first.Told:
		return CauseUnanswered, ""
	case slices.ContainsFunc(e.Undone, func(t time.Time) bool { return !t.Before(first.Began) && !s.after(t) }):
		return CauseUndone, ""
	}
	byShare := e.carries(first)
	for _, f := range j.facts.Faults {
		if f.deafens(first, byShare) && s.repeated != nil && s.repeated.Process == first.Process {
			return f.Kind, fmt.Sprintf("%s (%s, at %.1fs)", f.Kind, f.Process, j.since(f.Start))
		}
	}
	for _, hold := range e.Held {
		taken := hold.At
		switch {
		case taken.Before(first.Began), s.after(taken):
			continue // it has nothing to do with this batch
		case !e.isPending(taken):
			continue // the next holder cannot have found the event
		case hold.Share && hold.Process == first.Process:
			continue // a worker knows which events of its shares were accepted
		}
		for _, f := range j.facts.Faults {
			if f.explains(first, byShare, taken) {
				if f.Role == NewPrimary {
					return CauseUndone, ""
				}
				return f.Kind, fmt.Sprintf("%s (%s, at %.1fs)", f.Kind, f.Process, j.since(f.Start))
			}
		}
	}
	for _, f := range j.facts.Faults {
		if s.repeated != nil && f.splits(first, s.repeated, s.discard, e) {
			return CauseUndone, fmt.Sprintf("%s (two holders, at %.1fs)", f.Kind, j.since(f.Start))
		}
	}
	return "", ""
}

// unpended explains a message that no delivery needs by a redrive or a replay that went with
// the old primary: for the new one the event is a dead letter, or published, as before. Either
// it brought the message, or one before it, and the event was made pending once more on the
// new primary.
func (j *judge) unpended(s suspect, e Evidence) bool {
	return slices.ContainsFunc(j.facts.Faults, func(f Fault) bool {
		again := func(t time.Time) bool { return !t.Before(f.Start) && t.Before(s.sent) }
		return f.unpends(s.repeated, e) || slices.ContainsFunc(e.Pended, again) &&
			slices.ContainsFunc(s.earlier, func(a accepted) bool { return f.unpends(a.by, e) })
	})
}

// unpends reports whether an event was sent because of a redrive or a replay that went with
// the old primary. A transaction that the fault met may have begun before it.
func (f Fault) unpends(sent *Send, e Evidence) bool {
	if sent == nil || f.Role != NewPrimary || !f.met(sent, lease) {
		return false
	}
	return slices.ContainsFunc(e.Unpended, func(t time.Time) bool {
		return !t.Before(f.Start.Add(-settling)) && !t.After(f.End) && t.Before(sent.Ended)
	})
}

// splits reports whether a lane had two holders because a claim went with the old primary:
// the new one gave the lane to another attempt, or to the one before, and both sent what they
// had in hand. The event was pending when the later one took the lane. The other holder of an
// event that was discarded may have made it a dead letter, and sent nothing.
func (f Fault) splits(first, repeated *Send, discard bool, e Evidence) bool {
	if f.Role != NewPrimary || first.Ended.Before(f.Start) || repeated.Began.After(f.End.Add(lease)) {
		return false
	}
	other := func(h Hold) bool { return h.Process == repeated.Process && !h.At.After(repeated.Ended) }
	if discard {
		other = func(h Hold) bool { return !h.At.After(first.Ended.Add(lease)) }
	}
	lost := func(h Hold) bool { return h.Lost && h.At.After(f.Start) && h.At.Before(f.End) }
	for _, a := range e.Held {
		for _, b := range e.Held {
			later := a.At
			if b.At.After(later) {
				later = b.At
			}
			if a.Holder != b.Holder && (lost(a) || lost(b)) && e.isPending(later) &&
				a.Process == first.Process && !a.At.After(first.Ended) && other(b) {
				return true
			}
		}
	}
	return false
}

// explains reports whether a fault is the reason for which a batch, or a share, was taken over from
// the process that had sent it.
func (f Fault) explains(sent *Send, byShare bool, taken time.Time) bool {
	if f.Start.After(taken) {
		return false
	}
	leaseEnds, gone := lease, still
	if byShare {
		leaseEnds, gone = shareLease, shareLease
	}
	switch f.Role {
	case Death:
		return f.Process == sent.Process // which sent before it died, even if its request was read later
	case Standstill:
		return f.End.Sub(f.Start) >= gone && f.Process == sent.Process && !f.End.Before(sent.Began)
	case NoTemporal:
		return !byShare && f.met(sent, heartbeat) // Temporal has no part in who holds a share
	case NoDatabase:
		return f.End.Sub(f.Start) >= leaseEnds && f.met(sent, 0)
	case NewPrimary:
		return f.met(sent, 0)
	default:
		return false
	}
}

// deafens reports whether the answer came while the process stood still, and the time of the request was over
// before the process could read the answer. The lease of a share bounds the request of its events.
func (f Fault) deafens(sent *Send, byShare bool) bool {
	most := timing.RequestTimeout
	if byShare {
		most = timing.ShareLease
	}
	return f.Role == Standstill && f.Process == sent.Process && f.End.Sub(sent.Began) >= most &&
		!sent.Ended.Before(f.Start) && !sent.Ended.After(f.End)
}

// met reports whether an event was accepted during the fault, or so shortly before that it
// may not have been settled, or a while after its end.
func (f Fault) met(sent *Send, after time.Duration) bool {
	return !f.Start.Add(-settling).After(sent.Ended) && !f.End.Add(after).Before(sent.Began)
}

// carries reports whether a worker had an event by the share of its lane when it sent it.
func (e Evidence) carries(sent *Send) bool {
	var last Hold
	for _, h := range e.Held {
		if sent != nil && h.Process == sent.Process && !h.At.After(sent.Ended) && !h.At.Before(last.At) {
			last = h
		}
	}
	return last.Share
}

// isPending reports whether a delivery of the event was pending at a time.
func (e Evidence) isPending(at time.Time) bool {
	before := func(list []time.Time) (n int) {
		for _, t := range list {
			if t.Before(at) {
				n++
			}
		}
		return n
	}
	return 1+before(e.Pended) > before(e.Settled)
}

// known describes a duplicate that nothing explains.
func (j *judge) known(s suspect, e Evidence) string {
	first := s.earlier[0].by
	if first == nil {
		return "no request of the first is on record"
	}
	text := "by " + first.Process
	if s.repeated != nil {
		text += " and " + s.repeated.Process
	}
	seconds := func(what string, list []time.Time) {
		for i, t := range list {
			if i == 0 {
				text += ", " + what + " at"
			}
			text += fmt.Sprintf(" %.2fs", j.since(t))
		}
	}
	var sent []time.Time
	for _, m := range s.earlier {
		sent = append(sent, m.sent)
	}
	slices.Reverse(sent)
	seconds("sent", sent)
	for _, r := range s.sends {
		text += fmt.Sprintf(", request of %s from %.2fs to %.2fs", r.Process, j.since(r.Began), j.since(r.Ended))
		if !r.Told {
			text += " without an answer"
		}
	}
	seconds("settled", e.Settled)
	seconds("pending again", e.Pended)
	seconds("settled on an old primary", e.Undone)
	seconds("pending again on an old primary", e.Unpended)
	for _, h := range e.Held {
		what := "lane"
		if h.Share {
			what = "share"
		}
		text += fmt.Sprintf(", %s taken by %s at %.2fs", what, h.Process, j.since(h.At))
		if h.Lost {
			text += " (lost with an old primary)"
		}
	}
	return text
}
