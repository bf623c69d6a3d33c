package timing

import (
	"time"

	"golang.org/x/sys/unix"
)

// boot reads the clock that counts the time in which the machine was suspended.
func boot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // then it is 0 at every reading, and the other clocks decide
	}
	return time.Duration(t.Nano())
}
