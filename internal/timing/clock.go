package timing

import "time"

// Reading is what the clocks of a machine say at one moment. Only the difference
// between two readings of one process means anything.
type Reading struct {
	// Monotonic is Go's clock. On Linux it stands still while the machine is
	// suspended.
	Monotonic time.Duration
	// Boot goes on while the machine is suspended. It is 0 where the system has no
	// such clock.
	Boot time.Duration
	// Wall is the time of day. It may be set, also backwards. A hypervisor that
	// pauses a whole machine stops the other two, and this one is set right
	// afterwards, by the hypervisor or from the network.
	Wall time.Duration
}

// Clock measures how much time has passed, whether or not the machine was
// suspended meanwhile. The zero value reads this machine's clocks.
type Clock struct {
	// Read replaces the machine's clocks in tests.
	Read func() Reading
}

// Now reads the clocks.
func (c Clock) Now() Reading {
	if c.Read != nil {
		return c.Read()
	}
	return read()
}

// Since is the time that has passed since an earlier reading.
func (c Clock) Since(earlier Reading) time.Duration { return c.Now().Since(earlier) }

// Since is the time between two readings, by the clock that says the most. A lease is
// over when any clock says so: to renew a lease too early costs one statement, to renew
// it too late publishes events twice.
func (r Reading) Since(earlier Reading) time.Duration {
	return max(r.Monotonic-earlier.Monotonic, r.Boot-earlier.Boot, r.Wall-earlier.Wall)
}

var began = time.Now()

func read() Reading {
	now := time.Now()
	return Reading{Monotonic: now.Sub(began), Boot: boot(), Wall: time.Duration(now.UnixNano())}
}
