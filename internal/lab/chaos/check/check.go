package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Window is how long a FIFO queue recognises a message that is sent again.
const Window = 5 * time.Minute

// Verdict is what Check found.
type Verdict struct {
	Violations []Violation
	Counts     Counts
}

// Counts are the parts of the report that follow from the facts.
type Counts struct {
	Committed  int `json:"committed"`
	RolledBack int `json:"rolledBack"`
	// LostCommits went with an old primary. LostReplays did, too.
	LostCommits int `json:"lostCommits"`
	LostReplays int `json:"lostReplays"`
	// Orphans are messages of lost commits and lost replays, all queues together: they
	// were published before the primary was lost. Only synchronous replication avoids it.
	Orphans  int `json:"orphans"`
	Replayed int `json:"replayed"` // replays, one for each event and number
	Received int `json:"received"` // messages, all queues together
	// Redelivered counts messages that a queue delivered more than once: the
	// consumer's receipt was lost, the relay has no part in it.
	Redelivered int `json:"redelivered"`
	// Duplicates counts messages of an event in a standard queue beyond the first and
	// one for each replay, by cause.
	Duplicates map[string]int `json:"duplicates"`
	// SlowestEvent is the longest time from a commit to the first reception.
	SlowestEvent time.Duration `json:"slowestEvent"`
}

// Check judges facts that are all in memory.
func Check(f Facts) Verdict {
	part := f.Part
	part.Received = slices.Clone(part.Received)
	for i := range part.Received {
		part.Received[i].N = i
	}
	v, err := Judge(f, &memory{part: part})
	if err != nil {
		v.Violations = append(v.Violations, Violation{Harness, err.Error()})
	}
	return v
}

// Judge judges the facts of a source's events.
func Judge(f Facts, events Source) (Verdict, error) {
	j := &judge{
		facts: f, events: events, queues: make(map[string]Queue, len(f.Queues)),
		groups: map[place]string{}, keys: map[place]string{},
		lost: map[string][]string{}, unasked: map[string][]string{},
		counts: Counts{Duplicates: map[string]int{}},
	}
	for _, q := range f.Queues {
		j.queues[q.Name] = q
	}
	for n := range events.Parts() {
		part, err := events.Part(n)
		if err != nil {
			return Verdict{}, fmt.Errorf("read what was recorded: %w", err)
		}
		if err := j.judgePart(part); err != nil {
			return Verdict{}, err
		}
	}
	if j.counts.Committed == 0 {
		j.violate(Harness, "nothing was committed, so nothing is shown")
	}
	j.missed()
	if err := j.duplicates(); err != nil {
		return Verdict{}, err
	}
	if err := j.order(); err != nil {
		return Verdict{}, err
	}
	j.retention()
	j.others()
	return Verdict{Violations: j.violations, Counts: j.counts}, nil
}

// place is an event in a queue.
type place struct{ queue, event string }

type judge struct {
	facts      Facts
	events     Source
	queues     map[string]Queue
	groups     map[place]string    // by queue and key
	keys       map[place]string    // by queue and group
	lost       map[string][]string // by queue
	unasked    map[string][]string // replays, by queue
	suspects   []suspect
	within     []string // repetitions that a FIFO queue should have suppressed
	violations []Violation
	counts     Counts
}

// partial is a part that is being judged.
type partial struct {
	Part
	written  map[string]*Written
	sends    map[string][]*Send
	received []*Received         // without redeliveries
	delivery map[*Received]int64 // on ordered queues: 0, or the replay that it belongs to
	apart    map[*Received]bool  // not in order: after the deduplication window, or of no delivery
}

// most is how many violations of a rule are spelled out, and tooMany how many are kept.
const (
	most    = 5
	tooMany = 1000
)

func (j *judge) violate(rule Rule, format string, args ...any) {
	if len(j.violations) < tooMany {
		j.violations = append(j.violations, Violation{Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
}

func (j *judge) judgePart(part Part) error {
	p := &partial{
		Part: part, written: make(map[string]*Written, len(part.Written)), sends: map[string][]*Send{},
		delivery: map[*Received]int64{}, apart: map[*Received]bool{},
	}
	j.index(p)
	j.receptions(p)
	j.deliveries(p)
	return j.steps(p)
}

// index makes facts easy to look up, and reports those that cannot be judged.
func (j *judge) index(p *partial) {
	for i := range p.Written {
		w := &p.Written[i]
		if p.written[w.ID] != nil {
			j.violate(Harness, "event %s was written twice", w.ID)
		}
		p.written[w.ID] = w
		j.resolve(p, w)
		switch w.Outcome {
		case Committed:
			j.counts.Committed++
		case RolledBack:
			j.counts.RolledBack++
		case LostCommit:
			j.counts.LostCommits++
		default:
			j.violate(Harness, "it is unknown whether event %s was committed", w.ID)
		}
	}
	for i := range p.Sends {
		s := &p.Sends[i]
		p.sends[s.EventID] = append(p.sends[s.EventID], s)
	}
	for _, id := range slices.Sorted(maps.Keys(p.Replays)) {
		if w := p.written[id]; w == nil || w.Outcome != Committed {
			j.violate(Harness, "event %q was replayed, but no transaction committed it", id)
		}
		j.counts.Replayed += len(p.Replays[id])
	}
	for _, id := range slices.Sorted(maps.Keys(p.Discards)) {
		if w := p.written[id]; w == nil || w.Outcome != Committed {
			j.violate(Harness, "event %q was discarded, but no transaction committed it", id)
		}
	}
	for _, replays := range p.LostReplays {
		j.counts.LostReplays += len(replays)
	}
}

// resolve makes an outcome final: that of a transaction that broke, and that of a commit that
// went with its primary.
func (j *judge) resolve(p *partial, w *Written) {
	if p.Kept == nil {
		return
	}
	kept, lost := p.Kept[w.ID], p.Lost[w.ID]
	switch {
	case w.Outcome == RolledBack && (kept || lost):
		j.violate(Harness, "event %s was rolled back, and the database has it", w.ID)
	case w.Outcome == RolledBack:
	case kept:
		w.Outcome = Committed
	case lost:
		w.Outcome = LostCommit
	case w.Outcome == Committed:
		j.violate(Lost, "event %s was committed, and the database never had it", w.ID)
	default:
		w.Outcome = RolledBack
	}
}

// has reports whether a topic's events arrive in the queue.
func (q Queue) has(topic string) bool {
	if beginning, any := strings.CutSuffix(q.Topic, "*"); any {
		return strings.HasPrefix(topic, beginning)
	}
	return q.Topic == topic
}

// receptions checks each message: its event is known, was committed, and is unchanged.
func (j *judge) receptions(p *partial) {
	messages, known := map[place]bool{}, map[place]bool{}
	for i := range p.Received {
		r := &p.Received[i]
		id := place{r.Queue, r.MessageID}
		if messages[id] {
			j.counts.Redelivered++
			continue
		}
		messages[id] = true
		j.counts.Received++
		w := p.written[r.EventID]
		q, described := j.queues[r.Queue]
		switch {
		case !described:
			j.violate(Harness, "a message came from queue %s, which the harness does not know", r.Queue)
			continue
		case w == nil:
			j.violate(Altered, "%s: a message with event id %q, which no producer wrote", r.Queue, r.EventID)
			continue
		case !q.has(w.Topic):
			j.violate(Altered, "%s: event %s was written to topic %s", r.Queue, w.ID, w.Topic)
		case w.Outcome == RolledBack:
			j.violate(Phantom, "%s: event %s was rolled back", r.Queue, w.ID)
		default:
			j.compare(q, w, r)
		}
		if w.Outcome == LostCommit {
			j.counts.Orphans++
			continue
		}
		p.received = append(p.received, r)
		if at := (place{r.Queue, r.EventID}); !known[at] {
			known[at] = true
			j.counts.SlowestEvent = max(j.counts.SlowestEvent, r.Arrived.Sub(w.At))
		}
	}
}

// retention checks the events that were dropped with partitions.
func (j *judge) retention() {
	for _, d := range j.facts.Drops {
		if d.Needed > 0 {
			j.violate(Retention, "%s was dropped at %.1fs with %d events, and %d of them were pending or dead",
				d.Partition, j.since(d.At), d.Events, d.Needed)
		}
	}
	if n := len(j.facts.Vanished); n > 0 {
		j.violate(Retention, "%d events are gone, and no partition that was dropped had them: %v", n, few(j.facts.Vanished))
	}
}

// heldMost is how long a topic may be held for a recovery that does not run. The relay looks for such holds
// every few seconds, but it may have no worker for a while. A hold expires after two minutes.
const heldMost = time.Minute

// cutOff is for how long the database was away for workers between two moments.
func (j *judge) cutOff(from, to time.Time) (away time.Duration) {
	last := from
	for _, f := range slices.SortedFunc(slices.Values(j.facts.Faults), byStart) {
		if f.Role == NoDatabase && f.Start.Before(to) && f.End.After(last) {
			begin, end := f.Start, f.End
			if begin.Before(last) {
				begin = last
			}
			if end.After(to) {
				end = to
			}
			away += end.Sub(begin)
			last = end
		}
	}
	return away
}

// others are violations that need no comparison.
func (j *judge) others() {
	if n := len(j.facts.Missing); n > 0 {
		j.violate(Missing, "%d dead letters say that their event does not exist, and it does: %v", n, few(j.facts.Missing))
	}
	if n := len(j.facts.Refused); n > 0 {
		j.violate(Refused, "%d statements of producers failed, and no injected fault explains it: %v", n, few(j.facts.Refused))
	}
	for _, h := range j.facts.LoneHolds {
		if h.For-j.cutOff(h.Since, h.Since.Add(h.For)) > heldMost {
			j.violate(Held, "%s was held for %.0f s, from %.0fs on, and no recovery was at work: %s", h.Topic, h.For.Seconds(), j.since(h.Since), h.Why)
		}
	}
	for _, p := range j.facts.Problems {
		j.violate(Harness, "%s", p)
	}
	byWhat := map[string][]string{}
	for _, l := range j.facts.Remaining {
		byWhat[l.What] = append(byWhat[l.What], l.Text)
	}
	for _, what := range slices.Sorted(maps.Keys(byWhat)) {
		j.violate(Left, "%s at the end: %v", what, few(byWhat[what]))
	}
}

// since is an instant as texts have it.
func (j *judge) since(t time.Time) float64 { return t.Sub(j.facts.Began).Seconds() }

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
