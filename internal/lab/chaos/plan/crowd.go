package plan

import (
	"math/rand/v2"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
)

// crowdFaults are of one destination each: that of a topic among many, which share it with others.
func crowdFaults(dice *rand.Rand, topics Topics) []Step {
	any := func() string { return topics.Crowd[dice.IntN(len(topics.Crowd))] }
	var steps []Step
	for _, f := range []struct {
		kind  faults.Kind
		share float64
	}{
		{faults.Deny, 1},
		{faults.Throttle, 1},
		{faults.Hang, 1},
		{faults.HangAfter, .5},
		{faults.ServerError, 1},
		{faults.FailEntry, .6},
		{faults.OmitAccepted, .5},
		{faults.Slow, 1},
	} {
		steps = append(steps, Step{Kind: Kind(f.kind), Topic: any(), Share: f.share, For: seconds(6 + 4*dice.Float64())})
	}
	return steps
}

// crowdOperators are people who have to do with topics among many.
func crowdOperators(dice *rand.Rand, topics Topics) []Step {
	any := func() string { return topics.Crowd[dice.IntN(len(topics.Crowd))] }
	mortal := func() string { return topics.Mortal[dice.IntN(len(topics.Mortal))] }
	steps := []Step{
		{Kind: ReplayTopic, Topic: any(), Key: topics.Keys[dice.IntN(len(topics.Keys))]},
		{Kind: ReplayTopic, Topic: any(), Key: topics.Old[dice.IntN(len(topics.Old))]},
		{Kind: DiscardDead, Topic: mortal(), For: seconds(3)},
		{Kind: RecoverTopic, Topic: any(), For: seconds(8)},
		{Kind: ParkTopic, Topic: mortal(), For: seconds(8)},
	}
	for range 4 {
		steps = append(steps,
			Step{Kind: PauseTopic, Topic: any(), For: seconds(3 + 4*dice.Float64())},
			Step{Kind: ReplayTopic, Topic: any()},
			Step{Kind: RedriveDead, Topic: mortal()},
		)
	}
	return steps
}
