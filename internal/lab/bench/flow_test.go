package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPlan_SpreadsTheTopicsOverTheInterval(t *testing.T) {
	plan := every(100*time.Millisecond, 3, 4, 200*time.Millisecond)
	var dues []time.Duration
	for _, e := range plan {
		dues = append(dues, e.due)
		require.Contains(t, []int{3, 4, 5, 6}, e.topic)
	}
	slices.Sort(dues)
	require.Equal(t, ms(0, 25, 50, 75, 100, 125, 150, 175), dues)
	require.Empty(t, every(0, 0, 0, time.Second))
}

func TestPlan_MergesInOrderAndGivesKeys(t *testing.T) {
	hot := []planned{{due: 5, key: "hot"}, {due: 1, key: "hot"}}
	plan := merged(hot, []planned{{due: 3, topic: 1}, {due: 9, topic: 1}})
	require.Equal(t, []planned{{1, 0, "hot"}, {3, 1, "key-1"}, {5, 0, "hot"}, {9, 1, "key-3"}}, plan)
}

func TestSteady_PlansTheRateThatItSays(t *testing.T) {
	s := steadySpec{topics: 1000, interval: 5 * time.Second, busy: 20, busyInterval: time.Second / 50}
	require.Equal(t, 1196, s.perSecond())
	require.Len(t, s.plan(10*time.Second), 11960)
	busy := 0
	for _, e := range s.plan(time.Second) {
		if e.topic < s.busy {
			busy++
		}
	}
	require.Equal(t, 1000, busy)
}

func TestWaits_CountWhatIsMissingUntilNow(t *testing.T) {
	events := []delivered{
		{planned{topic: 1}, published{at(0), at(20)}, 0},
		{planned{topic: 1}, published{at(5), time.Time{}}, 0},
		{planned{topic: 2}, published{at(5), at(6)}, 0},
		{planned{topic: 1}, published{at(9), at(8)}, 0}, // seen by the relay before the commit returned
	}
	require.Equal(t, ms(20, 95, 0), waits(events, at(100), func(e delivered) bool { return e.topic == 1 }))
}

func TestLaneGaps_AreThoseOfTheWorkerThatHadTheLane(t *testing.T) {
	one, two, three, four := lane{"a", 1}, lane{"a", 2}, lane{"b", 1}, lane{"b", 2}
	event := func(committed, acked, by int) delivered {
		e := delivered{published: published{committed: at(committed)}, by: by}
		if acked != -1 {
			e.acked = at(acked)
		}
		return e
	}
	before, after := laneGaps(map[lane][]delivered{
		one:   {event(0, 10, 7), event(11, 100, 7), event(950, 1020, 7)},
		two:   {event(-9000, -8000, 7), event(12, 20, 8), event(990, 4000, 7), event(1001, 4500, 7)}, // 8 had it at 1000
		three: {event(1100, 1200, 7), event(1101, 9000, 7)},                                          // nobody had it
		four:  {event(0, 10, 8), event(12, 20, 7), event(30, 2030, 7)},                               // both did
	}, at(50), at(1000))
	require.Equal(t, 89*time.Millisecond, before)
	require.Equal(t, map[int]time.Duration{7: 70 * time.Millisecond, 8: 3010 * time.Millisecond, sharedLane: 2 * time.Second}, after)
}

func TestFiller_MakesPayloadsOfTheirLength(t *testing.T) {
	for _, bytes := range []int{512, 8 << 10, 200 << 10} {
		require.Len(t, `{"marker":"`+marker(1)+`","pad":"`+filler(bytes)+`"}`, bytes)
	}
	require.Greater(t, len(strings.Split(filler(8<<10), "a")), 300, "a large one is random")
}

func TestBare_PutsNoMoreIntoARequestThanAWSAccepts(t *testing.T) {
	require.Equal(t, 10, bareSpec{}.withDefaults().entries)
	require.Equal(t, 10, bareSpec{payload: 64 << 10}.withDefaults().entries)
	require.Equal(t, 5, bareSpec{payload: 200 << 10}.withDefaults().entries)
	require.Equal(t, 1, bareSpec{payload: 1 << 20}.withDefaults().entries)
	require.Equal(t, 16, bareSpec{}.withDefaults().requests)
}

func TestConfig_MeasuresMoreWithFull(t *testing.T) {
	short, err := Config{}.withDefaults()
	require.NoError(t, err)
	full, err := Config{Full: true}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, 1, short.Runs)
	require.Equal(t, Parts(), short.Only)
	require.Equal(t, 3_000_000, full.Pending)
	require.Greater(t, full.Meanwhile, short.Meanwhile)
	require.Greater(t, full.size.lasting, short.size.lasting)
	_, err = Config{Runs: -1}.withDefaults()
	require.Error(t, err)
}

func TestParts_AreTheRowsOfTheTableAndTheOthers(t *testing.T) {
	seen := map[Part]bool{}
	for _, p := range Parts() {
		require.False(t, seen[p], p)
		seen[p] = true
	}
	for _, p := range []Part{Topics20, Topics1000, Drain, Backlog, Latency, Topics, Snapshot, FIFO, Receipts, Writer} {
		require.True(t, seen[p], p)
	}
	for _, plan := range rowPlans {
		names := map[string]bool{}
		for _, f := range plan.figures {
			require.False(t, names[f.name], "%s of %s", f.name, plan.part)
			names[f.name] = true
		}
		require.True(t, names[ratioName], plan.part)
		require.NotEmpty(t, plan.ratioOf)
	}
}
