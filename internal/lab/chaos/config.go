package chaos

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/stack"
)

// Config configures a run. Stack is required.
type Config struct {
	// Stack must be one that StackOptions started: the run restarts its parts.
	Stack *stack.Stack
	Seed  uint64
	// Length is how long events are written and things go wrong. Default 2 minutes.
	Length time.Duration
	// Drain is how long it may take after that until nothing is left, apart from the time
	// that a backlog takes. Default 3 minutes, and 8 if Length is 5 or more.
	Drain    time.Duration
	Progress io.Writer
	Workers  int  // Default 2
	Rate     int  // events a second. Default 60
	Burst    int  // events of one key in a transaction. Default one to three
	Pinned   bool // workers are versions of a deployment; a promotion needs it
	// Topics is how many topics have their part of the events. Those beyond the first four are of all
	// kinds, with and without a limit, and several of them share a destination. Default and least: 4.
	Topics int
	// Batches is the value of OUTBOX_BATCHES of each worker, or Mixed. Default Mixed.
	Batches Batches

	// Program is the import path of the worker. Default: the real worker. WorkerEnv is
	// added to its environment.
	Program   string
	WorkerEnv []string
	// Plan replaces the plan that follows from the seed, and ConstantFaults the faults of
	// AWS that are always there.
	Plan           []plan.Step
	ConstantFaults []faults.Rule

	wide bool // the rare topics are written to
}

// Batches says which workers share the lanes of all topics.
type Batches string

// The values of Batches.
const (
	Shared    Batches = "shared"
	PerTopics Batches = "topics"
	// Mixed: the first workers share lanes. Of those that take their places later, and of those of a new
	// version, each third does not.
	Mixed Batches = "mixed"
)

// of is the value for a worker, the first one being 1, in a run with so many at a time.
func (b Batches) of(worker, workers int) Batches {
	switch {
	case b != Mixed:
		return b
	case worker > workers && worker%3 == 0:
		return PerTopics
	}
	return Shared
}

// topics are those that each run writes to.
var topics = plan.Topics{
	All:   []string{"orders", "ledger", "audit", "inventory"},
	Topic: "orders", Queue: "audit", Keys: load.Keys(), Old: load.OldKeys(),
}

// shares of the events: of each of the first four topics, and of a busy one of each destination of
// the others.
const (
	eventsOfFirst = 12
	eventsOfBusy  = 4
)

// topics are those that the run writes to, as a plan needs to know them. Names come as often as
// their topic has its part of the events.
func (c Config) topics() plan.Topics {
	all := topics
	for _, d := range crowd(c.Topics - len(destinations)) {
		names := append(slices.Repeat(d.topics[:1], eventsOfBusy), d.topics[1:]...)
		all.Crowd = append(all.Crowd, names...)
		if !d.lets {
			all.Mortal = append(all.Mortal, names...)
		}
	}
	return all
}

// loaded are the topics to which producers write, each as often as it has its part.
func (c Config) loaded() []string {
	t := c.topics()
	if len(t.Crowd) == 0 {
		return t.All
	}
	return append(slices.Repeat(t.All, eventsOfFirst), t.Crowd...)
}

// constantFaults are injected for the whole run, each into few requests.
var constantFaults = []faults.Rule{
	{Kind: faults.FailEntry, Share: .005},
	{Kind: faults.OmitAccepted, Share: .002},
	{Kind: faults.DropAnswer, Share: .003},
	{Kind: faults.Throttle, Share: .005},
}

const (
	runEvery = 5 * time.Second
	// Runs are short in a run of few minutes, so that many of them end and begin, and a
	// promoted version takes over soon. In a long one they are as long as in production.
	runForShort = 20 * time.Second
	runForLong  = 2 * time.Minute
)

// long reports whether a run has time for faults that take minutes.
func (c Config) long() bool { return c.Length >= plan.Long }

func (c Config) runFor() time.Duration {
	if c.long() {
		return runForLong
	}
	return runForShort
}

// rare are the topics with few events each: one that has no route at first, and hundreds
// that share a destination.
func (c Config) rare() []string {
	if !c.wide {
		return nil
	}
	names := slices.Repeat([]string{unrouted}, many) // half of what the others have together
	return append(names, manyTopics()...)
}

const (
	unrouted = "later"
	many     = 200
)

func manyTopics() (names []string) {
	for n := range many {
		names = append(names, fmt.Sprintf("many-%03d", n))
	}
	return names
}

func (c Config) withDefaults() Config {
	if c.Length == 0 {
		c.Length = 2 * time.Minute
	}
	if c.Drain == 0 {
		c.Drain = 3 * time.Minute
		if c.long() {
			c.Drain = 8 * time.Minute
		}
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.Rate == 0 {
		c.Rate = 60
	}
	c.Topics = max(c.Topics, len(destinations))
	if c.Batches == "" {
		c.Batches = Mixed
	}
	if c.Program == "" {
		c.Program = module + "worker"
	}
	if c.Plan == nil {
		c.wide = true
		c.Plan = plan.Make(c.Seed, c.Length, c.topics(), c.Workers)
	}
	if c.ConstantFaults == nil {
		c.ConstantFaults = constantFaults
	}
	return c
}

// own hides the servers that the environment names: a run restarts its servers, so they
// must be its own.
func own(getenv func(string) string) func(string) string {
	return func(name string) string {
		switch name {
		case "DATABASE_URL", "TEMPORAL_ADDRESS", "AWS_ENDPOINT_URL":
			return ""
		}
		return getenv(name)
	}
}

// StackOptions are the options of a stack that a run can use.
func StackOptions(getenv func(string) string, status io.Writer) stack.Options {
	return stack.Options{Getenv: own(getenv), Status: status, Durable: true}
}
