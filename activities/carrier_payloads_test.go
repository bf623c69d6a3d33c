package activities

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// writeLarge commits so many events of a size, each with a key of its own.
func (w *world) writeLarge(topic string, n int, bytes int64) {
	for i := range n {
		tx := w.begin(topic, fmt.Sprint("key-", i))
		tx.messages[0].bytes = bytes
		w.commit(tx)
	}
}

// The events of a budget are those between their load and their answer.
func TestCarrierPayloads_StayWithinTheBudgetOfTheProcess(t *testing.T) {
	for _, budget := range []int64{1, 3 << 20, DefaultPayloadBudget} {
		inWorld(t, func(t *testing.T, w *world) {
			const size = 200 << 10
			for _, topic := range []string{"one", "two", "three", "four"} {
				w.writeLarge(topic, 100, size)
			}
			p := w.seated(t, "a", Config{PayloadBudget: budget})
			most := int64(0)
			require.True(t, w.waitFor(time.Minute, func() bool {
				p.acts.budget.mu.Lock()
				defer p.acts.budget.mu.Unlock()
				most = max(most, p.acts.budget.held)
				return len(w.pending) == 0 && p.acts.budget.batches == 0
			}), "also if one event is larger than the budget")
			require.Positive(t, most)
			require.LessOrEqual(t, most, budget+payloadCopies*size)
			p.acts.budget.mu.Lock()
			defer p.acts.budget.mu.Unlock()
			require.Zero(t, p.acts.budget.held)
			require.Empty(t, p.acts.budget.waiting)
		})
	}
}

func TestCarrierPayloads_WaitWhileBatchesHaveTheBudget(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.seated(t, "a", Config{PayloadBudget: 1000})
		batch := p.acts.budget.join("batch")
		require.Equal(t, 1, batch.ask(2000))
		w.writeLarge("orders", 10, 100)
		time.Sleep(5 * time.Second)
		w.do(func() { require.Len(t, w.pending, 10) })
		batch.leave()
		w.drained(t, time.Second)
	})
}

func TestCarrierPayloads_OfADestinationThatHangsLeaveOthersTheBudget(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{PayloadBudget: 3 << 20})
		w.do(func() { w.hanging["hanging"] = time.Now().Add(20 * time.Second) })
		w.writeLarge("hanging", 100, 200<<10)
		time.Sleep(time.Second)
		w.writeLarge("good", 100, 200<<10)
		require.True(t, w.waitFor(5*time.Second, func() bool { return w.waiting("good") == 0 }))
		w.do(func() { require.Equal(t, 100, w.waiting("hanging")) })
	})
}

func TestCarrierPayloads_AreReadAgainInOrderIfALoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		p := w.seated(t, "a", Config{PayloadBudget: 3 << 20})
		fails := 0
		w.do(func() {
			w.onCall = func(_, port string) error {
				if port == "Contents" && fails < 5 {
					fails++
					return errors.New("the connection broke")
				}
				return nil
			}
		})
		for i := range 200 {
			tx := w.begin("orders", fmt.Sprint("key-", i%3))
			tx.messages[0].bytes = 50 << 10
			w.commit(tx)
		}
		w.drained(t, time.Minute)
		require.Equal(t, 5, fails)
		require.Zero(t, w.repeats)
		p.end()
		w.ok(t)
		require.Zero(t, p.acts.budget.held)
	})
}

func TestCarrierPayloads_AreLoadedInTheOrderInWhichTheyWereRead(t *testing.T) {
	alone := func(string) string { return "" }
	h := newHands(alone, alone, func(string) bool { return false }, newBudget(1<<30), func(string, string) {})
	h.took(0, time.Time{})
	h.know([]int16{0}, nil)
	var refs []relay.Ref
	h.mu.Lock()
	for id := range int64(600) {
		e := relay.Narrow{Topic: "orders", Ref: relay.Ref{ID: id + 1}, Bytes: 100 << 10}
		require.True(t, h.take(e, time.Time{}, "", false))
		h.enqueue([]relay.Narrow{e})
		refs = append(refs, e.Ref)
	}
	h.mu.Unlock()
	var loaded []relay.Ref
	for len(loaded) < len(refs) {
		l := h.toLoad()
		require.NotEmpty(t, l.events)
		require.LessOrEqual(t, len(l.events), contentBytes/(100<<10)+1)
		for _, e := range l.events {
			loaded = append(loaded, e.Ref)
		}
	}
	require.Equal(t, refs, loaded)
	require.Empty(t, h.toLoad().events)
}

func TestBudgetPoll_RemembersTheQuestionUntilItIsAnsweredOrWithdrawn(t *testing.T) {
	b := newBudget(100)
	holder, a := b.join("holder"), b.join("a")
	require.Equal(t, 1, holder.ask(101))
	wake := make(chan struct{}, 1)
	require.Zero(t, a.poll([]int64{10, 10, 100}, wake))
	require.Zero(t, a.poll([]int64{10, 10, 100}, wake))
	require.Empty(t, wake)
	holder.give(101)
	require.Len(t, wake, 1)
	require.Equal(t, 2, a.poll(nil, wake), "the answer to the first question")
	require.Equal(t, int64(20), b.held)
	require.Zero(t, a.poll([]int64{90}, wake))
	a.withdraw()
	require.Empty(t, b.waiting)
	require.Equal(t, 1, holder.ask(50))
	require.Zero(t, a.poll(slices.Repeat([]int64{30}, 2), wake))
	holder.give(50) // answered, and not polled
	require.Equal(t, int64(50), b.held)
	a.withdraw()
	require.Equal(t, int64(20), b.held)
	a.leave()
	a.withdraw()
	require.Zero(t, a.poll([]int64{1}, wake))
	require.Zero(t, b.held)
	require.Empty(t, b.waiting)
}
