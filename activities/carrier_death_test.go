package activities

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// death is a moment between two steps by which a topic leaves its shares and comes back.
type death struct {
	name string
	// The worker dies at its next call of the port: before the statement runs, or before its answer comes.
	port  string
	after bool
	// first is a port that was called before, since the refusal.
	first string
	// batch is a moment at which the worker dies that has the topic's batch, too.
	batch func(w *world, l laneRow) bool
}

var deaths = []death{
	{name: "the refusal is read"},
	{name: "what is in flight has an answer", port: "SettleTopics"},
	{name: "that is settled", port: "SettleTopics", after: true},
	{name: "the lanes are still in their shares", port: "SetApart"},
	{name: "the lanes are apart", port: "SetApart", after: true},
	{name: "the lanes are known to be apart", first: "SetApart", port: "Attend"},
	{name: "the lanes are claimed", batch: func(w *world, l laneRow) bool { return l.claim != "" }},
	{name: "the batch has begun", batch: func(w *world, l laneRow) bool { return l.claim != "" && len(w.dead) > 0 }},
	{name: "the lanes are given back", first: "SetApart", port: "Rejoin"},
	{name: "the lanes are back", first: "SetApart", port: "Rejoin", after: true},
	{name: "the lanes are to be read", first: "Rejoin", port: "Pages"},
	{name: "the lanes are read", first: "Rejoin", port: "Pages", after: true},
	{name: "the lanes are loaded", first: "Rejoin", port: "Contents", after: true},
	{name: "the lanes flow", first: "Rejoin", port: "SettleTopics"},
}

// kills kills a process at a moment of its next ejection, and tells then how many events it had in hand.
func (d death) kills(w *world, p *process) (inHand chan int) {
	inHand = make(chan int, 1)
	var mu sync.Mutex
	seen := map[string]bool{}
	isAt := func(port string, after bool) {
		mu.Lock()
		defer mu.Unlock()
		if seen["refusal"] && (d.first == "" || seen[d.first]) && d.batch == nil && port == d.port && after == d.after && !seen["death"] {
			seen["death"] = true
			p.kill()
			go func() { w.do(func() { inHand <- len(w.inHand[p.id]) }) }()
		}
		if after && seen["refusal"] || port == "refusal" {
			seen[port] = true
		}
	}
	tell := p.hands.told
	p.hands.told = func(topic, cause string) {
		tell(topic, cause)
		isAt("refusal", false)
		isAt("", false)
	}
	w.do(func() {
		w.onCall = func(worker, port string) error {
			if worker == p.id {
				isAt(port, false)
			}
			return nil
		}
		w.onDone = func(worker, port string) {
			if worker == p.id {
				isAt(port, true)
			}
		}
	})
	return inHand
}

func TestCarrier_MayDieBetweenAnyTwoStepsOfAnEjection(t *testing.T) {
	for _, d := range deaths {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { d.during(t) })
		})
	}
}

func (d death) during(t *testing.T) {
	w := newWorld(1)
	w.lookMost = 1000
	var claims sync.WaitGroup
	batches := func(id string) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		claims.Go(func() { w.batches(ctx, id) })
		return cancel
	}
	stopBatches := batches("claims")
	t.Cleanup(claims.Wait)
	w.seated(t, "living", Config{})
	p := w.seated(t, "dying", Config{})
	stop := w.traffic(t, 40*time.Millisecond, "good", "bad")
	time.Sleep(8 * time.Second)
	w.do(func() { require.True(t, w.isEven()) })

	dead := d.kills(w, p)
	key := "poison"
	w.do(func() {
		for w.shares[laneOf("bad", key)].worker != p.id {
			key += "!"
		}
	})
	keys := []string{key}
	for i := range 60 { // so that requests are in flight when the refusal comes
		keys = append(keys, fmt.Sprint("more-", i)) // not the traffic's: transactions of a key follow each other
	}
	tx := w.begin("bad", keys...)
	poison := tx.messages[0]
	w.do(func() { w.poison[poison] = true })
	w.commit(tx)
	bound := 0 // events that may be sent again
	if d.batch != nil {
		at := relay.TopicLane{Topic: "bad", Lane: poison.Lane}
		require.True(t, w.waitFor(20*time.Second, func() bool { return d.batch(w, w.lanes[at]) }))
		w.do(func() {
			w.deadly = true
			bound = w.inHandOfAll()
		})
		p.kill()
		stopBatches()
		stopBatches = batches("others")
	} else {
		select {
		case bound = <-dead:
		case <-time.After(time.Minute):
			t.Fatal("the moment did not come")
		}
	}
	t.Cleanup(func() { stopBatches() })
	late := time.Duration(0)
	for range 40 {
		time.Sleep(500 * time.Millisecond)
		w.do(func() {
			for _, m := range w.pending {
				if m.topic == "good" {
					late = max(late, time.Since(time.UnixMicro(m.At)))
				}
			}
		})
	}
	stop()
	w.drained(t, time.Minute)
	require.True(t, w.waitFor(30*time.Second, func() bool {
		for _, l := range w.lanes {
			if l.apart {
				return false
			}
		}
		return true
	}), "the topic is back in its shares")
	w.do(func() {
		require.True(t, poison.dead)
		require.Len(t, w.dead, 1)
		require.LessOrEqual(t, w.repeats, bound)
	})
	require.LessOrEqual(t, late, 6*time.Second, "the other topic waited")
	<-p.done
}

// inHandOfAll is how many events were sent and are not settled.
func (w *world) inHandOfAll() (n int) {
	for _, hand := range w.inHand {
		n += len(hand)
	}
	return n
}

// flows reports whether no event is older than a time.
func (w *world) flows(within time.Duration) bool {
	for _, m := range w.pending {
		if time.Since(time.UnixMicro(m.At)) > within {
			return false
		}
	}
	return true
}

// A container that is killed is replaced within a second.
func TestCarrier_ReplacesADeadWorkerWithinFiveSeconds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		w.seated(t, "living", Config{})
		dying := w.seated(t, "dying", Config{})
		stop := w.traffic(t, 10*time.Millisecond, "a", "b")
		time.Sleep(10 * time.Second)
		w.do(func() { require.True(t, w.isEven()) })
		dying.kill()
		killed := time.Now()
		time.Sleep(time.Second)
		w.seated(t, "new", Config{})
		time.Sleep(4500*time.Millisecond - time.Since(killed))
		require.True(t, w.waitFor(10*time.Second, func() bool { return w.flows(500 * time.Millisecond) }))
		require.LessOrEqual(t, time.Since(killed), 5500*time.Millisecond, "all lanes flow again")
		stop()
		w.drained(t, time.Minute)
		require.LessOrEqual(t, w.repeats, carryEvents)
		<-dying.done
	})
}

// The living worker reads what waits in the dead one's lanes, beside what commits in its own.
func TestCarrier_ADeathAmongAThousandTopicsDelaysNoOtherLane(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost, w.slow = 1000, 20*time.Millisecond
		var topics []string
		for i := range 1000 {
			topics = append(topics, fmt.Sprint("topic-", i))
		}
		w.seated(t, "living", Config{})
		dying := w.seated(t, "dying", Config{})
		time.Sleep(8 * time.Second)
		w.do(func() { require.True(t, w.isEven()) })
		var living []int16
		w.do(func() { living = w.heldBy("living", []int16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}) })
		require.Len(t, living, relay.Lanes/2)
		var late time.Duration
		n := 0
		write := func(of time.Duration) {
			for until := time.Now().Add(of); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
				for range 25 { // each topic every two seconds
					w.write(topics[n%len(topics)], fmt.Sprint("key-", n/len(topics)))
					n++
				}
				w.do(func() {
					for _, m := range w.pending {
						if age := time.Since(time.UnixMicro(m.At)); age > late && slices.Contains(living, m.Lane) {
							late = age
						}
					}
				})
			}
		}
		write(5 * time.Second)
		before := late
		dying.kill()
		write(10 * time.Second)
		t.Logf("an event of the living worker waited for %v at most before the death, and for %v after", before, late)
		require.Less(t, late, time.Second)
		w.drained(t, time.Minute)
		<-dying.done
	})
}
