package relay

import (
	"cmp"
	"math"
	"slices"
)

// Gaps are the ids above a final id that a reader has not seen. Ids come in the order of inserts, and
// events in the order of commits. So an event with a lower id may come after one with a higher id, for as
// long as its id is not final.
//
// The number of ranges is bounded. If there are more, neighbours become one range, with the seen ids
// between them. A reader then finds some events again.
//
// The zero value has no gaps. Use NewGaps.
type Gaps struct {
	ranges []IDRange // ascending; between two of them is at least one id
	most   int
}

// NewGaps returns all ids above a final id, as at most most ranges (at least one).
func NewGaps(final int64, most int) *Gaps {
	g := &Gaps{most: max(1, most)}
	if final < math.MaxInt64 {
		g.ranges = []IDRange{{final + 1, math.MaxInt64}}
	}
	return g
}

// Ranges returns the ids that the reader has not seen, ascending. The caller must not change them, and
// the next method may.
func (g *Gaps) Ranges() []IDRange { return g.ranges }

// Saw removes ids that the reader has seen. They ascend, and may be in no gap.
func (g *Gaps) Saw(ids ...int64) {
	if len(ids) == 0 || len(g.ranges) == 0 {
		return
	}
	left := make([]IDRange, 0, len(g.ranges)+min(len(ids), g.most))
	for _, r := range g.ranges {
		for len(ids) > 0 && ids[0] < r.From {
			ids = ids[1:]
		}
		for len(ids) > 0 && ids[0] <= r.To && r.From <= r.To {
			if id := ids[0]; id > r.From {
				left = append(left, IDRange{r.From, id - 1})
			}
			if ids[0] == math.MaxInt64 {
				r = IDRange{1, 0}
			} else {
				r.From = ids[0] + 1
			}
			ids = ids[1:]
			for len(ids) > 0 && ids[0] < r.From {
				ids = ids[1:]
			}
		}
		if r.From <= r.To {
			left = append(left, r)
		}
	}
	g.ranges = left
	g.merge()
}

// Final removes the ids up to a final one. A lower final id than before changes nothing.
func (g *Gaps) Final(id int64) {
	first, found := slices.BinarySearchFunc(g.ranges, id, func(r IDRange, id int64) int { return cmp.Compare(r.To, id) })
	if found {
		first++
	}
	g.ranges = slices.Delete(g.ranges, 0, first)
	if len(g.ranges) > 0 && g.ranges[0].From <= id {
		g.ranges[0].From = id + 1
	}
}

// Again adds all ids above an id: the reader has to see them again.
func (g *Gaps) Again(id int64) {
	if id == math.MaxInt64 {
		return
	}
	first, _ := slices.BinarySearchFunc(g.ranges, id, func(r IDRange, id int64) int { return cmp.Compare(r.To, id) })
	from := id + 1
	if first < len(g.ranges) && g.ranges[first].From <= id {
		from = g.ranges[first].From
	}
	g.ranges = append(g.ranges[:first], IDRange{from, math.MaxInt64})
	g.merge()
}

// Looked removes the ids that a Look for all gaps has answered: those of its events, and those that are
// final in its snapshot. If the answer has More, the ids from the last one on stay: another event may have
// the same id, and later ones were not read.
//
// It reports whether it removed any id. If not, an answer that has More had only events that the reader has
// seen before, between merged ranges. Then ask for more events.
func (g *Gaps) Looked(l Looked) bool {
	before, final := g.size(), l.Final
	var ids []int64
	for _, e := range l.Events {
		ids = append(ids, e.ID)
	}
	if l.More {
		last := int64(math.MinInt64)
		if len(ids) > 0 {
			last = ids[len(ids)-1]
		}
		ids = slices.DeleteFunc(ids, func(id int64) bool { return id == last })
		final = min(final, max(last, math.MinInt64+1)-1)
	}
	g.Saw(ids...)
	g.Final(final)
	return g.size() < before
}

// size is the number of ids in the gaps.
func (g *Gaps) size() (n uint64) {
	for _, r := range g.ranges {
		n += uint64(r.To) - uint64(r.From) + 1 //nolint:gosec // a difference
	}
	return n
}

// merge makes one range of neighbours, those first that have the fewest seen ids between them.
func (g *Gaps) merge() {
	over := len(g.ranges) - g.most
	if over <= 0 {
		return
	}
	between := make([]uint64, len(g.ranges)-1) // ids that a merge would add
	for i := range between {
		between[i] = uint64(g.ranges[i+1].From) - uint64(g.ranges[i].To) //nolint:gosec // a difference
	}
	sorted := slices.Clone(between)
	slices.Sort(sorted)
	limit := sorted[over-1]
	equal := 0 // how many of that width are merged
	for _, width := range sorted[:over] {
		if width == limit {
			equal++
		}
	}
	left := g.ranges[:1]
	for i, width := range between {
		switch next := g.ranges[i+1]; {
		case width < limit || width == limit && equal > 0:
			if width == limit {
				equal--
			}
			left[len(left)-1].To = next.To
		default:
			left = append(left, next)
		}
	}
	g.ranges = left
}
