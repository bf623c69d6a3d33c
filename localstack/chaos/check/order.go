package check

import (
	"fmt"
	"maps"
	"slices"
)

// order checks receptions of each key on ordered queues: the first ones, and those of
// each replay by itself.
func (j *judge) order() {
	type run struct {
		queue, key string
		delivery   int64
	}
	type single struct {
		place
		delivery int64
	}
	last := map[run]*Written{}
	wrong := map[string][]string{}
	seen := map[single]bool{}
	for _, r := range j.received {
		w, delivery := j.written[r.EventID], j.delivery[r]
		at := single{place{r.Queue, r.EventID}, delivery}
		if !j.queues[r.Queue].Ordered || w.Key == "" || w.Fate != Committed || seen[at] {
			continue
		}
		seen[at] = true
		of := run{r.Queue, w.Key, delivery}
		if before := last[of]; before != nil && before.Seq > w.Seq {
			wrong[r.Queue] = append(wrong[r.Queue], fmt.Sprintf("key %q: %d came after %d%s", shown(w.Key), w.Seq, before.Seq, inReplay(delivery)))
			continue
		}
		last[of] = w
	}
	for _, queue := range slices.Sorted(maps.Keys(wrong)) {
		j.violate(Disorder, "%s: %d events came after a later one of their key: %v", queue, len(wrong[queue]), few(wrong[queue]))
	}
	j.dense()
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
