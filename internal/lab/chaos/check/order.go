package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// steps keeps what order needs of a part.
func (j *judge) steps(p *partial) error {
	for i := range p.Written {
		if w := &p.Written[i]; w.Outcome == Committed && w.Key != "" {
			if err := j.events.Put(Step{Topic: w.Topic, Key: w.Key, Seq: w.Seq}); err != nil {
				return err
			}
		}
	}
	for _, r := range p.received {
		w := p.written[r.EventID]
		// A message that comes again after the deduplication window is counted as such.
		if !j.queues[r.Queue].Ordered || w.Key == "" || w.Outcome != Committed || p.apart[r] {
			continue
		}
		if err := j.events.Put(Step{Topic: w.Topic, Key: w.Key, Queue: r.Queue, Delivery: p.delivery[r], N: r.N, Seq: w.Seq}); err != nil {
			return err
		}
	}
	return nil
}

// order checks all receptions of each key on ordered queues, and those of each replay by
// themselves: none comes after a later event of its key.
func (j *judge) order() error {
	type run struct {
		queue, topic, key string
		delivery          int64
	}
	wrong := map[string][]string{}
	for n := range j.events.Parts() {
		steps, err := j.events.Steps(n)
		if err != nil {
			return fmt.Errorf("read what was recorded: %w", err)
		}
		slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.N, b.N) })
		last := map[run]int64{}
		numbers := map[place][]int64{}
		for _, s := range steps {
			if s.Queue == "" {
				key := place{s.Topic, s.Key}
				numbers[key] = append(numbers[key], s.Seq)
				continue
			}
			of := run{s.Queue, s.Topic, s.Key, s.Delivery}
			if before := last[of]; before > s.Seq {
				wrong[s.Queue] = append(wrong[s.Queue], fmt.Sprintf("key %q: %d came after %d%s", shown(s.Key), s.Seq, before, inReplay(s.Delivery)))
				continue
			}
			last[of] = s.Seq
		}
		j.dense(numbers)
	}
	for _, queue := range slices.Sorted(maps.Keys(wrong)) {
		j.violate(Disorder, "%s: %d events came after a later one of their key: %v", queue, len(wrong[queue]), few(wrong[queue]))
	}
	return nil
}

// inReplay says which delivery of an event is meant, if it is not the first.
func inReplay(number int64) string {
	if number == 0 {
		return ""
	}
	return fmt.Sprintf(" in replay %d", number)
}

// dense checks the producers' own numbers: commit order is only known if the
// committed events of a key are numbered without a gap.
func (j *judge) dense(numbers map[place][]int64) {
	for _, key := range slices.SortedFunc(maps.Keys(numbers), byPlace) {
		n := numbers[key]
		slices.Sort(n)
		for i := range n {
			if n[i] != int64(i+1) {
				j.violate(Harness, "topic %s, key %q: the numbers of committed events have a gap or a repetition at %d", key.queue, shown(key.event), i+1)
				break
			}
		}
	}
}

func byPlace(a, b place) int {
	return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.event, b.event))
}
