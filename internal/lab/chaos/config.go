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

// topics are those that a run writes to.
var topics = plan.Topics{
	All:   []string{"orders", "ledger", "audit", "inventory"},
	Topic: "orders", Queue: "audit", Keys: load.Keys(), Old: load.OldKeys(),
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
	names := slices.Repeat([]string{unrouted}, manyTopics) // half of what the others have together
	for n := range manyTopics {
		names = append(names, many(n))
	}
	return names
}

const (
	unrouted   = "later"
	manyTopics = 200
)

func many(n int) string { return fmt.Sprintf("many-%03d", n) }

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
	if c.Program == "" {
		c.Program = module + "worker"
	}
	if c.Plan == nil {
		c.wide = true
		c.Plan = plan.Make(c.Seed, c.Length, topics, c.Workers)
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
