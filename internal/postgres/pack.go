package postgres

import (
	"cmp"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// lane is a lane with pending events.
type lane struct {
	topic  string
	lane   int16
	events int
	bytes  int64
	age    time.Duration // of its oldest event
	claims int           // the claims that its topic has already
}

type laneKey struct {
	topic string
	lane  int16
}

func (l lane) key() laneKey { return laneKey{l.topic, l.lane} }

func columns(lanes []lane) (topics []string, numbers []int16) {
	for _, l := range lanes {
		topics, numbers = append(topics, l.topic), append(numbers, l.lane)
	}
	return topics, numbers
}

// ofFirstTopics keeps the lanes of the first n topics: n batches go to the topics in turn, so no
// later topic can get one.
func ofFirstTopics(lanes []lane, n int) []lane {
	chosen := make(map[string]bool, n)
	kept := make([]lane, 0, len(lanes))
	for _, l := range lanes {
		if !chosen[l.topic] && len(chosen) < n {
			chosen[l.topic] = true
		}
		if chosen[l.topic] {
			kept = append(kept, l)
		}
	}
	return kept
}

// pack makes batches of waiting lanes. A topic gets a batch for each waiting page, at least one,
// within its share and the number of batches that the caller can take; topics take turns in the
// given order. pack spreads a topic's lanes evenly over its batches, so that a backlog drains in all
// lanes at once and small lanes share one batch.
func pack(waiting []lane, r relay.ClaimRequest) [][]lane {
	var order []string
	lanesOf := make(map[string][]lane)
	for _, l := range waiting {
		if lanesOf[l.topic] == nil {
			order = append(order, l.topic)
		}
		lanesOf[l.topic] = append(lanesOf[l.topic], l)
	}
	want := make(map[string]int, len(order))
	for topic, lanes := range lanesOf {
		share, lowered := r.Shares[topic]
		if !lowered {
			share = r.PerTopic
		}
		want[topic] = wantedBatches(lanes, share-lanes[0].claims, r.Linger)
	}
	give := make(map[string]int, len(order))
	for left, gave := r.Batches, true; gave && left > 0; {
		gave = false
		for _, topic := range order {
			if left > 0 && give[topic] < want[topic] {
				give[topic]++
				left--
				gave = true
			}
		}
	}
	var batches [][]lane
	for _, topic := range order {
		if give[topic] > 0 {
			batches = append(batches, spread(withIdleLanes(topic, lanesOf[topic]), give[topic])...)
		}
	}
	return batches
}

// withIdleLanes adds the lanes of a topic without waiting events. The claim takes them too if they
// are free, because a batch stays on its lanes for the next events, which may come in any lane.
func withIdleLanes(topic string, lanes []lane) []lane {
	busy := make(map[int16]bool, len(lanes))
	for _, l := range lanes {
		busy[l.lane] = true
	}
	all := slices.Clone(lanes)
	for n := range int16(relay.Lanes) {
		if !busy[n] {
			all = append(all, lane{topic: topic, lane: n})
		}
	}
	return all
}

func wantedBatches(lanes []lane, share int, linger time.Duration) int {
	var events int
	var bytes int64
	var age time.Duration
	for _, l := range lanes {
		events += l.events
		bytes += l.bytes
		age = max(age, l.age)
	}
	if events < relay.PageEvents && bytes < relay.PageBytes && age < linger {
		return 0
	}
	pages := max((events+relay.PageEvents-1)/relay.PageEvents, int((bytes+relay.PageBytes-1)/relay.PageBytes), 1)
	return max(0, min(pages, share, len(lanes)))
}

// spread divides lanes into n groups of about equal numbers of events: the largest lane first, each
// into the group that has the fewest events.
func spread(lanes []lane, n int) [][]lane {
	slices.SortStableFunc(lanes, func(a, b lane) int { return cmp.Compare(b.events, a.events) })
	groups, events := make([][]lane, n), make([]int, n)
	for _, l := range lanes {
		least := 0
		for g := range groups {
			if events[g] < events[least] || events[g] == events[least] && len(groups[g]) < len(groups[least]) {
				least = g
			}
		}
		groups[least] = append(groups[least], l)
		events[least] += l.events
	}
	return groups
}
