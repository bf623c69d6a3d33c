package postgres

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Whatever waits: no lane is given twice, nobody gets more than its share, and a
// topic goes without only when all slots are taken.
func TestPack_IsFairAndKeepsItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := relay.ClaimRequest{
			Batches:  rapid.IntRange(1, 20).Draw(t, "slots"),
			PerTopic: rapid.IntRange(1, 5).Draw(t, "perTopic"),
		}
		var waiting []lane
		claims := map[string]int{}
		topics := rapid.IntRange(1, 8).Draw(t, "topics")
		for i := range topics {
			topic := fmt.Sprint("t", i)
			claims[topic] = rapid.IntRange(0, r.PerTopic-1).Draw(t, "claims")
			for n := range rapid.IntRange(1, relay.Lanes).Draw(t, "lanes") {
				waiting = append(waiting, lane{topic: topic, lane: int16(n), events: rapid.IntRange(1, 200).Draw(t, "events"), bytes: 100, claims: claims[topic]})
			}
		}
		batches := pack(waiting, r)

		if len(batches) > r.Batches {
			t.Fatalf("%d batches for %d slots", len(batches), r.Batches)
		}
		seen := map[laneKey]bool{}
		perTopic := map[string]int{}
		for _, b := range batches {
			if len(b) == 0 {
				t.Fatal("an empty batch")
			}
			perTopic[b[0].topic]++
			for _, l := range b {
				if l.topic != b[0].topic {
					t.Fatal("a batch of two topics")
				}
				if seen[l.key()] {
					t.Fatalf("%v was given twice", l.key())
				}
				seen[l.key()] = true
			}
		}
		for topic, n := range perTopic {
			if n+claims[topic] > r.PerTopic {
				t.Fatalf("%s has %d beside %d claimed, of %d", topic, n, claims[topic], r.PerTopic)
			}
		}
		if len(perTopic) < min(topics, r.Batches) {
			t.Fatalf("only %d of %d topics served with %d slots", len(perTopic), topics, r.Batches)
		}
		for _, l := range waiting {
			if perTopic[l.topic] > 0 && !seen[l.key()] {
				t.Fatalf("lane %v of a topic that is served was left out", l.key())
			}
		}
	})
}

func TestSpread_IsEven(t *testing.T) {
	var lanes []lane
	for i, events := range []int{125, 125, 125, 125, 60, 60, 60, 60, 10, 10, 10, 10} {
		lanes = append(lanes, lane{topic: "t", lane: int16(i), events: events})
	}
	for _, group := range spread(lanes, 4) {
		sum := 0
		for _, l := range group {
			sum += l.events
		}
		if sum != 195 {
			t.Errorf("a group has %d events, want a quarter of them, 195", sum)
		}
	}
}
