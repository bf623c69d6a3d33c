package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

func TestTopics_AreOfAllKindsAndEachHasOneDestination(t *testing.T) {
	cfg := Config{Topics: 200, Seed: 1, Length: 2 * time.Minute}.withDefaults()
	kinds, queues := map[string]int{}, map[string]bool{}
	seen := map[string]bool{}
	for _, d := range cfg.destinations() {
		if d.topic == unrouted || d.topic == "many-*" {
			continue
		}
		for _, name := range d.names() {
			require.False(t, seen[name], name)
			seen[name] = true
			require.True(t, name == d.topic || strings.HasPrefix(name, strings.TrimSuffix(d.topic, "*")), "the checker knows them by their beginning: %s", name)
		}
		kind := d.service
		if ordered(d.name) {
			kind += " ordered"
		}
		kinds[strings.TrimSpace(kind+" "+d.policy)] += len(d.names())
		for _, q := range d.queues {
			require.False(t, queues[q.name], q.name)
			queues[q.name] = true
			require.Equal(t, ordered(d.name), ordered(q.name))
		}
	}
	require.Len(t, seen, 200)
	require.Equal(t, map[string]int{
		"sqs": 28, "sns": 29, "sqs ordered": 28, "sns ordered": 28, "sqs ordered onPoison: block": 29, "sns ordered onPoison: block": 1,
		"sqs maxPerSecond: 20": 28, "sqs fair: true": 29,
	}, kinds)
	loaded := cfg.loaded()
	for name := range seen {
		require.Contains(t, loaded, name)
	}
}

// The plan of a seed from before there were more topics is still the same, and no step makes dead letters
// of a topic that has no order afterwards.
func TestTopics_AreFourByDefaultAndMoreAddStepsOfTheirOwn(t *testing.T) {
	few := Config{Seed: 5, Length: 2 * time.Minute}.withDefaults()
	require.Equal(t, plan.Make(5, 2*time.Minute, topics, 2), few.Plan)
	require.Equal(t, topics.All, few.loaded())
	more := Config{Seed: 5, Length: 2 * time.Minute, Topics: 200}.withDefaults()
	fx := &fixture{cfg: more}
	var own []plan.Step
	for _, s := range more.Plan {
		if slices.Contains(few.Plan, s) {
			continue
		}
		own = append(own, s)
		require.NotEmpty(t, s.Topic)
		switch s.Kind {
		case plan.RedriveDead, plan.DiscardDead, plan.ParkTopic:
			require.False(t, fx.of(s.Topic).lets, "%s", s)
		}
	}
	require.Equal(t, len(more.Plan)-len(few.Plan), len(own))
	require.NotEmpty(t, own)
	require.NotContains(t, fx.spared(), fx.named("audit"))
	require.Contains(t, fx.spared(), fx.named("line-1.fifo"))
}

func TestBatches_OfAMixedRunAreOfBothKindsAfterTheFirstWorkers(t *testing.T) {
	count := map[Batches]int{}
	for worker := 1; worker <= 20; worker++ {
		b := Mixed.of(worker, 3)
		count[b]++
		if worker <= 3 {
			require.Equal(t, Shared, b)
		}
		require.Equal(t, PerTopics, PerTopics.of(worker, 3))
		require.Equal(t, Shared, Shared.of(worker, 3))
	}
	require.Equal(t, map[Batches]int{Shared: 15, PerTopics: 5}, count)
	require.Equal(t, Mixed, Config{}.withDefaults().Batches)
}

func TestRun_RefusesAnUnknownKindOfBatches(t *testing.T) {
	_, err := Run(t.Context(), Config{Batches: "neither"})
	require.ErrorContains(t, err, "shared, topics or mixed")
}
