package plan

import (
	"math/rand/v2"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
)

// operators are people who pause, redrive, replay and discard, and the dead letters
// that they have to do with. Every topic's are redriven once at least.
func operators(dice *rand.Rand, topics Topics) []Step {
	any := func() string { return topics.All[dice.IntN(len(topics.All))] }
	steps := []Step{
		{Kind: Kind(faults.Poison), Share: .1, For: seconds(8 + 4*dice.Float64())},
		{Kind: PauseTopic, Topic: any(), For: seconds(3 + 4*dice.Float64())},
		{Kind: PauseTopic, Topic: any(), For: seconds(3 + 4*dice.Float64())},
		{Kind: ReplayTopic, Topic: any()},
		{Kind: ReplayTopic, Topic: any()},
		{Kind: ReplayTopic, Topic: any(), Key: topics.Keys[dice.IntN(len(topics.Keys))]},
		{Kind: ReplayTopic, Topic: any(), Key: topics.Old[dice.IntN(len(topics.Old))]},
		{Kind: ReplayTopic, Topic: any(), Key: topics.Old[dice.IntN(len(topics.Old))]},
		{Kind: DiscardDead, Topic: any(), For: seconds(3)},
	}
	for _, topic := range topics.All {
		steps = append(steps, Step{Kind: RedriveDead, Topic: topic})
	}
	return steps
}
