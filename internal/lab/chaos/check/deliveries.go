package check

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is how exactly a queue tells when it accepted a message.
const tick = time.Millisecond

// suspect is a message that its event did not need. It repeats one of those that were sent
// before it. A standard queue does not say which, if its event had several deliveries.
type suspect struct {
	at       place
	n        int // place among the messages of its event in its queue
	sent     time.Time
	earlier  []accepted // that it may repeat, the last one first
	discard  bool       // no message of its delivery was needed: that was discarded
	gone     bool       // it may be of a replay that was discarded, and repeat nothing
	repeated *Send      // by which it was accepted, nil if no request is on record
	sends    []*Send    // all of its event
}

// after reports whether it was too late at a time to be a reason for the message.
func (s suspect) after(t time.Time) bool {
	return s.repeated != nil && !s.discard && t.After(s.repeated.Ended)
}

// overtaken reports whether the relay gave up the request of the message without an answer, and another one
// that began later was accepted before.
func (s suspect) overtaken() bool {
	return s.repeated != nil && !s.repeated.Told && !s.discard && slices.ContainsFunc(s.earlier, func(a accepted) bool {
		return a.by != nil && a.by.Began.After(s.repeated.Began)
	})
}

// accepted is a message that a suspect may repeat.
type accepted struct {
	n    int // place among the messages of its event in its queue
	sent time.Time
	by   *Send // nil if no request is on record
}

// deliveries gives every message to a delivery of its event: the first one, or a
// replay. A delivery without a message is lost; a message without a delivery is suspect.
func (j *judge) deliveries(p *partial) {
	messages := map[place][]*Received{}
	for _, r := range p.received {
		at := place{r.Queue, r.EventID}
		messages[at] = append(messages[at], r)
	}
	for i := range p.Written {
		w := &p.Written[i]
		if w.Outcome != Committed {
			continue
		}
		slices.SortStableFunc(p.sends[w.ID], func(a, b *Send) int { return a.Ended.Compare(b.Ended) })
		for _, q := range j.facts.Queues {
			if !q.has(w.Topic) {
				continue
			}
			at := place{q.Name, w.ID}
			all := messages[at]
			slices.SortStableFunc(all, func(a, b *Received) int { return a.Sent.Compare(b.Sent) })
			match := j.matchByTime
			if q.Ordered {
				match = j.matchByID
			}
			missing, alien := match(p, at, all)
			for _, n := range missing {
				j.lost[q.Name] = append(j.lost[q.Name], fmt.Sprintf("%s (key %q, %d)%s", w.ID, shown(w.Key), w.Seq, inReplay(n)))
			}
			j.unasked[q.Name] = append(j.unasked[q.Name], alien...)
		}
	}
}

// missed reports lost deliveries, and replays that no operator asked for.
func (j *judge) missed() {
	for _, queue := range slices.Sorted(maps.Keys(j.lost)) {
		slices.Sort(j.lost[queue])
		j.violate(Lost, "%s: %d committed or replayed events did not come: %v", queue, len(j.lost[queue]), few(j.lost[queue]))
	}
	for _, queue := range slices.Sorted(maps.Keys(j.unasked)) {
		if ids := j.unasked[queue]; len(ids) > 0 {
			slices.Sort(ids)
			j.violate(Phantom, "%s: %d replays came without a request: %v", queue, len(ids), few(ids))
		}
	}
}

// suspect is message n of an event in a queue. It is explained by those before it, or by
// itself if its delivery was discarded.
func (p *partial) suspect(at place, all []*Received, n int, discard bool) suspect {
	sends := p.sends[at.event]
	s := suspect{at: at, n: n, sent: all[n].Sent, discard: discard, repeated: sendOf(sends, all, n), sends: sends}
	if discard {
		s.earlier = []accepted{{n, all[n].Sent, s.repeated}}
	} else {
		for i := n - 1; i >= 0; i-- {
			s.earlier = append(s.earlier, accepted{i, all[i].Sent, sendOf(sends, all, i)})
		}
	}
	return s
}

// sendOf is the request by which message n of all was accepted. Each request makes one
// message, so they correspond, unless some request is not on record.
func sendOf(sends []*Send, all []*Received, n int) (found *Send) {
	if len(sends) == len(all) {
		return sends[n]
	}
	for _, s := range sends {
		if !s.Began.Truncate(tick).After(all[n].Sent) {
			found = s
		}
	}
	return found
}

// matchByTime serves standard queues, whose messages do not say which replay they
// belong to. A message is the earliest delivery that it can be: one that had begun
// when it was sent. It returns the replays, or 0 for the first time, without one.
func (j *judge) matchByTime(p *partial, at place, all []*Received) (missing []int64, _ []string) {
	byTime := func(a, b Replay) int { return a.At.Compare(b.At) }
	due := slices.SortedFunc(slices.Values(p.Replays[at.event]), byTime)
	ended := func(d Replay) bool { return p.discarded(at.event, d.Number) }
	var gone []Replay // from the first that was discarded on
	if i := slices.IndexFunc(due, ended); i >= 0 {
		gone = slices.Clone(due[i:])
	}
	due = slices.DeleteFunc(append([]Replay{{}}, due...), ended)
	lost := slices.SortedFunc(slices.Values(p.LostReplays[at.event]), byTime)
	// The first delivery was discarded, if its messages are not due. The last of them needs
	// a cause of its own. If others may be those of a replay, only the first message is known
	// to be one of them.
	died := 0
	if p.discarded(at.event, 0) && len(p.Replays[at.event])+len(p.LostReplays[at.event]) == 0 {
		died = len(all) - 1
	}
	for i, r := range all {
		switch {
		case len(due) > 0 && !r.Sent.Add(tick).Before(due[0].At):
			due = due[1:]
		case len(lost) > 0 && !r.Sent.Add(tick).Before(lost[0].At):
			lost = lost[1:]
			j.counts.Orphans++
		default:
			if i > 0 {
				s := p.suspect(at, all, i, false)
				s.gone = len(gone) > 0 && !r.Sent.Add(tick).Before(gone[0].At)
				j.suspects = append(j.suspects, s)
			}
			if i == died {
				j.suspects = append(j.suspects, p.suspect(at, all, i, true))
			}
		}
	}
	for _, d := range due {
		missing = append(missing, d.Number)
	}
	return missing, nil
}

// matchByID serves FIFO queues, whose messages say by their deduplication id which
// delivery they are. It also returns the ids of replays that no operator asked for.
func (j *judge) matchByID(p *partial, at place, all []*Received) (missing []int64, unasked []string) {
	last := map[int64]*Received{}
	wanted, lost := map[int64]bool{0: true}, map[int64]bool{}
	for _, replay := range p.Replays[at.event] {
		wanted[replay.Number] = true
	}
	for _, replay := range p.LostReplays[at.event] {
		lost[replay.Number] = true
	}
	for i, r := range all {
		n, ok := number(r)
		switch {
		case !ok:
			j.violate(Altered, "%s: event %s came with the deduplication id %q", at.queue, at.event, r.Deduplication)
			p.apart[r] = true
			continue
		case !wanted[n] && lost[n]:
			j.counts.Orphans++
		case !wanted[n]:
			unasked = append(unasked, r.Deduplication)
		case last[n] != nil && r.Sent.Sub(last[n].Sent) < Window:
			j.within = append(j.within, fmt.Sprintf("%s: %s after %s", at.queue, r.Deduplication, r.Sent.Sub(last[n].Sent).Round(time.Millisecond)))
		case last[n] != nil:
			j.counts.Duplicates[causeWindow]++
			p.apart[r] = true
		case p.discarded(at.event, n):
			j.suspects = append(j.suspects, p.suspect(at, all, i, true))
		}
		last[n], p.delivery[r] = r, n
	}
	for _, n := range slices.Sorted(maps.Keys(wanted)) {
		if last[n] == nil && !p.discarded(at.event, n) {
			missing = append(missing, n)
		}
	}
	return missing, unasked
}

// discarded reports whether an operator gave up a delivery of an event.
func (p *partial) discarded(event string, number int64) bool {
	return slices.Contains(p.Discards[event], number)
}

// number is the replay that a message says it belongs to, 0 for none.
func number(r *Received) (n int64, ok bool) {
	if r.Deduplication == r.EventID {
		return 0, true
	}
	text, ok := strings.CutPrefix(r.Deduplication, r.EventID+"/")
	n, err := strconv.ParseInt(text, 10, 64)
	return n, ok && err == nil && n > 0
}
