package relay

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// gapModel is the same as a set of small ids. Above highest, no id was seen.
type gapModel struct {
	unseen  map[int64]bool // up to highest
	highest int64
}

const modelIDs = 64

func newGapModel(final int64) gapModel {
	m := gapModel{unseen: map[int64]bool{}, highest: modelIDs}
	for id := final + 1; id <= modelIDs; id++ {
		m.unseen[id] = true
	}
	return m
}

func within(ranges []IDRange, id int64) bool {
	return slices.ContainsFunc(ranges, func(r IDRange) bool { return r.From <= id && id <= r.To })
}

// checkGaps requires that the gaps have every unseen id, are in order and apart, and are no more than
// allowed.
func checkGaps(t *testing.T, g *Gaps, m gapModel, most int) {
	t.Helper()
	ranges := g.Ranges()
	require.LessOrEqual(t, len(ranges), most)
	for i, r := range ranges {
		require.LessOrEqual(t, r.From, r.To)
		if i > 0 {
			require.Less(t, ranges[i-1].To, r.From-1, "neighbours are one range: %v", ranges)
		}
	}
	for id := int64(-2); id <= modelIDs+2; id++ {
		if m.unseen[id] || id > m.highest {
			require.True(t, within(ranges, id), "%d is forgotten: %v", id, ranges)
		}
	}
}

func TestGaps_AreTheIDsThatWereNotSeen(t *testing.T) {
	g := NewGaps(10, 100)
	require.Equal(t, []IDRange{{11, math.MaxInt64}}, g.Ranges())
	g.Saw(12, 13, 15)
	require.Equal(t, []IDRange{{11, 11}, {14, 14}, {16, math.MaxInt64}}, g.Ranges())
	g.Saw(3, 12, 14) // seen before, or final
	require.Equal(t, []IDRange{{11, 11}, {16, math.MaxInt64}}, g.Ranges())
	g.Final(13)
	require.Equal(t, []IDRange{{16, math.MaxInt64}}, g.Ranges())
	g.Final(20)
	require.Equal(t, []IDRange{{21, math.MaxInt64}}, g.Ranges())
	g.Final(5) // of an older snapshot
	require.Equal(t, []IDRange{{21, math.MaxInt64}}, g.Ranges())
	g.Saw(21, 21, 22) // an id that two events have
	require.Equal(t, []IDRange{{23, math.MaxInt64}}, g.Ranges())
	g.Saw(math.MaxInt64)
	require.Equal(t, []IDRange{{23, math.MaxInt64 - 1}}, g.Ranges())
	g.Final(math.MaxInt64)
	require.Empty(t, g.Ranges())
	require.Empty(t, NewGaps(math.MaxInt64, 1).Ranges())
	require.Equal(t, []IDRange{{math.MinInt64 + 1, math.MaxInt64}}, NewGaps(math.MinInt64, 1).Ranges())
}

func TestGaps_MergeThoseWithTheFewestSeenIDsBetween(t *testing.T) {
	g := NewGaps(0, 3)
	g.Saw(2, 3, 4, 6, 8, 9)
	require.Equal(t, []IDRange{{1, 1}, {5, 7}, {10, math.MaxInt64}}, g.Ranges())
	g = NewGaps(0, 1)
	g.Saw(2, 4)
	require.Equal(t, []IDRange{{1, math.MaxInt64}}, g.Ranges())
	g.Final(2)
	require.Equal(t, []IDRange{{3, math.MaxInt64}}, g.Ranges())
}

func found(ids ...int64) (all []Found) {
	for _, id := range ids {
		all = append(all, Found{Ref: Ref{ID: id}})
	}
	return all
}

func TestGaps_AreLessByTheAnswerOfALook(t *testing.T) {
	for name, c := range map[string]struct {
		answer Looked
		left   []IDRange
	}{
		"nothing":              {Looked{Final: 10}, []IDRange{{11, math.MaxInt64}}},
		"events":               {Looked{Final: 10, Events: found(12, 14)}, []IDRange{{11, 11}, {13, 13}, {15, math.MaxInt64}}},
		"final ones":           {Looked{Final: 13, Events: found(12, 15)}, []IDRange{{14, 14}, {16, math.MaxInt64}}},
		"an older final one":   {Looked{Final: 3, Events: found(11)}, []IDRange{{12, math.MaxInt64}}},
		"cut":                  {Looked{Final: 30, Events: found(12, 14), More: true}, []IDRange{{14, math.MaxInt64}}},
		"cut above the final":  {Looked{Final: 10, Events: found(12, 14), More: true}, []IDRange{{11, 11}, {13, math.MaxInt64}}},
		"cut within an id":     {Looked{Final: 30, Events: found(14, 14), More: true}, []IDRange{{14, math.MaxInt64}}},
		"cut before the first": {Looked{Final: 30, More: true}, []IDRange{{11, math.MaxInt64}}},
	} {
		g := NewGaps(10, 100)
		before := slices.Clone(g.Ranges())
		require.Equal(t, !slices.Equal(before, c.left), g.Looked(c.answer), name)
		require.Equal(t, c.left, g.Ranges(), name)
	}
}

func TestGaps_ForgetNoIDInAnyOrder(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		most := 1 + random.IntN(8)
		runGaps(t, most, func() (byte, bool) { return byte(random.IntN(256)), random.IntN(60) > 0 })
	}
}

func FuzzGaps_ForgetNoID(f *testing.F) {
	f.Add(byte(3), []byte{5, 200, 9, 14, 130, 22})
	f.Fuzz(func(t *testing.T, most byte, steps []byte) {
		runGaps(t, 1+int(most%16), func() (byte, bool) {
			if len(steps) == 0 {
				return 0, false
			}
			b := steps[0]
			steps = steps[1:]
			return b, true
		})
	})
}

// runGaps does the same to gaps and to their model, as bytes say.
func runGaps(t *testing.T, most int, next func() (byte, bool)) {
	t.Helper()
	g, m := NewGaps(0, most), newGapModel(0)
	for b, ok := next(); ok; b, ok = next() {
		if id := int64(b % modelIDs); b < 40 {
			g.Final(id)
			for below := range id + 1 {
				delete(m.unseen, below)
			}
		} else {
			ids := []int64{id}
			for n := b / 64; n > 0; n-- {
				more, _ := next()
				ids = append(ids, int64(more%(modelIDs+1)))
			}
			slices.Sort(ids)
			g.Saw(ids...)
			for _, id := range ids {
				delete(m.unseen, id)
			}
		}
		checkGaps(t, g, m, most)
	}
}

// Without a bound that matters, the gaps are exact: no seen id is among them.
func TestGaps_AreExactBelowTheirBound(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	g, m := NewGaps(0, modelIDs+1), newGapModel(0)
	for range 5000 {
		id := 1 + random.Int64N(modelIDs)
		g.Saw(id)
		delete(m.unseen, id)
		for id := range int64(modelIDs + 1) {
			require.Equal(t, m.unseen[id], within(g.Ranges(), id))
		}
		if len(m.unseen) == 0 {
			g, m = NewGaps(0, modelIDs+1), newGapModel(0)
		}
	}
}

func TestGaps_HaveTheIDsAboveOneAgain(t *testing.T) {
	random := rand.New(rand.NewPCG(8, 8))
	g, m := NewGaps(0, 20), newGapModel(0)
	for range 3000 {
		id := 1 + random.Int64N(modelIDs)
		if random.IntN(10) == 0 {
			g.Again(id)
			for id++; id <= modelIDs; id++ {
				m.unseen[id] = true
			}
		} else {
			g.Saw(id)
			delete(m.unseen, id)
		}
		checkGaps(t, g, m, 20)
	}
	g.Again(math.MaxInt64)
	checkGaps(t, g, m, 20)
	g = NewGaps(math.MaxInt64, 20)
	g.Again(5)
	require.Equal(t, []IDRange{{6, math.MaxInt64}}, g.Ranges())
}
