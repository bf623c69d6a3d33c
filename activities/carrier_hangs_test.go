package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
