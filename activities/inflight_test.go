package activities

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// flying has the lanes 1 and 2 of the topic orders, with so many events in hand.
func flying(events int, payload string) *inFlight {
	f := newInFlight(newBudget(DefaultPayloadBudget))
	f.begin(relay.Lease{Topic: "orders", LowID: map[int16]int64{1: 5, 2: 5}}, checkpoint{Published: 40, Throttled: 2, Unsettled: refs(1, 2)}, false)
	f.loaded("orders", page(events, payload), time.Now())
	f.readOn("orders", page(events, payload))
	return f
}

// refs are those of the events with these ids, in the lanes 1 and 2 in turn.
func refs(from, n int) (refs []relay.Ref) {
	for i := range n {
		refs = append(refs, relay.Ref{ID: int64(from + i), Lane: int16(1 + i%2), At: 1})
	}
	return refs
}

func page(events int, payload string) (p relay.Page) {
	for _, ref := range refs(10, events) {
		p.Events = append(p.Events, relay.Event{Ref: ref, Payload: payload, Bytes: int64(len(payload))})
	}
	return p
}

func outcomes(err *relay.PublishError, refs []relay.Ref) (all []relay.Outcome) {
	for _, ref := range refs {
		all = append(all, relay.Outcome{Ref: ref, Err: err})
	}
	return all
}

func TestInFlight_KeepsAnAcknowledgementInTheCheckpointUntilItIsSettled(t *testing.T) {
	f := flying(4, "x")
	require.Equal(t, checkpoint{Published: 40, Throttled: 2}, f.checkpoint("orders"), "the attempt settles what it was left before")
	f.answered("orders", outcomes(nil, refs(10, 2)))
	want := checkpoint{Published: 42, Throttled: 2, Unsettled: refs(10, 2)}
	require.Equal(t, want, f.checkpoint("orders"))
	require.Equal(t, []acknowledgements{{"orders", refs(10, 2)}}, f.next())
	require.Equal(t, want, f.checkpoint("orders"), "the settlement is under way")
	f.answered("orders", outcomes(nil, refs(12, 1)))
	f.settled("orders")
	want.Published, want.Unsettled = 43, []relay.Ref{{ID: 12, Lane: 1, At: 1}}
	require.Equal(t, want, f.checkpoint("orders"))
	require.Len(t, f.inHand("orders"), 2)
}

func TestInFlight_SettlesNoRefusedEvent(t *testing.T) {
	f := flying(2, "x")
	f.answered("orders", outcomes(poison("X"), refs(10, 2)))
	require.Empty(t, f.next())
	require.Len(t, f.inHand("orders"), 2)
	f.deadLettered("orders", outcomes(poison("X"), refs(10, 2)))
	require.Empty(t, f.inHand("orders"))
	require.Equal(t, 2, f.checkpoint("orders").Dead)
}

func TestInFlight_BelievesARefusalBesideAnAcceptedEvent(t *testing.T) {
	f := flying(8, "x")
	f.answered("orders", slices.Concat(outcomes(ambiguousPoison(), refs(10, 3)), outcomes(nil, refs(13, 1))))
	f.answered("orders", outcomes(ambiguousPoison(), refs(14, 2)))
	f.answered("orders", slices.Concat(outcomes(failsAlone, refs(16, 1)), outcomes(nil, refs(17, 1))))
	refused := f.state("orders").refused
	require.Equal(t, ids(10, 3), idsOf(refused.poison), "the destination has told them apart from another event")
	require.Equal(t, ids(14, 2), idsOf(refused.ambiguous))
	require.Equal(t, ids(16, 1), idsOf(refused.alone), "its code asks for a retry")
}

func TestInFlight_HasRoomWhileHalfAPageOrLessIsInHand(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		events  int
		payload string
		room    bool
	}{
		"half a page of events": {relay.PageEvents - loadEvents, "x", true},
		"more events":           {relay.PageEvents - loadEvents + 1, "x", false},
		"half a page of bytes":  {4, string(make([]byte, relay.PageBytes/8)), true},
		"more bytes":            {5, string(make([]byte, relay.PageBytes/8)), true}, // for these, there is the budget
		"nothing":               {0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := flying(c.events, c.payload)
			require.False(t, f.room(over, "orders"), "whose time is over")
			if !c.room {
				go func() {
					f.answered("orders", outcomes(nil, refs(10, c.events)))
					f.next()
					f.settled("orders")
				}()
			}
			require.True(t, f.room(t.Context(), "orders"))
			require.Equal(t, c.room, len(f.inHand("orders")) == c.events, "it waits for a settlement")
			f.screenedOut("orders", outcomes(poison("X"), refs(10, 1)))
			require.False(t, f.room(t.Context(), "orders"), "the next attempt loads")
		})
	}
}

func TestInFlight_ReleasesNoLaneAboveAnEventInHand(t *testing.T) {
	f := flying(4, "x")
	f.answered("orders", outcomes(nil, refs(10, 1)))
	f.next()
	f.settled("orders")
	require.Equal(t, relay.Read{Next: map[int16]int64{1: 12, 2: 11}, Last: refs(10, 4)[3]}, f.lowWatermarks("orders"))
	require.Equal(t, map[int16]int64{1: 13, 2: 14}, f.read("orders").Next)
	require.Equal(t, []int16{1, 2}, f.lanes("orders"))
}

func TestInFlight_GivesBorrowedLanesBackAsTheyWere(t *testing.T) {
	f := flying(2, "x")
	f.borrow("orders", map[int16]int64{7: 3})
	require.Equal(t, []int16{1, 2, 7}, f.lanes("orders"))
	f.loaded("orders", relay.Page{Events: []relay.Event{{Ref: relay.Ref{ID: 99, Lane: 7}}, {Ref: relay.Ref{ID: 98, Lane: 1}}}}, time.Now())
	require.Equal(t, map[int16]int64{1: 11, 2: 12, 7: 3}, f.read("orders").Next, "what is before them was not loaded")
	require.Equal(t, map[int16]int64{7: 3}, f.giveBack("orders"))
	require.Equal(t, []int16{1, 2}, f.lanes("orders"))
	require.Len(t, f.inHand("orders"), 3)
	require.Equal(t, 3, f.state("orders").loaded)
	require.Empty(t, f.giveBack("orders"))
}

func TestInFlight_KeepsTopicsApart(t *testing.T) {
	f := flying(2, "x")
	f.begin(relay.Lease{Topic: "audit", LowID: map[int16]int64{1: 1}}, checkpoint{Published: 7}, false)
	f.loaded("audit", page(1, "x"), time.Now())
	f.answered("audit", outcomes(nil, refs(10, 1)))
	f.screenedOut("audit", outcomes(poison("X"), refs(11, 1)))
	require.Equal(t, checkpoint{Published: 8, Unsettled: refs(10, 1)}, f.checkpoint("audit"))
	require.Equal(t, checkpoint{Published: 40, Throttled: 2}, f.checkpoint("orders"))
	require.True(t, f.room(t.Context(), "orders"))
	require.Len(t, f.inHand("orders"), 2)
}
