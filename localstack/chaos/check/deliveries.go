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

// extra is a message that its event did not need, and the one of the same event that
// was sent before it: itself, if its delivery was discarded and needed none.
type extra struct {
	at              place
	message, before *Received
}

func (x extra) discarded() bool { return x.message == x.before }

// deliveries gives every message to a delivery of its event: the first one, or a
// replay. What gets none is lost; what is left over is looked into as a duplicate.
func (j *judge) deliveries() {
	messages := map[place][]*Received{}
	for _, r := range j.received {
		at := place{r.Queue, r.EventID}
		messages[at] = append(messages[at], r)
	}
	lost, unasked := map[string][]string{}, map[string][]string{}
	for i := range j.facts.Written {
		w := &j.facts.Written[i]
		if w.Fate != Committed {
			continue
		}
		for _, q := range j.facts.Queues {
			if q.Topic != w.Topic {
				continue
			}
			at := place{q.Name, w.ID}
			all := messages[at]
			slices.SortStableFunc(all, func(a, b *Received) int { return a.Sent.Compare(b.Sent) })
			match := j.matchByTime
			if q.Ordered {
				match = j.matchByID
			}
			missing, alien := match(at, all)
			for _, n := range missing {
				lost[q.Name] = append(lost[q.Name], fmt.Sprintf("%s (key %q, %d)%s", w.ID, shown(w.Key), w.Seq, inReplay(n)))
			}
			unasked[q.Name] = append(unasked[q.Name], alien...)
		}
	}
	for _, queue := range slices.Sorted(maps.Keys(lost)) {
		j.violate(Lost, "%s: %d committed or replayed events did not come: %v", queue, len(lost[queue]), few(lost[queue]))
	}
	for _, queue := range slices.Sorted(maps.Keys(unasked)) {
		if ids := unasked[queue]; len(ids) > 0 {
			j.violate(Phantom, "%s: %d replays came that nobody asked for: %v", queue, len(ids), few(ids))
		}
	}
}

// matchByTime serves standard queues, whose messages do not say which replay they
// belong to. A message is the earliest delivery that it can be: one that had begun
// when it was sent. It returns the replays, or 0 for the first time, without one.
func (j *judge) matchByTime(at place, all []*Received) (missing []int64, _ []string) {
	due := slices.SortedFunc(slices.Values(j.facts.Replays[at.event]), func(a, b Replay) int { return a.At.Compare(b.At) })
	due = slices.DeleteFunc(append([]Replay{{}}, due...), func(d Replay) bool { return j.discarded(at.event, d.Number) })
	for i, r := range all {
		if len(due) > 0 && !r.Sent.Add(tick).Before(due[0].At) {
			due = due[1:]
			continue
		}
		// Unless it was discarded, the first message is the first delivery.
		j.extra = append(j.extra, extra{at, r, all[max(0, i-1)]})
	}
	for _, d := range due {
		missing = append(missing, d.Number)
	}
	return missing, nil
}

// matchByID serves FIFO queues, whose messages say by their deduplication id which
// delivery they are. It returns also the ids of replays that nobody asked for.
func (j *judge) matchByID(at place, all []*Received) (missing []int64, unasked []string) {
	last := map[int64]*Received{}
	wanted := map[int64]bool{0: true}
	for _, replay := range j.facts.Replays[at.event] {
		wanted[replay.Number] = true
	}
	for _, r := range all {
		n, ok := number(r)
		switch {
		case !ok:
			j.violate(Altered, "%s: event %s came with the deduplication id %q", at.queue, at.event, r.Deduplication)
			continue
		case !wanted[n]:
			unasked = append(unasked, r.Deduplication)
		case last[n] != nil:
			j.extra = append(j.extra, extra{at, r, last[n]})
		case j.discarded(at.event, n):
			j.extra = append(j.extra, extra{at, r, r})
		}
		last[n], j.delivery[r] = r, n
	}
	for _, n := range slices.Sorted(maps.Keys(wanted)) {
		if last[n] == nil && !j.discarded(at.event, n) {
			missing = append(missing, n)
		}
	}
	return missing, unasked
}

// discarded reports whether an operator gave up a delivery of an event.
func (j *judge) discarded(event string, number int64) bool {
	return slices.Contains(j.facts.Discards[event], number)
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
