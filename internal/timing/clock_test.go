package timing_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/timing"
)

func TestClock_BelievesTheClockThatSaysMost(t *testing.T) {
	var now timing.Reading
	clock := timing.Clock{Read: func() timing.Reading { return now }}
	before := clock.Now()
	for _, c := range []struct {
		why  string
		now  timing.Reading
		want time.Duration
	}{
		{"all agree", timing.Reading{Monotonic: time.Second, Boot: time.Second, Wall: time.Second}, time.Second},
		{"the system was suspended", timing.Reading{Monotonic: time.Second, Boot: time.Minute, Wall: time.Minute}, time.Minute},
		{"there is no boot clock", timing.Reading{Monotonic: time.Second, Wall: time.Minute}, time.Minute},
		{"the hypervisor paused the machine and set its clock", timing.Reading{Monotonic: time.Second, Boot: time.Second, Wall: time.Hour}, time.Hour},
		{"the time of day was set back", timing.Reading{Monotonic: time.Second, Boot: time.Second, Wall: -time.Hour}, time.Second},
	} {
		now = c.now
		require.Equal(t, c.want, clock.Since(before), c.why)
	}
}

func TestClock_ReadsTheMachinesClocks(t *testing.T) {
	var clock timing.Clock
	before := clock.Now()
	require.WithinDuration(t, time.Now(), time.Unix(0, int64(before.Wall)), time.Minute)
	if runtime.GOOS == "linux" {
		require.Positive(t, before.Boot)
	}
	time.Sleep(20 * time.Millisecond)
	now := clock.Now()
	require.GreaterOrEqual(t, clock.Since(before), 20*time.Millisecond)
	require.Less(t, clock.Since(before), time.Minute)
	require.Greater(t, now.Monotonic, before.Monotonic)
	if runtime.GOOS == "linux" {
		require.GreaterOrEqual(t, now.Boot-before.Boot, 20*time.Millisecond)
	}
}
