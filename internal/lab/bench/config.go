package bench

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Part is one of the measurements.
type Part string

// The parts, as the --only flag names them.
const (
	Drain    Part = "drain"    // the ceiling and the drain, and activities per 1,000 events
	Latency  Part = "latency"  // commit to acknowledged
	Topics   Part = "topics"   // the drain over many topics
	Snapshot Part = "snapshot" // the drain under an open snapshot
	FIFO     Part = "fifo"     // one key of a FIFO queue
	Receipts Part = "receipts" // the drain of a topic that keeps receipts
	Writer   Part = "writer"   // claims and loads after much was published beside an open writer
)

// Parts are all of them.
func Parts() []Part { return []Part{Drain, Latency, Topics, Snapshot, FIFO, Receipts, Writer} }

// Config says what to measure and against what. Environ is required; the rest
// has defaults.
type Config struct {
	// Environ is the environment of the processes that are started, as KEY=VALUE.
	// It must have DATABASE_URL, TEMPORAL_ADDRESS and AWS_ENDPOINT_URL, the servers of the
	// measurement. The database's role must be able to create databases.
	Environ []string
	// Progress gets a line for each step. Default: nowhere.
	Progress io.Writer

	// Only leaves the other parts out. Default: all.
	Only []Part
	// Events is what a drain drains. Default 100,000.
	Events int
	// ManyTopics is how many topics the part Topics has. Default 50.
	ManyTopics int
	// FIFOEvents is how many events of one key the part FIFO publishes. Default 3,000.
	FIFOEvents int
	// Meanwhile is how many events the part Writer publishes while a writer is open.
	// Default 1,000,000.
	Meanwhile int
	// Rate is how many events a second are committed for the latency, and RateFor
	// for how long. Default 100, for 20 s.
	Rate    int
	RateFor time.Duration
	// WorkerEnv is added to the worker's environment, as KEY=VALUE.
	WorkerEnv []string
}

func (c Config) withDefaults() (Config, error) {
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if len(c.Only) == 0 {
		c.Only = Parts()
	}
	for _, p := range c.Only {
		if !slices.Contains(Parts(), p) {
			return c, fmt.Errorf("there is no part %q: there are %v", p, Parts())
		}
	}
	for _, d := range []struct {
		value    *int
		standard int
	}{{&c.Events, 100_000}, {&c.ManyTopics, 50}, {&c.FIFOEvents, 3000}, {&c.Meanwhile, 1_000_000}, {&c.Rate, 100}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.RateFor == 0 {
		c.RateFor = 20 * time.Second
	}
	if c.Events < 0 || c.ManyTopics < 0 || c.FIFOEvents < 0 || c.Meanwhile < 0 || c.Rate < 0 || c.RateFor < 0 {
		return c, fmt.Errorf("numbers and durations cannot be negative")
	}
	return c, nil
}

func (c Config) wants(p Part) bool { return slices.Contains(c.Only, p) }

// SoakConfig says how long to publish at a steady rate. Environ is required.
type SoakConfig struct {
	Environ  []string  // as in Config
	Progress io.Writer // as in Config
	// Rate is in events a second. Default 200.
	Rate int
	// For is how long. Default 10 minutes: five changes of runs.
	For time.Duration
	// MaxGap is the longest time that something may wait without anything being
	// acknowledged. Default 500 ms.
	MaxGap time.Duration
	// WorkerEnv is added to the worker's environment, as KEY=VALUE.
	WorkerEnv []string
}

func (c SoakConfig) withDefaults() SoakConfig {
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if c.Rate <= 0 {
		c.Rate = 200
	}
	if c.For <= 0 {
		c.For = 10 * time.Minute
	}
	if c.MaxGap <= 0 {
		c.MaxGap = 500 * time.Millisecond
	}
	return c
}
