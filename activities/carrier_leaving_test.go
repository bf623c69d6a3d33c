package activities

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each topic has a cause of its own, and the database is slow.
func TestCarrier_KeepsItsSharesWhileManyTopicsLeaveAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.lookMost = 1000
		w.seated(t, "a", Config{})
		var taken int
		w.do(func() {
			taken = w.calls["TakeShares"]
			w.slow = 40 * time.Millisecond
			for i := range 300 {
				w.broken[fmt.Sprint("topic-", i)] = time.Now().Add(15 * time.Second)
			}
		})
		for i := range 300 {
			w.write(fmt.Sprint("topic-", i), "key")
		}
		time.Sleep(20 * time.Second)
		w.do(func() {
			require.Greater(t, w.calls["SetApart"], 200)
			require.Equal(t, taken, w.calls["TakeShares"], "no share was lost")
			w.slow = 3 * time.Millisecond
		})
	})
}
