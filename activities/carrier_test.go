package activities

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func (p *process) mustSit(t *testing.T) (end func()) {
	t.Helper()
	end, ok := p.sit(t.Context(), 0)
	require.True(t, ok)
	return end
}

// inWorld runs a test in a world with batches of single topics, and then checks that no rule was broken
// and nothing is left.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		ctx, stop := context.WithCancel(context.Background())
		var claims sync.WaitGroup
		claims.Go(func() { w.batches(ctx, "claims") })
		t.Cleanup(func() {
			stop()
			claims.Wait()
		})
		test(t, w)
		w.drained(t, time.Minute)
	})
}

// seated starts a process with a seat, and waits until it has shares. It ends with the test.
func (w *world) seated(t *testing.T, id string, cfg Config) *process {
	t.Helper()
	p := w.start(id, cfg)
	end := p.mustSit(t)
	t.Cleanup(func() {
		end()
		p.end()
	})
	require.True(t, w.waitFor(10*time.Second, func() bool {
		return slices.ContainsFunc(w.shares[:], func(s shareRow) bool { return s.worker == id })
	}))
	return p
}

// traffic writes an event of each topic every so often, until stop is called or the test ends.
func (w *world) traffic(t *testing.T, every time.Duration, topics ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; pause(ctx, every); n++ {
			for _, topic := range topics {
				w.write(topic, fmt.Sprint("key-", n%40))
			}
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// waiting is how many events of a topic are pending.
func (w *world) waiting(topic string) (n int) {
	for _, m := range w.pending {
		if m.topic == topic {
			n++
		}
	}
	return n
}

func (w *world) do(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func TestCarrier_PublishesWhatCommitsInItsShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		for i := range 500 {
			w.write(fmt.Sprint("topic-", i%20), fmt.Sprint("key-", i%7))
		}
		p := w.start("a", Config{})
		end := p.mustSit(t)
		w.drained(t, 10*time.Second)
		for i := range 500 {
			w.write(fmt.Sprint("topic-", i%20), fmt.Sprint("key-", i%7))
			if i%5 == 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		w.drained(t, 10*time.Second)
		require.Zero(t, w.repeats)
		require.Equal(t, 20, p.summary().Topics)
		require.Len(t, p.summary().Lanes, relay.Lanes)
		require.Equal(t, 1000, p.summary().Published)
		end()
		p.end()
		for n := range w.shares {
			require.False(t, w.live(n), "it has given all shares back")
		}
		require.Empty(t, w.workers)
	})
}

func TestCarrier_HoldsNoShareWithoutASeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		p := w.start("a", Config{})
		defer p.end()
		time.Sleep(10 * time.Second)
		require.Empty(t, p.summary().Lanes)
		end := p.mustSit(t)
		_, second := p.sit(t.Context(), 0)
		require.False(t, second, "a second seat")
		require.True(t, w.waitFor(time.Second, func() bool { return w.live(15) }))
		end()
		time.Sleep(timing.SeatGrace - timing.ShareEvery)
		require.Len(t, p.summary().Lanes, relay.Lanes, "it goes on for a while")
		again := p.mustSit(t)
		time.Sleep(2 * timing.SeatGrace)
		require.Len(t, p.summary().Lanes, relay.Lanes)
		again()
		time.Sleep(timing.SeatGrace + 2*time.Second)
		require.Empty(t, p.summary().Lanes)
	})
}

func TestCarrier_EjectsATopicThatIsRefusedAndTakesItBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		stop := w.traffic(t, 20*time.Millisecond, "good", "bad")
		time.Sleep(time.Second)
		bad := w.write("bad", "poison")
		w.do(func() { w.poison[bad] = true })
		require.True(t, w.waitFor(2*time.Second, func() bool { return len(w.apartLog) == relay.Lanes }), "all its lanes are apart")
		w.do(func() {
			for _, entry := range w.apartLog {
				require.Equal(t, "bad: InvalidMessageContents", entry)
			}
			require.LessOrEqual(t, w.waiting("good"), 10, "others flow")
		})
		require.True(t, w.waitFor(30*time.Second, func() bool {
			apart := 0
			for at, l := range w.lanes {
				require.Equal(t, "bad", at.Topic)
				if l.apart {
					apart++
				}
			}
			return apart == 0
		}), "all its lanes are back")
		w.do(func() { require.True(t, bad.dead) })
		stop()
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_PublishesOthersWhileADestinationHangs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.seated(t, "a", Config{})
		stop := w.traffic(t, 10*time.Millisecond, "good", "hanging")
		time.Sleep(time.Second)
		w.do(func() { w.hanging["hanging"] = time.Now().Add(10 * time.Second) })
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			w.do(func() { require.LessOrEqual(t, w.waiting("good"), 20, a.id) })
		}
		w.do(func() { require.Greater(t, w.waiting("hanging"), 300) })
		stop()
	})
}

// So does each worker that shares the topic's lanes, whichever of them began the recovery that holds the topic.
func TestCarrier_StopsATopicWithinASecondOfItsPause(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		w.seated(t, "b", Config{})
		time.Sleep(8 * time.Second)
		w.do(func() { require.True(t, w.isEven()) })
		stop := w.traffic(t, 10*time.Millisecond, "good", "paused")
		time.Sleep(time.Second)
		w.do(func() { w.stopped["paused"] = true })
		time.Sleep(time.Second)
		var before int
		w.do(func() { before = w.waiting("paused") })
		time.Sleep(5 * time.Second)
		w.do(func() {
			require.GreaterOrEqual(t, w.waiting("paused"), before+490, "nothing of it is sent")
			require.LessOrEqual(t, w.waiting("good"), 20)
			delete(w.stopped, "paused")
		})
		require.True(t, w.waitFor(15*time.Second, func() bool { return w.waiting("paused") < 20 }), "it goes on")
		stop()
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_LeavesALaneToAnOperationSoon(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		stop := w.traffic(t, 10*time.Millisecond, "orders")
		time.Sleep(time.Second)
		at := relay.TopicLane{Topic: "orders", Lane: w.write("orders", "key-1").Lane}
		began := time.Now()
		w.redrive(t.Context(), at)
		require.Less(t, time.Since(began), time.Second)
		w.do(func() { require.Len(t, w.apartLog, 1, "only that lane leaves") })
		require.True(t, w.waitFor(3*time.Second, func() bool { return !w.lanes[at].apart }), "it comes back")
		stop()
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_LeavesTopicsApartThatAreNotForIt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.seated(t, "a", Config{
			Topics: map[string]TopicPolicy{"capped": {MaxPerSecond: 5}, "blocked": {OnPoison: BlockKey}},
			Routes: []string{"capped", "blocked", "normal"},
		})
		stop := w.traffic(t, 50*time.Millisecond, "capped", "blocked", "unrouted", "normal")
		time.Sleep(20 * time.Second)
		stop()
		w.drained(t, time.Minute)
		w.do(func() {
			require.Len(t, w.apartLog, 3*relay.Lanes)
			for at, l := range w.lanes {
				require.True(t, l.apart, at)
				require.NotEqual(t, "normal", at.Topic)
			}
		})
		require.Equal(t, 1, a.summary().Topics)
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_SharesEvenlyFiveSecondsAfterAWorkerCameOrWent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		stop := w.traffic(t, 10*time.Millisecond, "one", "two")
		var all []*process
		for i := range 4 {
			p := w.start(fmt.Sprint("worker-", i), Config{})
			p.mustSit(t)
			all = append(all, p)
			time.Sleep(5 * time.Second)
			w.do(func() { require.True(t, w.isEven(), w.shares) })
		}
		for i, p := range all[:3] {
			if i == 1 {
				p.kill()
			} else {
				p.end()
			}
			time.Sleep(5 * time.Second)
			w.do(func() { require.True(t, w.isEven(), w.shares) })
		}
		stop()
		w.drained(t, time.Minute)
		all[3].end()
		<-all[1].done
	})
}

func TestCarrier_TakesTheLanesOfADeadWorkerWithinFiveSeconds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		topics := []string{"a", "b", "c", "d"}
		w.seated(t, "living", Config{})
		dying := w.seated(t, "dying", Config{})
		stop := w.traffic(t, 5*time.Millisecond, topics...)
		time.Sleep(10 * time.Second)
		w.do(func() { require.True(t, w.isEven()) })
		dying.kill()
		time.Sleep(5 * time.Second)
		require.True(t, w.waitFor(time.Second, func() bool {
			for _, m := range w.pending {
				if age := time.Since(time.UnixMicro(m.At)); age > time.Second {
					return false
				}
			}
			return true
		}), "all lanes flow again")
		stop()
		w.drained(t, time.Minute)
		require.LessOrEqual(t, w.repeats, carryEvents)
		<-dying.done
	})
}

func TestCarrier_RepeatsNothingAfterItStoodStill(t *testing.T) {
	for _, still := range []time.Duration{3 * time.Second, 20 * time.Second} {
		t.Run(still.String(), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				p := w.seated(t, "a", Config{})
				w.seated(t, "b", Config{})
				stop := w.traffic(t, 5*time.Millisecond, "one", "two")
				time.Sleep(10 * time.Second)
				thaw := p.freeze()
				time.Sleep(still)
				thaw()
				time.Sleep(10 * time.Second)
				stop()
				w.drained(t, time.Minute)
				if still < timing.ShareLease-timing.ShareMargin+timing.ShareEvery {
					require.Zero(t, w.repeats)
				}
				require.LessOrEqual(t, w.repeats, carryEvents)
			})
		})
	}
}

func TestCarrier_StopsSendingWhileTheDatabaseIsAwayAndRepeatsNothing(t *testing.T) {
	for _, away := range []time.Duration{2 * time.Second, 30 * time.Second} {
		t.Run(away.String(), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.seated(t, "a", Config{})
				w.seated(t, "b", Config{})
				for i := range 4000 {
					w.write(fmt.Sprint("topic-", i%5), fmt.Sprint("key-", i%200))
				}
				time.Sleep(time.Second)
				w.do(func() { w.away = time.Now().Add(away) })
				time.Sleep(away + time.Second)
				w.drained(t, 5*time.Minute)
				require.Zero(t, w.repeats)
			})
		})
	}
}

func TestCarrier_WaitsForItsRequestsWhenItStops(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start("a", Config{})
		p.mustSit(t)
		require.True(t, w.waitFor(5*time.Second, func() bool { return w.live(0) }))
		w.do(func() { w.hanging["hanging"] = time.Now().Add(10 * time.Second) })
		hanging, good := w.write("hanging", "key"), w.write("good", "other")
		time.Sleep(time.Second)
		require.NotEqual(t, hanging.Lane, good.Lane)
		began := time.Now()
		p.stop()
		require.True(t, w.waitFor(2*time.Second, func() bool { return !w.live(int(good.Lane)) }), "lanes without requests are given back at once")
		w.do(func() { require.True(t, w.live(int(hanging.Lane))) })
		<-p.done
		require.Less(t, time.Since(began), timing.StopTimeout)
		w.do(func() { require.Empty(t, w.workers) })
	})
}

func TestCarrier_PublishesSmallTopicsBesideOneThatHasMost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		w.seated(t, "a", Config{})
		for i := range 5000 {
			w.write("huge", fmt.Sprint("key-", i%100))
		}
		stop := w.traffic(t, 20*time.Millisecond, "small", "tiny")
		for range 20 {
			time.Sleep(100 * time.Millisecond)
			w.do(func() { require.LessOrEqual(t, w.waiting("small")+w.waiting("tiny"), 60) })
		}
		stop()
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_PublishesAThousandTopics(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		for i := range 3000 { // a backlog, and then topics that appear and vanish
			w.write(fmt.Sprint("topic-", i%1000), "key")
		}
		p := w.seated(t, "a", Config{})
		w.drained(t, time.Minute)
		for i := range 2000 {
			w.write(fmt.Sprint("topic-", i%1500), "key")
			if i%20 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		w.drained(t, 5*time.Second)
		time.Sleep(time.Second)
		require.Zero(t, w.repeats)
		inside := p.inside()
		p.hands.mu.Lock()
		defer p.hands.mu.Unlock()
		require.Empty(t, len(p.hands.topics), "it forgets topics without events: %s", inside)
	})
}

func TestCarrier_AsksAnIdleDatabaseSeldom(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		time.Sleep(5 * time.Second)
		w.do(func() { clear(w.calls) })
		time.Sleep(time.Minute)
		w.do(func() {
			require.LessOrEqual(t, w.calls["Look"], int(time.Minute/(20*time.Millisecond)))
			require.Greater(t, w.calls["Look"], 1000)
			require.LessOrEqual(t, w.calls["Attend"], 121)
			require.LessOrEqual(t, w.calls["Discover"], 4)
			require.Zero(t, w.calls["Pages"]+w.calls["Contents"]+w.calls["SettleTopics"])
		})
	})
}

func TestCarrier_FindsWhatLooksDoNot(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		m := w.write("orders", "key")
		w.drained(t, 5*time.Second)
		time.Sleep(10 * time.Second)
		w.do(func() { // it is pending again, and was seen
			w.round()
			delete(w.arrived, m)
			w.pending[m.Ref] = m
		})
		w.drained(t, 16*time.Second)
	})
}

func TestCarrier_SendsALateEventBeforeLaterOnesOfItsKey(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 3
		w.seated(t, "a", Config{})
		for range 20 {
			late := w.begin("orders", "key")
			for i := range 30 {
				w.write("orders", fmt.Sprint("other-", i))
				time.Sleep(2 * time.Millisecond)
			}
			w.commit(late)
			for range 5 {
				w.write("orders", "key")
			}
			time.Sleep(w.upTo(50 * time.Millisecond))
		}
		w.drained(t, 5*time.Second)
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_SendsALateEventOfABacklogBeforeLaterOnesOfItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		late := w.begin("orders", "key")
		for i := range 4000 {
			w.write("orders", fmt.Sprint("key-", i))
		}
		w.seated(t, "a", Config{})
		require.True(t, w.waitFor(10*time.Second, func() bool { return len(w.arrived) > 500 }))
		w.do(func() { require.Greater(t, len(w.pending), 1000, "the lanes have a backlog") })
		w.commit(late)
		w.write("orders", "key")
		w.drained(t, 10*time.Second)
		require.Zero(t, w.repeats)
	})
}

// looking passes the answer to each look of a process to each, which may change it.
type looking struct {
	ReadStore
	each func(*relay.Looked)
}

func (l looking) Look(ctx context.Context, ask relay.Look) (relay.Looked, error) {
	found, err := l.ReadStore.Look(ctx, ask)
	l.each(&found)
	return found, err
}

func (w *world) eachLook(each func(*relay.Looked)) {
	w.prepare = func(p *process) { p.cfg.reads = looking{p.cfg.reads, each} }
}

func TestCarrier_LooksMoreOftenWhileEventsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		var looks atomic.Int64
		w.eachLook(func(*relay.Looked) { looks.Add(1) })
		w.seated(t, "a", Config{})
		inASecond := func() int64 {
			before := looks.Load()
			time.Sleep(time.Second)
			return looks.Load() - before
		}
		idle := func() int64 {
			time.Sleep(2 * busyFor)
			n := inASecond()
			require.LessOrEqual(t, n, int64(time.Second/(20*time.Millisecond)))
			return n
		}
		before := idle()
		stop := w.traffic(t, busyFor/2, "orders")
		time.Sleep(busyFor)
		require.Greater(t, inASecond(), before*5/4) // a look takes its time in this world, too
		stop()
		w.drained(t, 5*time.Second)
		idle()
	})
}

// The next look with pending events sees the leases of the shares as ended: an attendance that began before renews
// them, and commits afterwards.
func TestCarrier_SendsWhatALookFoundBeforeARenewalCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		var armed atomic.Bool
		w.eachLook(func(found *relay.Looked) {
			isPending := func(e relay.Found) bool { return e.Pending }
			if slices.ContainsFunc(found.Events, isPending) && armed.CompareAndSwap(true, false) {
				found.Held = nil
			}
		})
		w.seated(t, "a", Config{})
		w.write("orders", "key")
		w.drained(t, 5*time.Second)
		armed.Store(true)
		w.write("orders", "key")
		require.True(t, w.waitFor(5*time.Second, func() bool { return !armed.Load() }))
		next := w.write("orders", "key")
		require.True(t, w.waitFor(5*time.Second, func() bool { return w.arrived[next] > 0 }))
		w.ok(t)
		w.drained(t, 5*time.Second)
		require.Zero(t, w.repeats)
	})
}

func TestCarrier_ReadsAllAgainIfTheDatabaseHasAnotherHistory(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		stop := w.traffic(t, 10*time.Millisecond, "one", "two")
		time.Sleep(3 * time.Second)
		earlier := w.remember()
		time.Sleep(300 * time.Millisecond)
		w.replace(earlier)
		time.Sleep(3 * time.Second)
		w.do(func() {
			require.LessOrEqual(t, w.waiting("one"), 10, "events with ids that come again are found at once")
		})
		stop()
	})
}

func TestCarrier_EjectsATopicWithAnEventThatCannotBeSent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.along = -1 // all contents are loaded
		w.seated(t, "a", Config{})
		large, missing := w.begin("large", "key"), w.begin("missing", "key")
		large.messages[0].bytes = relay.PageBytes + 1
		w.do(func() {
			w.onCall = func(_, port string) error {
				if port == "Contents" {
					w.do(func() { delete(w.events, missing.messages[0].Ref) })
				}
				return nil
			}
		})
		w.commit(large)
		w.commit(missing)
		w.write("good", "key")
		require.True(t, w.waitFor(5*time.Second, func() bool { return len(w.apartLog) == 2*relay.Lanes }))
		w.do(func() {
			require.Contains(t, w.apartLog[0], "large: EventTooLarge")
			require.Contains(t, w.apartLog[relay.Lanes], "missing: EventMissing")
		})
	})
}

func TestCarrier_LeavesLanesToBatchesThatClaimThemJustBeforeTheTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		for i := range 40 {
			w.write("orders", fmt.Sprint("key-", i))
		}
		var claimed []relay.TopicLane
		w.onCall = func(_, port string) error {
			if port == "TakeShares" && claimed == nil {
				claimed, _ = w.claim("early")
			}
			return nil
		}
		w.seated(t, "a", Config{})
		time.Sleep(3 * time.Second)
		require.NotEmpty(t, claimed)
		w.do(func() { require.Equal(t, 40, w.waiting("orders")) })
		w.publishClaim(t.Context(), "early", claimed)
		w.write("orders", "key-1")
		w.drained(t, 5*time.Second)
		require.Equal(t, 1, w.carried)
	})
}

func TestCarrier_TellsMetricsReceiptsAndTheEvidence(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		store, told := &receiptFake{}, &counting{}
		w.prepare = func(p *process) {
			p.receipts, p.metrics = newReceipts(store, told), told
			p.acts.receipts = p.receipts
		}
		p := w.start("a", Config{Topics: map[string]TopicPolicy{"orders": {Receipts: time.Hour}}})
		p.mustSit(t)
		for range 25 {
			w.write("orders", "key")
			w.write("other", "key")
		}
		w.drained(t, 10*time.Second)
		_, gotThrough := p.acts.ambiguous.of("orders", nil, time.Minute)
		require.True(t, gotThrough)
		p.end()
		require.Len(t, store.receipts, 25, "of the topic that keeps them")
		require.Equal(t, 50, told.accepted)
		require.Equal(t, 50, told.latencies)
		require.ElementsMatch(t, []TopicCount{{Topic: "orders", Published: 25}, {Topic: "other", Published: 25}}, p.acts.carried.tell(ClaimResult{}).Published)
	})
}

// counting counts accepted events.
type counting struct {
	noMetrics
	accepted, latencies int
}

func (c *counting) Reported(_ string, outcomes []relay.Outcome, latencies []time.Duration) {
	c.accepted += len(outcomes)
	c.latencies += len(latencies)
}

func TestBalance_GivesEachSeatedWorkerTheSameNumberOfShares(t *testing.T) {
	for n := 1; n <= 20; n++ {
		var seen relay.Shares
		for i := range n {
			seen.Workers = append(seen.Workers, relay.Worker{ID: fmt.Sprintf("%02d", i), Seated: true})
		}
		seen.Workers = append(seen.Workers, relay.Worker{ID: "standing"})
		held := map[string][]int16{seen.Workers[n-1].ID: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, "standing": nil}
		for round := range 3 {
			for _, w := range seen.Workers {
				take, giveBack := balance(w, held[w.ID], seen)
				require.False(t, len(take) > 0 && len(giveBack) > 0)
				for _, lane := range giveBack {
					require.Contains(t, held[w.ID], lane)
					seen.Holders[lane] = ""
				}
				held[w.ID] = slices.DeleteFunc(held[w.ID], func(lane int16) bool { return slices.Contains(giveBack, lane) })
				for _, lane := range take {
					require.Empty(t, seen.Holders[lane])
					seen.Holders[lane] = w.ID
					held[w.ID] = append(held[w.ID], lane)
				}
				slices.Sort(held[w.ID])
				if round > 0 {
					require.Empty(t, take, "it rests")
					require.Empty(t, giveBack)
				}
			}
			if round == 0 {
				for lane := range seen.Holders { // the first one holds all that were not given back
					if seen.Holders[lane] == "" && slices.Contains(held[seen.Workers[n-1].ID], int16(lane)) {
						seen.Holders[lane] = seen.Workers[n-1].ID
					}
				}
				for _, w := range seen.Workers { // those that came too early
					take, _ := balance(w, held[w.ID], seen)
					for _, lane := range take {
						seen.Holders[lane] = w.ID
						held[w.ID] = append(held[w.ID], lane)
					}
					slices.Sort(held[w.ID])
				}
			}
		}
		require.Empty(t, held["standing"])
		for _, w := range seen.Workers[:n] {
			require.GreaterOrEqual(t, len(held[w.ID]), relay.Lanes/n)
			require.LessOrEqual(t, len(held[w.ID]), (relay.Lanes+n-1)/n)
		}
	}
}

func TestBalance_TakesNoShareThatIsLive(t *testing.T) {
	me := relay.Worker{ID: "a", Seated: true}
	seen := relay.Shares{Workers: []relay.Worker{me, {ID: "b", Seated: true}}}
	for lane := range seen.Holders {
		seen.Holders[lane] = "b"
	}
	take, giveBack := balance(me, nil, seen)
	require.Empty(t, take)
	require.Empty(t, giveBack)
	seen.Holders[7] = ""
	take, _ = balance(me, nil, seen)
	require.Equal(t, []int16{7}, take)
}
