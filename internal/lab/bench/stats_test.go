package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func ms(ns ...int) []time.Duration {
	var out []time.Duration
	for _, n := range ns {
		out = append(out, time.Duration(n)*time.Millisecond)
	}
	return out
}

func TestPercentile_IsTheSmallestValueThatEnoughDoNotExceed(t *testing.T) {
	values := make([]time.Duration, 100)
	for i := range values {
		values[len(values)-1-i] = time.Duration(i+1) * time.Millisecond
	}
	require.Equal(t, Percentiles{P50: 50, P95: 95, P99: 99, Max: 100}, percentiles(values))
	for _, c := range []struct {
		sorted []time.Duration
		q      float64
		want   time.Duration
	}{
		{nil, 0.5, 0},
		{ms(7), 0.01, 7 * time.Millisecond},
		{ms(7), 0.99, 7 * time.Millisecond},
		{ms(1, 9), 0.5, time.Millisecond},
		{ms(1, 9), 0.51, 9 * time.Millisecond},
		{ms(1, 2, 3), 0, time.Millisecond},
		{ms(1, 2, 3), 1, 3 * time.Millisecond},
	} {
		require.Equal(t, c.want, percentile(c.sorted, c.q), "%v of %v", c.q, c.sorted)
	}
}

// at is so many milliseconds after the beginning.
func at(n int) time.Time { return time.UnixMilli(1_000_000 + int64(n)) }

// sent makes events of pairs: committed, acknowledged; -1 is never.
func sent(pairs ...[2]int) []published {
	var events []published
	for _, p := range pairs {
		e := published{committed: at(p[0])}
		if p[1] >= 0 {
			e.acked = at(p[1])
		}
		events = append(events, e)
	}
	return events
}

func TestGaps_AreTimesWithPendingEventsAndNoAcknowledgement(t *testing.T) {
	for name, c := range map[string]struct {
		events []published
		want   []gap
	}{
		"nothing":                   {nil, nil},
		"one event is no gap":       {sent([2]int{0, 900}), nil},
		"between acknowledgements":  {sent([2]int{0, 10}, [2]int{5, 600}), []gap{{at(10), at(600)}}},
		"a producer's pause is not": {sent([2]int{0, 10}, [2]int{5000, 5020}), []gap{{at(5000), at(5020)}}},
		"in any order of events": {
			sent([2]int{20, 40}, [2]int{0, 10}, [2]int{12, 25}),
			[]gap{{at(12), at(25)}, {at(25), at(40)}},
		},
		"acknowledged at once together":          {sent([2]int{0, 10}, [2]int{1, 10}, [2]int{2, 10}), nil},
		"an overtaken event still waits":         {sent([2]int{0, 900}, [2]int{5, 10}), []gap{{at(10), at(900)}}},
		"a lost event makes the next wait a gap": {sent([2]int{0, -1}, [2]int{1, 10}, [2]int{400, 420}), []gap{{at(10), at(420)}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, gaps(c.events))
		})
	}
}

func TestLongest_FindsTheLongestGapInASpanOfTime(t *testing.T) {
	found := []gap{{at(0), at(10)}, {at(10), at(900)}, {at(2000), at(2100)}, {at(3000), at(3050)}}
	require.Equal(t, gap{at(10), at(900)}, longest(found, time.Time{}, time.Time{}))
	require.Equal(t, gap{at(2000), at(2100)}, longest(found, at(1500), at(2500)))
	require.Equal(t, gap{at(2000), at(2100)}, longest(found, at(2050), at(2060)), "it lasts longer than the span")
	require.Equal(t, gap{at(2000), at(2100)}, longest(found, at(900), time.Time{}))
	require.Zero(t, longest(found, at(5000), at(6000)))
}

func TestCPUTimes_AreReadFromProc(t *testing.T) {
	// A name with what separates fields, as PostgreSQL's processes have.
	parent, seconds := parseStat("4242 (postgres: a) b) S 17 4242 4242 0 -1 4194560 700 0 0 0 150 50 25 25 20 0 1 0 9 1 2")
	require.Equal(t, 17, parent)
	require.InDelta(t, 2.5, seconds, 1e-9)

	used := cpuTimes{"worker": 5, "postgres": 3, "all": 120, "idle": 104}.
		since(cpuTimes{"worker": 1, "postgres": 2, "all": 100, "idle": 94})
	require.Equal(t, map[string]float64{"worker": 4, "postgres": 1, "idle": 10, "other": 5}, used)
}
