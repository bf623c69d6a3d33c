package activities

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// backlogOf returns hands with one topic, of which a lane is read from the beginning.
func backlogOf(topic string, lane int16) *hands {
	destination := func(topic string) string { return topic }
	ordered := func(string) bool { return false }
	h := newHands(func(string) string { return "" }, destination, ordered, newBudget(DefaultPayloadBudget), func(string, string) {})
	h.took(lane, time.Now())
	h.know([]int16{lane}, nil)
	h.shares[lane].discovered = true
	h.putBack(topic, relay.Ref{ID: 1, Lane: lane}, math.MaxInt64)
	return h
}

// readPlanned answers a plan with the events that its cursors ask for, of endless lanes.
func readPlanned(h *hands, p readPlan) (asked int, taken []relay.Narrow) {
	pages := relay.Pages{Final: math.MaxInt64, At: time.Now(), Held: p.open}
	for _, c := range p.pages {
		pages.Full = append(pages.Full, c.cursor.TopicLane)
		for n := range c.cursor.Most {
			ref := relay.Ref{ID: c.cursor.After + 1 + int64(n), Lane: c.cursor.Lane}
			if c.cursor.Seen > 0 {
				ref.ID++
			}
			pages.Events = append(pages.Events, relay.Narrow{Topic: c.cursor.Topic, Ref: ref, Bytes: 100})
		}
	}
	r := h.beginRead()
	defer h.endRead(r)
	h.paged(r, p, pages, nil, time.Now())
	for l := h.toLoad(); len(l.events) > 0; l = h.toLoad() {
		taken = append(taken, l.events...)
	}
	return len(pages.Events), taken
}

func TestHands_TakeAllEventsOfThePagesThatTheyPlan(t *testing.T) {
	h := backlogOf("orders", 3)
	read, inHand := int64(0), []relay.Ref{}
	for range 50 {
		p := h.plan("", 0)
		if len(p.pages) > 0 {
			asked, taken := readPlanned(h, p)
			require.Len(t, taken, asked, "with %d events in hand before", len(inHand))
			for _, e := range taken {
				require.Equal(t, read+1, e.Ref.ID, "each event once, and none is left out")
				read, inHand = e.Ref.ID, append(inHand, e.Ref)
			}
		}
		h.settled([]relay.TopicRefs{{Topic: "orders", Refs: slices.Clone(inHand[:min(30, len(inHand))])}})
		inHand = inHand[min(30, len(inHand)):]
	}
	require.Greater(t, read, int64(carryEvents), "it went on")
}

func TestHands_WaitForALargerPageWhileTheSenderHasEnough(t *testing.T) {
	h := backlogOf("orders", 3)
	var taken []relay.Narrow
	for p := h.plan("", 0); len(p.pages) > 0; p = h.plan("", 0) {
		_, more := readPlanned(h, p)
		taken = append(taken, more...)
	}
	settle := func(n int) {
		var refs []relay.Ref
		for _, e := range taken[:n] {
			refs = append(refs, e.Ref)
		}
		taken = taken[n:]
		h.settled([]relay.TopicRefs{{Topic: "orders", Refs: refs}})
	}
	settle(carryPortion / 2)
	require.Empty(t, h.plan("", carryUnsent).pages)
	require.NotEmpty(t, h.plan("", carryUnsent-1).pages)
	settle(carryPortion / 2)
	require.NotEmpty(t, h.plan("", carryUnsent).pages)
}

// It is not in hand any more.
func TestHands_ReadAnEventAgainThatWasPutBack(t *testing.T) {
	h := backlogOf("orders", 3)
	_, taken := readPlanned(h, h.plan("", 0))
	last := taken[len(taken)-1]
	lane := h.topics["orders"].lanes[3]
	require.Equal(t, carriedLane{mode: backlog, after: last.Ref.ID - 1, seen: 1}, *lane, "it is in hand")
	h.canAdd("orders", h.topics["orders"].epoch, make([]relay.Event, len(taken)-1))
	h.unread() // the last one
	h.settled([]relay.TopicRefs{{Topic: "orders", Refs: refsOf(taken[:len(taken)-1])}})
	require.True(t, h.plan("", 0).pages[0].cursor.Covers(last.Ref))
}

func refsOf(events []relay.Narrow) (refs []relay.Ref) {
	for _, e := range events {
		refs = append(refs, e.Ref)
	}
	return refs
}

func TestHands_AskForAsManyMoreAsAReadFindsAgain(t *testing.T) {
	h := backlogOf("orders", 3)
	h.took(5, time.Now())
	h.know([]int16{5}, nil)
	h.shares[5].discovered = true
	h.putBack("orders", relay.Ref{ID: 1, Lane: 5}, math.MaxInt64)
	wanted := func() (most map[int16]int) {
		most = make(map[int16]int)
		for _, page := range h.plan("", 0).pages {
			most[page.cursor.Lane] = page.cursor.Most
		}
		return most
	}
	empty := wanted()
	require.Len(t, empty, 2)
	for id := range int64(30) {
		require.True(t, h.take(relay.Narrow{Topic: "orders", Ref: relay.Ref{ID: id - 9, Lane: 3}}, time.Now(), "", false))
	}
	require.True(t, h.take(relay.Narrow{Topic: "orders", Ref: relay.Ref{ID: 4, Lane: 7}}, time.Now(), "", false), "a lane without a page")
	require.True(t, h.take(relay.Narrow{Topic: "others", Ref: relay.Ref{ID: 4, Lane: 5}}, time.Now(), "", false), "another topic")
	most := wanted()
	require.Equal(t, 20, most[3]-most[5], "of the 30 events, the read begins behind 10")
}
