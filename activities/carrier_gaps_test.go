package activities

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// Of each hundred inserts, one is rolled back, and a transaction stays open: no id becomes final.
func TestGapsMost_LetsALookReadLittleAgainWhileATransactionStaysOpen(t *testing.T) {
	g := relay.NewGaps(0, gapsMost)
	const last = 500_000
	var ids []int64
	for id := int64(2); id <= last; id++ {
		if id%100 != 0 {
			ids = append(ids, id)
		}
	}
	for page := range slices.Chunk(ids, lookEvents) {
		g.Saw(page...)
	}
	again := int64(0)
	for _, r := range g.Ranges() {
		again += min(r.To, last) - r.From + 1
	}
	require.LessOrEqual(t, again, int64(last/100+2), "ids that a look reads, with those that were rolled back")
}
