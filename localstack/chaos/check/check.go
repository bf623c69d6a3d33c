package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Window is how long a FIFO queue recognises a message that is sent again.
const Window = 5 * time.Minute

// Verdict is what Check found.
type Verdict struct {
	Violations []Violation
	Counts     Counts
}

// Counts are the parts of the ledger that follow from the facts.
type Counts struct {
	Committed  int `json:"committed"`
	RolledBack int `json:"rolledBack"`
	Replayed   int `json:"replayed"` // replays, one for each event and number
	Received   int `json:"received"` // messages, all queues together
	// Redelivered counts messages that a queue delivered more than once: the
	// consumer's receipt was lost, the relay has no part in it.
	Redelivered int `json:"redelivered"`
	// Duplicates counts messages of an event in a standard queue beyond the first and
	// one for each replay, by cause.
	Duplicates map[string]int `json:"duplicates"`
	// SlowestEvent is the longest time from a commit to the first reception.
	SlowestEvent time.Duration `json:"slowestEvent"`
}

// Check judges the facts.
func Check(f Facts) Verdict {
	j := &judge{
		facts: f, written: make(map[string]*Written, len(f.Written)),
		first: make(map[place]*Received), delivery: make(map[*Received]int64), counts: Counts{Duplicates: map[string]int{}},
	}
	j.index()
	j.receptions()
	j.deliveries()
	j.order()
	j.duplicates()
	j.retention()
	j.leftovers()
	return Verdict{Violations: j.violations, Counts: j.counts}
}

// place is an event in a queue.
type place struct{ queue, event string }

type judge struct {
	facts      Facts
	written    map[string]*Written
	queues     map[string]Queue
	received   []*Received         // without redeliveries
	delivery   map[*Received]int64 // on ordered queues: 0, or the replay that it belongs to
	extra      []extra             // messages that were not needed
	first      map[place]*Received // first reception
	groups     map[place]string    // by queue and key
	keys       map[place]string    // by queue and group
	violations []Violation
	counts     Counts
}

// most is how many violations of a rule are spelled out.
const most = 5

func (j *judge) violate(rule Rule, format string, args ...any) {
	j.violations = append(j.violations, Violation{Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// index looks facts up, and complains about such as cannot be judged.
func (j *judge) index() {
	j.queues = make(map[string]Queue, len(j.facts.Queues))
	for _, q := range j.facts.Queues {
		j.queues[q.Name] = q
	}
	for i := range j.facts.Written {
		w := &j.facts.Written[i]
		if j.written[w.ID] != nil {
			j.violate(Harness, "event %s was written twice", w.ID)
		}
		j.written[w.ID] = w
		switch w.Fate {
		case Committed:
			j.counts.Committed++
		case RolledBack:
			j.counts.RolledBack++
		default:
			j.violate(Harness, "nobody knows whether event %s was committed", w.ID)
		}
	}
	if j.counts.Committed == 0 {
		j.violate(Harness, "nothing was committed, so nothing is shown")
	}
	for _, id := range slices.Sorted(maps.Keys(j.facts.Replays)) {
		if w := j.written[id]; w == nil || w.Fate != Committed {
			j.violate(Harness, "event %q was replayed, and nobody committed it", id)
		}
		j.counts.Replayed += len(j.facts.Replays[id])
	}
	for _, id := range slices.Sorted(maps.Keys(j.facts.Discards)) {
		if w := j.written[id]; w == nil || w.Fate != Committed {
			j.violate(Harness, "event %q was discarded, and nobody committed it", id)
		}
	}
	for _, p := range j.facts.Problems {
		j.violate(Harness, "%s", p)
	}
}

// receptions goes through what was received: known, committed, and as written.
func (j *judge) receptions() {
	j.groups, j.keys = map[place]string{}, map[place]string{}
	messages := map[place]bool{}
	for i := range j.facts.Received {
		r := &j.facts.Received[i]
		id := place{r.Queue, r.MessageID}
		if messages[id] {
			j.counts.Redelivered++
			continue
		}
		messages[id] = true
		j.counts.Received++
		w := j.written[r.EventID]
		switch q, known := j.queues[r.Queue]; {
		case !known:
			j.violate(Harness, "a message came from queue %s, which nobody described", r.Queue)
			continue
		case w == nil:
			j.violate(Altered, "%s: a message with event id %q, which nobody has written", r.Queue, r.EventID)
			continue
		case w.Topic != q.Topic:
			j.violate(Altered, "%s: event %s was written to topic %s", r.Queue, w.ID, w.Topic)
		case w.Fate == RolledBack:
			j.violate(Phantom, "%s: event %s was rolled back", r.Queue, w.ID)
		default:
			j.compare(q, w, r)
		}
		j.received = append(j.received, r)
		at := place{r.Queue, r.EventID}
		if j.first[at] == nil {
			j.first[at] = r
			j.counts.SlowestEvent = max(j.counts.SlowestEvent, r.Arrived.Sub(w.At))
		}
	}
}

// retention checks what went with partitions.
func (j *judge) retention() {
	for _, d := range j.facts.Drops {
		if d.Needed > 0 {
			j.violate(Retention, "%s was dropped at %.1fs with %d events, and %d of them were pending or dead",
				d.Partition, d.At.Sub(j.facts.Began).Seconds(), d.Events, d.Needed)
		}
	}
	if n := len(j.facts.Vanished); n > 0 {
		j.violate(Retention, "%d events are gone, and no partition that was dropped had them: %v", n, few(j.facts.Vanished))
	}
}

func (j *judge) leftovers() {
	byWhat := map[string][]string{}
	for _, l := range j.facts.Leftovers {
		byWhat[l.What] = append(byWhat[l.What], l.Text)
	}
	for _, what := range slices.Sorted(maps.Keys(byWhat)) {
		j.violate(Left, "%s at the end: %v", what, few(byWhat[what]))
	}
}

// few is the beginning of a list, and how much more there is.
func few(list []string) []string {
	if len(list) <= most {
		return list
	}
	return append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(list)-most))
}

// shown is a key as people read it.
func shown(key string) string {
	const longest = 40
	if len(key) > longest {
		return key[:longest] + "…"
	}
	return key
}

// byStart orders faults.
func byStart(a, b Fault) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Kind, b.Kind)) }
