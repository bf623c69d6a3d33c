package activities

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestCarrier_GivesSharesBackWhileADestinationHangsAndDelaysNoOther(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		w.seated(t, "a", Config{})
		stop := w.traffic(t, 10*time.Millisecond, "good", "hanging")
		time.Sleep(time.Second)
		w.do(func() { w.hanging["hanging"] = time.Now().Add(20 * time.Second) })
		time.Sleep(300 * time.Millisecond)
		b := w.start("b", Config{})
		end := b.mustSit(t)
		t.Cleanup(func() {
			end()
			b.end()
		})
		oldest := w.oldest("good", 20*time.Second)
		stop()
		w.do(func() { require.True(t, w.isEven(), w.shares) })
		require.LessOrEqual(t, oldest, 4*time.Second)
	})
}

// The sender has four requests in flight, and many other events of the topic that wait for these.
func TestCarrier_ThatStopsKeepsNoShareForUnsentEvents(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start("a", Config{})
		p.mustSit(t)
		require.True(t, w.waitFor(5*time.Second, func() bool { return w.live(0) }))
		w.do(func() { w.hanging["hanging"] = time.Now().Add(5 * time.Second) })
		requests := map[int16]bool{}
		for i := range 4 {
			requests[w.write("hanging", fmt.Sprint("key-", i)).Lane] = true
			time.Sleep(100 * time.Millisecond)
		}
		for i := range 100 {
			w.write("hanging", fmt.Sprint("key-", i))
		}
		time.Sleep(500 * time.Millisecond)
		w.do(func() { require.Len(t, w.inHand["a"], 4) })
		p.stop()
		require.True(t, w.waitFor(2*time.Second, func() bool {
			for lane := range relay.Lanes {
				if w.live(lane) != requests[int16(lane)] {
					return false
				}
			}
			return true
		}), "it holds the shares of its requests and no others")
		<-p.done
	})
}

// A request that hangs does not keep the lanes in which nothing is in flight from the topic's batches.
func TestCarrier_LeavesLanesWithoutRequestsToBatchesAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		w.do(func() { w.hanging["orders"] = time.Now().Add(time.Second) })
		hanging := w.write("orders", "first")
		time.Sleep(2 * time.Second)
		refused := w.write("orders", "second")
		w.do(func() { w.broken["orders"] = time.Now().Add(time.Second) })
		require.NotEqual(t, hanging.Lane, refused.Lane)
		apart := func(lane int16) bool { return w.lanes[relay.TopicLane{Topic: "orders", Lane: lane}].apart }
		require.True(t, w.waitFor(2*time.Second, func() bool { return apart(refused.Lane) }))
		w.do(func() { require.False(t, apart(hanging.Lane), "a request is in flight") })
		w.drained(t, 30*time.Second)
	})
}

// queues names the destination of each topic: "hanging-1" and "hanging-2" have one.
type queues struct{ Publisher }

func (queues) Destination(topic string) string {
	name, _, _ := strings.Cut(topic, "-")
	return "SQS queue " + name
}

func TestCarrier_ManyTopicsOfADestinationThatHangsLeaveRoomToOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		a := w.seated(t, "a", Config{Publisher: queues{}})
		w.do(func() {
			for i := range 200 {
				w.hanging[fmt.Sprint("hanging-", i)] = time.Now().Add(10 * time.Second)
			}
		})
		for i := range 2000 {
			w.write(fmt.Sprint("hanging-", i%200), fmt.Sprint("key-", i))
		}
		time.Sleep(time.Second)
		a.hands.mu.Lock()
		inHand := a.hands.events
		a.hands.mu.Unlock()
		require.Greater(t, inHand, carryEvents/2)
		require.LessOrEqual(t, inHand, carryEvents*carryOne/(carryOne+1))
		stop := w.traffic(t, time.Millisecond, "good-1", "good-2")
		for range 80 {
			time.Sleep(100 * time.Millisecond)
			w.do(func() { require.LessOrEqual(t, w.waiting("good-1")+w.waiting("good-2"), 200) })
		}
		stop()
	})
}

// So the attempts of its batches begin before the first request of the shares is over.
func TestCarrier_EjectsATopicWhoseDestinationIsSilent(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.seated(t, "a", Config{})
		w.do(func() { w.hanging["orders"] = time.Now().Add(20 * time.Second) })
		requests := map[int16]bool{}
		for i := range 4 {
			requests[w.write("orders", fmt.Sprint("key-", i)).Lane] = true
			time.Sleep(100 * time.Millisecond)
		}
		for i := range 100 {
			w.write("orders", fmt.Sprint("key-", i))
		}
		apart := func(is func(lane int16) bool) func() bool {
			return func() bool {
				for lane := range int16(relay.Lanes) {
					if w.lanes[relay.TopicLane{Topic: "orders", Lane: lane}].apart != is(lane) {
						return false
					}
				}
				return true
			}
		}
		require.True(t, w.waitFor(silentAfter+time.Second, apart(func(lane int16) bool { return !requests[lane] })))
		require.True(t, w.waitFor(10*time.Second, apart(func(int16) bool { return true })), "also those whose requests are over")
		w.drained(t, time.Minute)
	})
}
