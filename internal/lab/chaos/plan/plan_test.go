package plan

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
)

var topics = Topics{All: []string{"a", "b", "c"}, Topic: "a", Queue: "b", Keys: []string{"k", "l"}, Old: []string{"l"}}

// everyTime are the kinds that a run of two minutes and more shows.
var everyTime = []Kind{
	Kill, Stall, Terminate, Promote, LostClaim, LostRefusal, SlowDatabase, ResetDatabase, CutDatabase, RestartDatabase,
	RestartTemporal, DropPartition, RecreateTopic, RecreateQueue, TerminateRecovery, PauseRecovery, ResetRecovery,
	Kind(faults.FailEntry), Kind(faults.ThrottleEntry), Kind(faults.OmitAccepted), Kind(faults.OmitDropped),
	Kind(faults.DropAnswer), Kind(faults.DropRequest), Kind(faults.Throttle), Kind(faults.ServerError),
	Kind(faults.Slow), Kind(faults.Hang), Kind(faults.HangAfter),
	Restore, ExhaustPartitions, HoldWriter, PrepareTransaction, RouteTopic,
	PauseTopic, RedriveDead, ReplayTopic, DiscardDead, Kind(faults.Poison),
}

func TestMake_PlansEveryKindWithinTwoMinutesAndEndsInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		length := time.Duration(rapid.IntRange(120, 1800).Draw(t, "seconds")) * time.Second
		kinds := map[Kind]bool{}
		var before time.Duration
		for _, s := range Make(seed, length, topics, 3) {
			kinds[s.Kind] = true
			require.GreaterOrEqual(t, s.At, before)
			require.LessOrEqual(t, s.End(), length)
			require.Less(t, s.Worker, 3)
			before = s.At
		}
		for _, kind := range everyTime {
			require.True(t, kinds[kind], "%s does not happen", kind)
		}
		require.True(t, kinds[FailOver] || kinds[FailOverEarly], "no standby is promoted")
		require.Equal(t, length >= Long, kinds[LongCut])
	})
}

func TestMake_IsAFunctionOfTheSeed(t *testing.T) {
	require.Equal(t, Make(7, time.Minute, topics, 2), Make(7, time.Minute, topics, 2))
	require.NotEqual(t, Make(7, time.Minute, topics, 2), Make(8, time.Minute, topics, 2))
}

func TestMake_HasDeadLettersOfEveryTopicBeforeTheirRedrive(t *testing.T) {
	for seed := range uint64(100) {
		poisoned, before := false, 0
		redriven := map[string]bool{}
		for _, s := range Make(seed, 2*time.Minute, topics, 2) {
			switch {
			case s.Kind == Kind(faults.Poison):
				poisoned = true
			case s.Kind == RedriveDead && poisoned:
				redriven[s.Topic] = true
			case s.Kind == RedriveDead:
				before++
			}
		}
		require.LessOrEqual(t, before, 1, "seed %d: redriven before anything died", seed)
		require.Equal(t, len(topics.All), len(redriven)+before, "seed %d", seed)
	}
}

func TestMake_StallsWorkersPastTheirLeaseIfThereIsTime(t *testing.T) {
	long := map[Kind]time.Duration{}
	for seed := range uint64(10) {
		for _, s := range Make(seed, 20*time.Minute, topics, 2) {
			if s.Kind == LongStall || s.Kind == LongCut {
				long[s.Kind] = max(long[s.Kind], s.For)
			}
		}
		for _, s := range Make(seed, 2*time.Minute, topics, 2) {
			require.NotEqual(t, LongStall, s.Kind)
		}
	}
	require.Greater(t, long[LongStall], time.Minute)
	require.Greater(t, long[LongCut], 2*time.Minute)
}

func TestMake_HasStepsForTopicsAmongManyBesideThoseOfASeed(t *testing.T) {
	many := topics
	many.Crowd, many.Mortal = []string{"x", "y", "y"}, []string{"x"}
	for seed := range uint64(20) {
		for _, length := range []time.Duration{2 * time.Minute, 20 * time.Minute} {
			base, all := Make(seed, length, topics, 2), Make(seed, length, many, 2)
			kinds := map[Kind]bool{}
			for _, s := range all {
				require.LessOrEqual(t, s.End(), length)
				if s.Topic == "x" || s.Topic == "y" {
					kinds[s.Kind] = true
				} else {
					require.True(t, slices.Contains(base, s), "%s", s)
				}
				if s.Topic == "y" {
					require.NotContains(t, []Kind{RedriveDead, DiscardDead, ParkTopic}, s.Kind)
				}
			}
			for _, kind := range []Kind{
				Kind(faults.Deny), Kind(faults.Throttle), Kind(faults.Hang), PauseTopic, ReplayTopic, RedriveDead, DiscardDead, RecoverTopic, ParkTopic,
			} {
				require.True(t, kinds[kind], "%s does not happen", kind)
			}
		}
	}
}
