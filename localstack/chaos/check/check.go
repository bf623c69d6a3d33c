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
	Received   int `json:"received"` // messages, all queues together
	// Redelivered counts messages that a queue delivered more than once: the
	// consumer's receipt was lost, the relay has no part in it.
	Redelivered int `json:"redelivered"`
	// Duplicates counts second and later messages of an event in a standard queue,
	// by cause.
	Duplicates map[string]int `json:"duplicates"`
	// SlowestEvent is the longest time from a commit to the first reception.
	SlowestEvent time.Duration `json:"slowestEvent"`
}

// Check judges the facts.
func Check(f Facts) Verdict {
	j := &judge{
		facts: f, written: make(map[string]*Written, len(f.Written)),
		first: make(map[place]*Received), counts: Counts{Duplicates: map[string]int{}},
	}
	j.index()
	j.receptions()
	j.losses()
	j.order()
	j.duplicates()
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

// losses finds what was committed and did not come.
func (j *judge) losses() {
	missing := map[string][]string{}
	for i := range j.facts.Written {
		w := &j.facts.Written[i]
		if w.Fate != Committed {
			continue
		}
		for _, q := range j.facts.Queues {
			if q.Topic == w.Topic && j.first[place{q.Name, w.ID}] == nil {
				missing[q.Name] = append(missing[q.Name], fmt.Sprintf("%s (key %q, %d)", w.ID, shown(w.Key), w.Seq))
			}
		}
	}
	for _, queue := range slices.Sorted(maps.Keys(missing)) {
		j.violate(Lost, "%s: %d committed events did not come: %v", queue, len(missing[queue]), few(missing[queue]))
	}
}

// order checks first receptions of each key on ordered queues.
func (j *judge) order() {
	last := map[place]*Written{}
	wrong := map[string][]string{}
	seen := map[place]bool{}
	for _, r := range j.received {
		w := j.written[r.EventID]
		at := place{r.Queue, r.EventID}
		if !j.queues[r.Queue].Ordered || w.Key == "" || w.Fate != Committed || seen[at] {
			continue
		}
		seen[at] = true
		key := place{r.Queue, w.Key}
		if before := last[key]; before != nil && before.Seq > w.Seq {
			wrong[r.Queue] = append(wrong[r.Queue], fmt.Sprintf("key %q: %d came after %d", shown(w.Key), w.Seq, before.Seq))
			continue
		}
		last[key] = w
	}
	for _, queue := range slices.Sorted(maps.Keys(wrong)) {
		j.violate(Disorder, "%s: %d events came after a later one of their key: %v", queue, len(wrong[queue]), few(wrong[queue]))
	}
	j.dense()
}

// dense checks the producers' own numbers: commit order is only known if the
// committed events of a key are numbered without a gap.
func (j *judge) dense() {
	numbers := map[place][]int64{}
	for i := range j.facts.Written {
		if w := &j.facts.Written[i]; w.Fate == Committed && w.Key != "" {
			key := place{w.Topic, w.Key}
			numbers[key] = append(numbers[key], w.Seq)
		}
	}
	for key, n := range numbers {
		slices.Sort(n)
		for i := range n {
			if n[i] != int64(i+1) {
				j.violate(Harness, "topic %s, key %q: the numbers of committed events have a gap or a repetition at %d", key.queue, shown(key.event), i+1)
				break
			}
		}
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
