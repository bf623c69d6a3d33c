package bench

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Part is one of the measurements.
type Part string

// The rows of the table of goals, as the --only flag and the report name them. Each is
// measured beside its ceiling in the same run.
const (
	Topic1       Part = "topic1"       // one topic at 100 events/s
	Fill         Part = "fill"         // the same with a topic that fills its requests
	Topics20     Part = "topics20"     // 20 topics at 20 events/s each
	Topics50     Part = "topics50"     // 50 topics at 20 events/s each, with the processor time
	Topics200    Part = "topics200"    // 200 topics, an event each 5 s
	Topics1000   Part = "topics1000"   // 1,000 topics, an event each 5 s; 20 of them busy
	Drain        Part = "drain"        // the ceiling, the drain, the home-made poller, and activities per 1,000 events
	Sink         Part = "sink"         // the same with the benchmark's own destination
	DelaySQS     Part = "delay-sqs"    // the drain into a destination that answers after 15 ms
	DelaySNS     Part = "delay-sns"    // the same with SNS
	DelayFIFO    Part = "delay-fifo"   // the same with a FIFO queue and 1,000 keys
	Payload8     Part = "payload8"     // the drain of events of 8 KiB, and the worker's memory
	Payload64    Part = "payload64"    // the same with 64 KiB
	Payload200   Part = "payload200"   // the same with 200 KiB
	Payload200x4 Part = "payload200x4" // the same with 200 KiB in four topics
	HotKey       Part = "hotkey"       // a key of a FIFO queue that gets more events than it can publish
	Kill         Part = "kill"         // SIGKILL of one of two workers
	Replace      Part = "replace"      // four workers stop while two start
	Held         Part = "held"         // the drain beside an open reader, and an open writer of another table
	Held200      Part = "held200"      // the same over 200 topics
	Backlog      Part = "backlog"      // the first event after the destination is back
)

// The other parts.
const (
	Latency  Part = "latency"  // commit to acknowledged
	Topics   Part = "topics"   // the drain over many topics
	Snapshot Part = "snapshot" // the drain under an open snapshot
	FIFO     Part = "fifo"     // one key of a FIFO queue
	Receipts Part = "receipts" // the drain of a topic that keeps receipts
	Writer   Part = "writer"   // claims and loads after much was published beside an open writer
)

// Parts are all of them: the rows in the order of the table, and the others.
func Parts() []Part {
	var all []Part
	for _, plan := range rowPlans {
		all = append(all, plan.part)
	}
	return append(all, Topics, Snapshot, FIFO, Receipts, Writer, Latency)
}

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
	// Runs is how often each row is measured. The report has medians and ranges. Default 1.
	Runs int
	// Full measures for longer, with more events.
	Full bool
	// Events is what a drain drains. Default 100,000.
	Events int
	// Pending is how many events the row Backlog has. Default 100,000, and 3,000,000 with Full.
	Pending int
	// ManyTopics is how many topics the part Topics has. Default 50.
	ManyTopics int
	// FIFOEvents is how many events of one key the part FIFO publishes. Default 3,000.
	FIFOEvents int
	// Meanwhile is how many events the part Writer publishes while a writer is open.
	// Default 100,000, and 1,000,000 with Full.
	Meanwhile int
	// Rate is how many events a second are committed for the latency, and RateFor
	// for how long. Default 100, for 20 s.
	Rate    int
	RateFor time.Duration
	// WorkerEnv is added to the worker's environment, as KEY=VALUE.
	WorkerEnv []string

	size sizes // default sizesOf(Full)
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
	pending, meanwhile := 100_000, 100_000
	if c.Full {
		pending, meanwhile = 3_000_000, 1_000_000
	}
	for _, d := range []struct {
		value    *int
		standard int
	}{
		{&c.Events, 100_000},
		{&c.ManyTopics, 50},
		{&c.FIFOEvents, 3000},
		{&c.Rate, 100},
		{&c.Runs, 1},
		{&c.Pending, pending},
		{&c.Meanwhile, meanwhile},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.size == (sizes{}) {
		c.size = sizesOf(c.Full)
	}
	if c.RateFor == 0 {
		c.RateFor = 20 * time.Second
	}
	if min(c.Events, c.ManyTopics, c.FIFOEvents, c.Meanwhile, c.Rate, c.Runs, c.Pending) < 0 || c.RateFor < 0 {
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
