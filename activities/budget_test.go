package activities

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/relay"
)

// ask takes without waiting: it returns 0 if it would have to.
func (a *allowance) ask(costs ...int64) int {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	n, _ := a.take(over, costs)
	return n
}

func TestBudget_GivesATopicThreeQuartersIfItIsAlone(t *testing.T) {
	b := newBudget(100)
	a := b.join("orders")
	require.Equal(t, 75, a.ask(slices.Repeat([]int64{1}, 200)...))
	require.Zero(t, a.ask(slices.Repeat([]int64{1}, 200)...))
	other := b.join("audit")
	require.Equal(t, 18, other.ask(slices.Repeat([]int64{1}, 200)...), "three quarters of the rest, as long as the first gives nothing back")
	a.give(75)
	require.Equal(t, 61, a.ask(slices.Repeat([]int64{1}, 200)...), "and then as much as three times the free part")
	a.leave()
	other.leave()
	require.Zero(t, b.held)
	require.Empty(t, b.topics)
}

func TestBudget_GivesATopicThatHoldsNothingOneEventOfAnySize(t *testing.T) {
	b := newBudget(100)
	first, second, third := b.join("a"), b.join("b"), b.join("c")
	require.Equal(t, 1, first.ask(500, 500), "no destination accepts so much, and it has to become a dead letter")
	require.Zero(t, second.ask(1), "the budget is overdrawn")
	first.give(500)
	require.Equal(t, 1, second.ask(100, 1))
	require.Equal(t, 1, third.ask(40, 1))
	require.Zero(t, first.ask(1))
	third.give(40)
	require.Equal(t, 1, first.ask(1, 1))
}

func TestBudget_LetsABatchTakeNoFewEventsOfManyAtATime(t *testing.T) {
	b := newBudget(1000)
	a := b.join("orders")
	page := slices.Repeat([]int64{10}, 200)
	require.Equal(t, 75, a.ask(page...))
	a.give(100)
	require.Zero(t, a.ask(page...), "a statement would load ten")
	a.give(150)
	require.Equal(t, 25, a.ask(page...))
	a.give(30)
	require.Equal(t, 2, a.ask(10, 10), "it has no more")
	a.give(720)
	require.Positive(t, a.ask(page...))
}

func TestBudget_CountsNothingForWhatIsNotLoaded(t *testing.T) {
	b := newBudget(100)
	a := b.join("orders")
	require.Zero(t, cost(relay.Event{Bytes: relay.PageBytes + 1}))
	require.Equal(t, int64(3*relay.PageBytes), cost(relay.Event{Bytes: relay.PageBytes}))
	require.Equal(t, 3, a.ask(0, 100, 0, 1))
	require.Equal(t, 2, a.ask(0, 0))
}

func TestBudget_IsAsBeforeWhateverComesAfterLeave(t *testing.T) {
	b := newBudget(100)
	a := b.join("orders")
	require.Equal(t, 1, a.ask(40))
	a.leave()
	require.Zero(t, a.ask(40), "nobody would give it back")
	a.give(40)
	a.leave()
	require.Zero(t, b.held)
	require.Empty(t, b.topics)
	require.Empty(t, b.waiting)
}

func TestBudget_ServesThoseThatWaitInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		holder := b.join("orders")
		require.Equal(t, 1, holder.ask(101))
		var order []int
		var waiting sync.WaitGroup
		for i := range 5 {
			a := b.join(fmt.Sprint(i))
			waiting.Go(func() {
				n, err := a.take(context.Background(), []int64{101})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				order = append(order, i)
				a.leave()
			})
			synctest.Wait()
		}
		given, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.join("impatient").take(given, []int64{1})
		require.ErrorIs(t, err, context.Canceled)
		require.Len(t, b.waiting, 5)
		holder.give(101)
		waiting.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
	})
}

// A destination that hangs keeps what its topic holds.
func TestBudget_ServesOtherTopicsBesideThoseThatHang(t *testing.T) {
	b := newBudget(DefaultPayloadBudget)
	const event = payloadCopies * 200 << 10
	for i := range 3 {
		for range 4 { // batches of one topic
			b.join(fmt.Sprint("hangs-", i)).ask(slices.Repeat([]int64{event}, 40)...)
		}
		require.GreaterOrEqual(t, b.topics[fmt.Sprint("hangs-", i)], int64(event))
	}
	a := b.join("orders")
	for range 1000 {
		n := a.ask(slices.Repeat([]int64{event}, 40)...)
		require.Positive(t, n)
		a.give(int64(n) * event)
	}
}

func sum(costs []int64) (all int64) {
	for _, c := range costs {
		all += c
	}
	return all
}

// The model knows only the rules that the budget promises.
func TestBudget_KeepsItsRulesWhateverBatchesDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBudget(rapid.Int64Range(1, 1000).Draw(t, "total"))
		type batch struct {
			*allowance
			hand []int64
		}
		var batches []*batch
		var last int64 // the event that has overdrawn the budget
		held := func() (sum int64) {
			for _, x := range batches {
				for _, c := range x.hand {
					sum += c
				}
			}
			return sum
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				batches = append(batches, &batch{allowance: b.join(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "topic"))})
			},
			"take": func(t *rapid.T) {
				if len(batches) == 0 {
					t.Skip()
				}
				x := rapid.SampledFrom(batches).Draw(t, "batch")
				costs := rapid.SliceOfN(rapid.Int64Range(1, 300), 1, 20).Draw(t, "costs")
				before := held()
				n := x.ask(costs...)
				var ofTopic int64
				for _, other := range batches {
					if other.topic == x.topic {
						ofTopic += other.held
					}
				}
				ofTopic -= sum(costs[:n])
				if ofTopic == 0 && before <= b.total {
					require.Positive(t, n, "a topic that holds nothing")
				}
				if n > 0 && ofTopic == 0 {
					last = costs[0]
				}
				if n > 1 || n == 1 && ofTopic > 0 {
					require.LessOrEqual(t, ofTopic+sum(costs[:n]), shareOfFree*(b.total-before-sum(costs[:n])), "too little is free")
				}
				x.hand = append(x.hand, costs[:n]...)
			},
			"answer": func(t *rapid.T) {
				if len(batches) == 0 {
					t.Skip()
				}
				x := rapid.SampledFrom(batches).Draw(t, "batch")
				if len(x.hand) > 0 {
					x.give(x.hand[0])
					x.hand = x.hand[1:]
				}
			},
			"leave": func(t *rapid.T) {
				if len(batches) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(batches)-1).Draw(t, "batch")
				batches[i].leave()
				batches = slices.Delete(batches, i, i+1)
			},
			"": func(t *rapid.T) {
				require.Equal(t, held(), b.held)
				if b.held > b.total {
					require.LessOrEqual(t, b.held-last, b.total, "exceeded by more than one event")
				}
				topics := map[string]int64{}
				for _, x := range batches {
					if x.held > 0 {
						topics[x.topic] += x.held
					}
				}
				require.Equal(t, topics, b.topics)
				require.Equal(t, len(batches), b.batches)
			},
		})
	})
}

// Batches load pages and get answers at random, for a long time. If all wait, synctest fails.
func TestBudget_NeverDeadlocks(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			b := newBudget(1000)
			var most, events atomic.Int64
			var running sync.WaitGroup
			for i := range 20 {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				running.Go(func() {
					a := b.join(fmt.Sprint("topic-", i%6))
					defer a.leave()
					answers := make(chan int64, 1000)
					var answering sync.WaitGroup
					defer answering.Wait()
					defer close(answers)
					answering.Go(func() {
						for c := range answers {
							time.Sleep(time.Duration(r.Int64N(20)) * time.Millisecond)
							a.give(c)
						}
					})
					for range 5 {
						page := make([]int64, 1+i)
						for j := range page {
							page[j] = 1 + int64(i*j*97)%1200 // some larger than the budget
						}
						for len(page) > 0 {
							n, err := a.take(context.Background(), page)
							require.NoError(t, err)
							require.Positive(t, n)
							for _, c := range page[:n] {
								answers <- c
							}
							page = page[n:]
							events.Add(int64(n))
						}
					}
				})
			}
			running.Go(func() {
				for {
					time.Sleep(time.Millisecond)
					b.mu.Lock()
					most.Store(max(most.Load(), b.held))
					idle := b.batches == 0
					b.mu.Unlock()
					if idle {
						return
					}
				}
			})
			running.Wait()
			require.Equal(t, int64(5*20*21/2), events.Load())
			require.LessOrEqual(t, most.Load(), int64(1000+1200))
			require.Zero(t, b.held)
			require.Empty(t, b.waiting)
		})
	}
}

func TestAttempt_EndsWithItsTimeIfTheBudgetHasNoRoom(t *testing.T) {
	recovers := request(1)
	recovers.Recovering = true
	for name, c := range map[string]struct {
		request PublishRequest
		fails   bool
	}{
		"relaying":   {request(1), false},
		"recovering": {recovers, true},
		"parking":    {parkingUpTo(100), true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.store.fill(5, 1)
			other := e.budget.join("audit")
			require.Equal(t, 1, other.ask(DefaultPayloadBudget+1), "its destination hangs")
			c.request.For = 50 * time.Millisecond
			r, err := e.publishAs(t, c.request)
			if c.fails {
				require.Contains(t, asApplicationError(t, err).Message(), "stopped before anything was sent", "its workflow must not take the topic for empty")
			} else {
				require.NoError(t, err)
				require.Zero(t, r.Published)
			}
			require.Empty(t, e.publisher.sent)
			require.Zero(t, e.store.filled)
			require.Len(t, e.store.pending, 5)
			other.leave()
			r, err = e.publish(t, 1)
			require.NoError(t, err)
			require.Equal(t, 5, r.Published)
			require.Zero(t, e.budget.held)
			require.Zero(t, e.budget.batches)
		})
	}
}

func TestAttempt_GivesTheBudgetBackHoweverItEnds(t *testing.T) {
	for name, set := range map[string]func(e *env){
		"all accepted":      func(*env) {},
		"contents away":     func(e *env) { e.store.fillErr = errAway },
		"an event refused":  func(e *env) { e.publisher.answer = func(int, relay.Event) *relay.PublishError { return poison("X") } },
		"settling fails":    func(e *env) { e.store.settleErr = func() error { return errAway } },
		"publishing failed": func(e *env) { e.publisher.err = errAway },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.store.fill(5, 1)
			set(e)
			_, _ = e.publish(t, 1)
			require.Zero(t, e.budget.held)
			require.Zero(t, e.budget.batches)
			require.Empty(t, e.budget.topics)
		})
	}
}

// On an ordered destination, nothing is reported of these events, and so they would keep their part of the
// budget to the end of the attempt. With a page of large ones, the attempt then waited for itself.
func TestAttempt_KeepsNoBudgetForEventsBehindARefusedOne(t *testing.T) {
	recovers := request(1)
	recovers.Recovering = true
	for name, r := range map[string]PublishRequest{"relaying": request(1), "recovering": recovers, "parking": parkingUpTo(100)} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.publisher.ordered, e.publisher.holds = true, true
			e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguousPoison() }
			e.store.fill(100, 1)
			for i := range e.store.pending {
				e.store.pending[i].Key, e.store.pending[i].Bytes = "key", 80<<10 // they cost as much as the whole budget
			}
			began := time.Now()
			_, _ = e.publishAs(t, r)
			require.Less(t, time.Since(began), r.For/2, "the attempt does not wait for a budget that nothing gives back")
			require.Equal(t, int64(100*80<<10), e.store.filled, "the whole page is loaded")
			require.Equal(t, name == "recovering", len(e.store.probes) > 0, "a recovery finds out what lies behind the page")
			require.Zero(t, e.budget.held)
		})
	}
}
