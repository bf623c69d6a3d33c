package activities

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ofLane returns keys of a topic that are in the lane of another key.
func (w *world) ofLane(topic, key string, n int) (keys []string) {
	lane := w.begin(topic, key).messages[0].Lane
	for i := 0; len(keys) < n; i++ {
		other := fmt.Sprint("other-", i)
		if w.begin(topic, other).messages[0].Lane == lane {
			keys = append(keys, other)
		}
	}
	return keys
}

// pendingOfKey is how many events of a key are pending.
func (w *world) pendingOfKey(topic, key string) (n int) {
	for _, m := range w.pending {
		if m.topic == topic && m.key == topic+"/"+key {
			n++
		}
	}
	return n
}

func TestHotKey_DelaysNoOtherKeyOfItsLane(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = lookEvents
		others := w.ofLane("orders", "hot", 5)
		w.seated(t, "a", Config{})
		for range 3000 {
			w.write("orders", "hot")
		}
		for range 20 {
			for _, key := range others {
				w.write("orders", key)
			}
			require.True(t, w.waitFor(time.Second, func() bool {
				for _, key := range others {
					if w.pendingOfKey("orders", key) > 0 {
						return false
					}
				}
				return true
			}), "others wait for the hot key")
		}
		w.do(func() { require.Greater(t, w.pendingOfKey("orders", "hot"), 1000) })
		w.drained(t, 2*time.Minute)
		require.Zero(t, w.repeats)
	})
}

func TestHotKey_OfABacklogIsPassedOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = lookEvents
		others := w.ofLane("orders", "hot", 3)
		for range 4000 {
			w.write("orders", "hot")
		}
		w.write("orders", others[0])
		w.do(w.round)
		w.seated(t, "a", Config{})
		require.True(t, w.waitFor(5*time.Second, func() bool { return w.pendingOfKey("orders", others[0]) == 0 }))
		var rows int
		w.do(func() { rows = w.rows })
		require.Less(t, rows, 3*4000)
		for range 10 {
			w.write("orders", others[1])
			require.True(t, w.waitFor(time.Second, func() bool { return w.pendingOfKey("orders", others[1]) == 0 }))
		}
		w.do(func() {
			require.Less(t, w.rows-rows, 1500, "rows that were read to find a few events behind the hot key's")
			require.Greater(t, w.pendingOfKey("orders", "hot"), 1000)
		})
		w.drained(t, 5*time.Minute)
	})
}

func TestHotKey_IsForgottenOnceNothingOfItIsLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = lookEvents
		p := w.seated(t, "a", Config{})
		for i := range 4000 {
			w.write(fmt.Sprint("topic-", i%10), fmt.Sprint("key-", i/10%3))
		}
		require.True(t, w.waitFor(time.Second, func() bool { return len(p.hot()) > 0 }))
		w.drained(t, time.Minute)
		require.True(t, w.waitFor(time.Second, func() bool { return len(p.hot()) == 0 }))
	})
}

// hot are the hot keys that a carrier knows.
func (p *process) hot() (keys []string) {
	p.hands.mu.Lock()
	defer p.hands.mu.Unlock()
	for _, t := range p.hands.topics {
		for key := range t.hot {
			keys = append(keys, key)
		}
	}
	if len(keys) != p.hands.hotKeys {
		p.problem("%d hot keys are counted, and there are %d", p.hands.hotKeys, len(keys))
	}
	return keys
}

// testHands returns hands that hold all shares, and know where lanes begin.
func testHands() *hands {
	destination := func(topic string) string { return topic }
	ordered := func(string) bool { return true }
	h := newHands(func(string) string { return "" }, destination, ordered, newBudget(DefaultPayloadBudget), func(string, string) {})
	for n := range h.shares {
		h.shares[n] = &carriedShare{known: true, discovered: true}
	}
	return h
}

func TestHotKey_IsOneOfABoundedNumber(t *testing.T) {
	h := testHands()
	h.keyMost = 1
	most := h.topic("orders")
	for i := range 3 * hotKeysMost {
		key := fmt.Sprint("key-", i)
		ref := relay.Ref{ID: int64(2*i + 1)}
		require.True(t, h.admit(most, key, ref))
		most.countKey(key)
		require.Equal(t, i >= hotKeysMost, h.admit(most, key, relay.Ref{ID: ref.ID + 1}), "further keys are taken as they come")
	}
	require.Len(t, most.hot, hotKeysMost)
	require.Equal(t, hotKeysMost, h.hotKeys)
	h.forgetHot(most, 0)
	require.Zero(t, h.hotKeys)
}

func TestHotKey_HasLessInHandTheLessRoomThereIs(t *testing.T) {
	h := testHands()
	for _, c := range []struct{ events, limit int }{{0, keyMost}, {200, 100}, {600, 50}, {920, 10}, {950, keyLeast}, {carryEvents, keyLeast}} {
		h.events = c.events
		require.Equal(t, c.limit, h.keyLimit(), "with %d events in hand", c.events)
	}
}

func TestHotKey_OfATopicThatIsNotOrderedIsNone(t *testing.T) {
	h := testHands()
	h.ordered = func(string) bool { return false }
	h.keyMost = 1
	var events []relay.Event
	for id := range int64(100) {
		ref := relay.Ref{ID: id + 1}
		require.True(t, h.take(relay.Narrow{Topic: "orders", Ref: ref, Bytes: 1}, time.Time{}, "", false))
		events = append(events, relay.Event{Ref: ref, Key: "k"})
	}
	require.Len(t, h.sift(h.topics["orders"], nil, events), 100)
	require.Zero(t, h.hotKeys)
}

// queued takes events of one lane, whose contents are still to be loaded.
func (h *hands) queued(t *testing.T, events ...relay.Event) {
	t.Helper()
	for _, e := range events {
		n := relay.Narrow{Topic: "orders", Ref: e.Ref, Bytes: 1}
		require.True(t, h.take(n, time.Time{}, e.Key, e.Key != ""))
		h.enqueue([]relay.Narrow{n})
	}
}

// loaded hands over all events that are to be loaded now, and returns the ids of those that are sent.
func (h *hands) loaded(l load, key string) (sent []int64) {
	var events []relay.Event
	for _, e := range l.events {
		events = append(events, relay.Event{Ref: e.Ref, Key: key})
	}
	for _, e := range h.canAdd("orders", l.epochs["orders"], events) {
		sent = append(sent, e.ID)
	}
	return sent
}

func unknownKey(id int64) relay.Event { return relay.Event{Ref: relay.Ref{ID: id}} }

func knownKey(id int64) relay.Event { return relay.Event{Ref: relay.Ref{ID: id}, Key: "k"} }

func TestHotKey_IsLeftWithWhatIsInTheQueueBehindIt(t *testing.T) {
	h := testHands()
	h.keyMost, h.final = 3, 100
	h.queued(t, knownKey(1), knownKey(2), unknownKey(3), unknownKey(4))
	first := h.toLoad()
	h.queued(t, knownKey(5))
	second := h.toLoad()
	h.queued(t, knownKey(6))
	require.Equal(t, []int64{1, 2}, h.loaded(first, "k"), "1, 2, 5 and 6 are as many as may be in hand")
	require.Equal(t, int64(2), h.topics["orders"].hot["k"].after)
	require.Empty(t, h.loaded(second, "k"), "3 comes before 5")
	require.Empty(t, h.toLoad().events)
	require.Equal(t, 2, h.events)
	require.Equal(t, 2, h.topics["orders"].keys["k"])
}

func TestHotKey_IsNotReadWhileOneOfItsEventsMayBeInTheQueue(t *testing.T) {
	h := testHands()
	h.keyMost, h.final = 1, 100
	h.queued(t, unknownKey(1), unknownKey(2))
	require.Equal(t, []int64{1}, h.loaded(h.toLoad(), "k"))
	h.queued(t, unknownKey(3))
	h.answered("orders", []relay.Outcome{{Ref: relay.Ref{ID: 1}}})
	require.Empty(t, h.plan("", 0).hot, "3 would be sent before 2")
	require.Empty(t, h.loaded(h.toLoad(), "k"))
	p := h.plan("", 0)
	require.Len(t, p.hot, 1)
	require.Equal(t, int64(1), p.hot[0].cursor.After)

	h.queued(t, unknownKey(4)) // since the plan
	pages := relay.Pages{Held: []int16{0}, Final: 100, Events: []relay.Narrow{
		{Topic: "orders", Ref: relay.Ref{ID: 2}, Content: &relay.Event{Key: "k"}},
	}}
	r := h.beginRead()
	require.False(t, h.hotPaged(r, p, pages, nil, time.Now()))
	require.Empty(t, h.loaded(h.toLoad(), "k"))
	require.True(t, h.hotPaged(r, p, pages, nil, time.Now()))
	require.Equal(t, []int64{2}, h.loaded(h.toLoad(), "k"))
}

// leftOne makes a key hot of which event 1 is sent, event 2 is left, and event 3 is in the queue: its key is not
// known yet.
func leftOne(t *testing.T) *hands {
	t.Helper()
	h := testHands()
	h.keyMost, h.final = 1, 100
	h.queued(t, unknownKey(1), unknownKey(2))
	require.Equal(t, []int64{1}, h.loaded(h.toLoad(), "k"))
	h.queued(t, unknownKey(3))
	h.answered("orders", []relay.Outcome{{Ref: relay.Ref{ID: 1}}})
	return h
}

// An event that the store does not find has no key for it, but its content may come with one: its row has moved.
func TestHotKey_IsNotOvertakenByAnEventThatWasNotFound(t *testing.T) {
	h := testHands()
	h.keyMost, h.final = 1, 100
	h.queued(t, unknownKey(1), unknownKey(2))
	require.Equal(t, []int64{1}, h.loaded(h.toLoad(), "k"), "2 is left")
	ref := relay.Ref{ID: 3}
	found := relay.Looked{Held: []int16{0}, Final: 100, Events: []relay.Found{{Ref: ref, Topic: "orders", Bytes: 1, Pending: true}}}
	h.looked(h.beginRead(), h.plan("", 0), found, keys{ref: ""}, time.Now())
	require.Empty(t, h.loaded(h.toLoad(), "k"), "3 would be sent before 2")
}

func TestHotKey_IsNotOvertakenAfterAnotherHistoryOfTheDatabase(t *testing.T) {
	h := leftOne(t)
	loading := h.toLoad()
	h.queued(t, unknownKey(4))
	h.forgetHistory()
	require.Empty(t, h.loaded(loading, "k"), "3 would be sent before 2")
	require.Empty(t, h.toLoad().events)
	require.Equal(t, 1, h.events, "1 is to be settled")
}

func TestHotKey_IsNotOvertakenWhileAllSharesLeave(t *testing.T) {
	h := leftOne(t)
	r := carrierReader{hands: h, unsent: func() int { return 0 }, gaps: relay.NewGaps(h.final, gapsMost)}
	h.leaveShares(h.held(), false)
	_, err := r.turn(t.Context())
	require.NoError(t, err)
	require.Empty(t, h.loaded(h.toLoad(), "k"), "3 would be sent before 2")
}

func TestHotKey_IsNotOvertakenInALaneThatAnOperationNeeds(t *testing.T) {
	h := leftOne(t)
	at := relay.TopicLane{Topic: "orders"}
	h.know([]int16{0}, []relay.LaneException{{TopicLane: at, Reserved: true}})
	require.Empty(t, h.loaded(h.toLoad(), "k"), "3 would be sent before 2")
	require.Empty(t, h.plan("", 0).hot, "nothing is read of a lane that leaves")
	h.settled(h.toSettle())
	lanes, _ := h.toSetApart()
	require.Equal(t, []relay.TopicLane{at}, lanes)
	h.areApart(lanes)
	require.Zero(t, h.hotKeys)
}

// The load goes on while the share of the lane is lost and taken again.
func TestHotKey_IsNotSentFromALoadInWhichItWasLeft(t *testing.T) {
	h := testHands()
	h.keyMost, h.final = 2, 100
	other := relay.Ref{ID: 9, Lane: 1}
	h.queued(t, unknownKey(1), unknownKey(2), relay.Event{Ref: other, Key: "other"})
	first := h.toLoad()
	h.queued(t, knownKey(3))
	second := h.toLoad()
	require.Equal(t, []int64{1, 9}, h.loaded(first, "k"), "1 and 3 are as many as may be in hand")
	h.answered("orders", []relay.Outcome{{Ref: relay.Ref{ID: 1}}})
	h.settled(h.toSettle())
	h.answered("orders", []relay.Outcome{{Ref: other}})

	h.attended([]int16{0}, relay.Shares{})
	h.took(0, time.Now())
	h.know([]int16{0}, nil)
	h.queued(t, unknownKey(2), unknownKey(3))
	require.Empty(t, h.loaded(second, "k"), "3 would be sent before 2")
	require.Equal(t, []int64{2, 3}, h.loaded(h.toLoad(), "k"))
}

func TestHotKey_IsReadAgainFromAnEventThatCouldNotBeLoaded(t *testing.T) {
	for name, e := range map[string]relay.Event{"known": knownKey(2), "not known": unknownKey(2)} {
		t.Run(name, func(t *testing.T) {
			h := testHands()
			h.keyMost, h.final = 1, 100
			h.queued(t, e)
			require.True(t, h.admit(h.topics["orders"], "other", relay.Ref{ID: 3}))
			h.topics["orders"].hot = map[string]*hotKey{"k": {after: 7}}
			h.hotKeys++
			h.unread()
			require.Equal(t, int64(1), h.topics["orders"].hot["k"].after)
			require.Empty(t, h.topics["orders"].keys)
			require.Zero(t, h.events)
		})
	}
}

func TestHotKey_IsNotPassedByAPageWithAnEventWhoseKeyIsNotKnown(t *testing.T) {
	h := testHands()
	h.keyMost, h.final = 1, 100
	h.queued(t, unknownKey(1), unknownKey(2))
	require.Equal(t, []int64{1}, h.loaded(h.toLoad(), "k"))
	h.answered("orders", []relay.Outcome{{Ref: relay.Ref{ID: 1}}})
	p := h.plan("", 0)
	pages := relay.Pages{Held: []int16{0}, Final: 100, Events: []relay.Narrow{{Topic: "orders", Ref: relay.Ref{ID: 2}}}}
	require.False(t, h.hotPaged(h.beginRead(), p, pages, nil, time.Now()))
	require.Equal(t, int64(1), h.topics["orders"].hot["k"].after)
}
