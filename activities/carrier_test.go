package activities

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func (p *process) mustSit(t *testing.T) (end func() Summary) {
	t.Helper()
	end, ok := p.sit(t.Context())
	require.True(t, ok)
	return end
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
		require.Equal(t, 1000, end().Published)
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
		_, second := p.sit(t.Context())
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
