package check

import (
	"slices"
	"time"
)

// Recovery is how long it took from the end of a fault to the next
// acknowledgement of a topic that it concerned.
type Recovery struct {
	Kind  string        `json:"kind"`
	Topic string        `json:"topic"`
	Took  time.Duration `json:"took"`
}

// Slowest returns the longest recovery. acks has, by topic, the instants at which
// the relay heard that something was accepted, ascending. Faults that ended after
// the last acknowledgement had nothing left to recover.
func Slowest(faults []Fault, acks map[string][]time.Time) (slowest Recovery) {
	faults = slices.SortedFunc(slices.Values(faults), byStart)
	for _, f := range faults {
		for topic, times := range acks {
			if f.Topic != "" && f.Topic != topic {
				continue
			}
			i, _ := slices.BinarySearchFunc(times, f.End, time.Time.Compare)
			if i == len(times) {
				continue
			}
			if took := times[i].Sub(f.End); took > slowest.Took {
				slowest = Recovery{Kind: f.Kind, Topic: topic, Took: took}
			}
		}
	}
	return slowest
}
