package check

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// pageEvents and batches bound what one fault can repeat of a topic: a page for
	// each of its batches in flight.
	pageEvents = 500
	batches    = 4
	// before and after are how far from a fault the first sending of an event lies
	// that was sent again because of it. Before: an acknowledgement waits for its
	// settlement, and a request for its answer. After: what was in trouble recovers
	// step by step.
	before = 5 * time.Second
	after  = 15 * time.Second
)

// Causes of duplicates that are not the kind of a fault.
const (
	// CauseUnanswered: the destination accepted the event and the relay was kept
	// from hearing of it.
	CauseUnanswered  = "answer lost"
	causeUnexplained = "unexplained"
)

// duplicates looks for the cause of every message that its event did not need. On a
// FIFO queue there must be none within the deduplication window. What was discarded
// needs a cause to have come at all: it was refused to the last, unless an attempt
// before was accepted and nobody heard of it.
func (j *judge) duplicates() {
	used := map[int]map[string]int{} // by fault and topic
	excused := map[place]int{}
	var within, unexplained, discarded []string
	for _, x := range j.extra {
		at, gap := x.at, x.message.Sent.Sub(x.before.Sent)
		switch {
		case j.queues[at.queue].Ordered && !x.discarded() && gap < Window:
			within = append(within, at.queue+": "+x.message.Deduplication+" after "+gap.Round(time.Millisecond).String())
		case j.queues[at.queue].Ordered && !x.discarded():
			j.counts.Duplicates["after the deduplication window"]++
		case excused[at] < j.facts.Unanswered[at.event]:
			excused[at]++
			j.counts.Duplicates[CauseUnanswered]++
		default:
			n := j.fault(x.before.Sent)
			if n < 0 && x.discarded() {
				discarded = append(discarded, fmt.Sprintf("%s: %s sent at %.1fs", at.queue, at.event, x.before.Sent.Sub(j.facts.Began).Seconds()))
				continue
			}
			if n < 0 {
				unexplained = append(unexplained, fmt.Sprintf("%s: %s sent at %.1fs and again after %s",
					at.queue, at.event, x.before.Sent.Sub(j.facts.Began).Seconds(), gap.Round(time.Millisecond)))
				j.counts.Duplicates[causeUnexplained]++
				continue
			}
			if used[n] == nil {
				used[n] = map[string]int{}
			}
			used[n][at.queue]++
			j.counts.Duplicates[j.facts.Faults[n].Kind]++
		}
	}
	if len(within) > 0 {
		slices.Sort(within)
		j.violate(Repeated, "%d times came the same event, or the same replay of it, twice from a FIFO queue, sent within %s: %v", len(within), Window, few(within))
	}
	if len(unexplained) > 0 {
		slices.Sort(unexplained)
		j.violate(Repeated, "%d duplicates that no fault explains: %v", len(unexplained), few(unexplained))
	}
	if len(discarded) > 0 {
		slices.Sort(discarded)
		j.violate(Phantom, "%d discarded events came, and no fault explains it: %v", len(discarded), few(discarded))
	}
	for _, n := range slices.Sorted(maps.Keys(used)) {
		for queue, count := range used[n] {
			if count > pageEvents*batches {
				j.violate(Repeated, "%s: %d duplicates after one %s, more than a page for each of %d batches", queue, count, j.facts.Faults[n].Kind, batches)
			}
		}
	}
}

// fault is the repeating fault that is nearest to an instant, or -1. It need not
// concern the event's topic: a worker that is killed for one publishes them all.
func (j *judge) fault(at time.Time) int {
	nearest, distance := -1, time.Duration(0)
	for i, f := range j.facts.Faults {
		if !f.Repeats {
			continue
		}
		var d time.Duration
		switch {
		case at.Before(f.Start):
			if d = f.Start.Sub(at); d > before {
				continue
			}
		case at.After(f.End):
			if d = at.Sub(f.End); d > after {
				continue
			}
		}
		if nearest < 0 || d < distance {
			nearest, distance = i, d
		}
	}
	return nearest
}
