package activities

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// A batch on the same worker could not settle what was acknowledged.
func TestCarrier_TakesNoLaneBackOfWhichItHasAcknowledgementsToSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		p := w.seated(t, "a", Config{})
		first := w.write("one", "key")
		w.drained(t, 10*time.Second)
		at := relay.TopicLane{Topic: "one", Lane: first.Lane}
		w.do(func() {
			w.lanes[at] = laneRow{apart: true}
			w.stopped["one"] = true
			w.onCall = func(_, port string) error {
				if port == "Settle" {
					return errors.New("the rows are locked")
				}
				return nil
			}
		})
		time.Sleep(2 * time.Second)
		second := w.write("one", "key")
		w.do(func() {
			w.arrives(second)
			delete(w.stopped, "one")
		})
		p.acts.ledger.add("one", []relay.Ref{second.Ref})
		time.Sleep(30 * time.Second)
		w.do(func() {
			require.Zero(t, w.repeats)
			w.onCall = nil
		})
		w.drained(t, time.Minute)
		require.True(t, w.waitFor(time.Minute, func() bool { return !w.lanes[at].apart }), "then it takes the lane back")
	})
}
