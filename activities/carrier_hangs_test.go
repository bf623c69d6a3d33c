package activities

import (
	"fmt"
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
