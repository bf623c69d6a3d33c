// Package plan decides what goes wrong when. A plan is a pure function of a seed
// and a length, so that a run that found something can be asked for again.
package plan

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/localstack/chaos/faults"
)

// Kind is what is done. Kinds of package faults are kinds of a plan as well.
type Kind string

// What is done to workers.
const (
	Kill        Kind = "worker killed"                 // SIGKILL, and another one in its place
	Stall       Kind = "worker stalled"                // SIGSTOP past its heartbeat timeout, SIGCONT
	LongStall   Kind = "worker stalled past its lease" // the same, for more than a minute
	Terminate   Kind = "worker stopped"                // SIGTERM, and another one in its place
	Promote     Kind = "version promoted"              // a new version's workers take over
	LostRefusal Kind = "refusal lost"                  // all workers killed between a topic's pause and the answer that starts its recovery
	LostClaim   Kind = "claim lost"                    // all workers killed between a claim and its answer
)

// What is done to PostgreSQL and Temporal.
const (
	SlowDatabase    Kind = "database slow"
	ResetDatabase   Kind = "database connections reset"
	CutDatabase     Kind = "database cut off"
	RestartDatabase Kind = "database restarted"
	RestartTemporal Kind = "temporal restarted"
	DropPartition   Kind = "partition dropped"
)

// What is done to destinations, beside the kinds of package faults.
const (
	RecreateTopic Kind = "topic recreated"
	RecreateQueue Kind = "queue recreated"
)

// What is done to the workflow that takes care of a destination to which access is
// denied, while it is.
const (
	TerminateRecovery Kind = "recovery terminated"
	PauseRecovery     Kind = "recovery paused"
	ResetRecovery     Kind = "recovery reset"
)

// Step is one thing that is done.
type Step struct {
	At     time.Duration `json:"at"`
	For    time.Duration `json:"for"`
	Kind   Kind          `json:"kind"`
	Topic  string        `json:"topic,omitempty"`  // outbox topic; empty: all
	Worker int           `json:"worker,omitempty"` // which of them
	Share  float64       `json:"share,omitempty"`  // of requests or entries
}

func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%5.1fs  %s", s.At.Seconds(), s.Kind)
	if s.Topic != "" {
		fmt.Fprintf(&b, " · %s", s.Topic)
	}
	if s.Share > 0 && s.Share < 1 {
		fmt.Fprintf(&b, " · %.0f%%", 100*s.Share)
	}
	if s.For > 0 {
		fmt.Fprintf(&b, " · for %.1fs", s.For.Seconds())
	}
	return b.String()
}

// End is when a step is over.
func (s Step) End() time.Duration { return s.At + s.For }

const (
	// round is the time in which every kind has its turn once.
	round = 2 * time.Minute
	// calm is how long nothing is done at the beginning, and at least at the end.
	calm = 4 * time.Second
	// longEnough is the least length of a plan with stalls past the lease.
	longEnough = 5 * time.Minute
)

// Topics are those that the harness writes to, as a plan needs to know them.
type Topics struct {
	All   []string
	Topic string // has an SNS topic that may be deleted
	Queue string // has an SQS queue that may be deleted
}

// Make returns the steps of a plan in the order of their beginning. All are over
// when the length is.
func Make(seed uint64, length time.Duration, topics Topics, workers int) []Step {
	dice := rand.New(rand.NewPCG(seed, 1))
	var steps []Step
	rounds := max(1, int(length/round))
	for r := range rounds {
		from := length * time.Duration(r) / time.Duration(rounds)
		to := length * time.Duration(r+1) / time.Duration(rounds)
		// Three sequences beside each other, each without overlaps of its own.
		for _, kinds := range [][]Step{destinations(dice, topics), processes(dice, topics, workers, length), neighbours(dice)} {
			steps = append(steps, sequence(dice, kinds, from+calm, to-calm)...)
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps
}

// sequence shuffles steps and spreads them over a time. What does not fit into its
// place is cut.
func sequence(dice *rand.Rand, steps []Step, from, to time.Duration) []Step {
	dice.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	// What takes two minutes to recover from comes early, so that a run that is no
	// longer than that shows the recovery.
	for i, s := range steps {
		if s.Kind == TerminateRecovery || s.Kind == LostRefusal {
			early := dice.IntN(2)
			steps[i], steps[early] = steps[early], steps[i]
		}
	}
	// A step takes what it lasts, and all share what is left.
	var needed time.Duration
	for _, s := range steps {
		needed += s.For
	}
	spare := max(0, to-from-needed) / time.Duration(len(steps))
	at := from
	for i := range steps {
		s := &steps[i]
		if needed > to-from {
			s.For = s.For * (to - from) / needed
		}
		s.At = at + time.Duration(dice.Int64N(int64(spare)+1))
		s.At, s.For = s.At.Round(100*time.Millisecond), s.For.Round(100*time.Millisecond)
		at += s.For + spare
	}
	return steps
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func destinations(dice *rand.Rand, topics Topics) []Step {
	any := func() string { return topics.All[dice.IntN(len(topics.All))] }
	steps := []Step{
		{Kind: RecreateTopic, Topic: topics.Topic, For: seconds(5)},
		{Kind: RecreateQueue, Topic: topics.Queue, For: seconds(5)},
		{Kind: TerminateRecovery, Topic: any(), For: seconds(8)},
		{Kind: PauseRecovery, Topic: any(), For: seconds(8)},
		{Kind: ResetRecovery, Topic: any(), For: seconds(8)},
	}
	for _, f := range []struct {
		kind  faults.Kind
		share float64
	}{
		{faults.FailEntry, .3},
		{faults.ThrottleEntry, .3},
		{faults.OmitAccepted, .2},
		{faults.OmitDropped, .3},
		{faults.DropAnswer, .3},
		{faults.DropRequest, .4},
		{faults.Throttle, .6},
		{faults.ServerError, .6},
		{faults.Slow, .8},
		{faults.Hang, .1},
		{faults.HangAfter, .1},
	} {
		steps = append(steps, Step{Kind: Kind(f.kind), Share: f.share, For: seconds(3 + 2*dice.Float64())})
	}
	return steps
}

func processes(dice *rand.Rand, topics Topics, workers int, length time.Duration) []Step {
	steps := []Step{
		{Kind: Kill, For: seconds(2)},
		{Kind: Stall, For: seconds(12 + 3*dice.Float64())},
		{Kind: Terminate, For: seconds(2)},
		{Kind: Promote, For: seconds(4)},
		{Kind: LostClaim, For: seconds(5)},
		{Kind: LostRefusal, For: seconds(5)},
		{Kind: Kill, For: seconds(2)},
	}
	if length >= longEnough && dice.IntN(2) == 0 {
		steps = append(steps, Step{Kind: LongStall, For: seconds(64 + 4*dice.Float64())})
	}
	for i := range steps {
		steps[i].Worker = dice.IntN(workers)
		if steps[i].Kind == LostRefusal {
			steps[i].Topic = topics.All[dice.IntN(len(topics.All))]
		}
	}
	return steps
}

func neighbours(dice *rand.Rand) []Step {
	return []Step{
		{Kind: SlowDatabase, For: seconds(6)},
		{Kind: ResetDatabase, For: 0},
		{Kind: ResetDatabase, For: 0},
		{Kind: CutDatabase, For: seconds(2 + 4*dice.Float64())},
		{Kind: RestartDatabase, For: seconds(1 + 2*dice.Float64())},
		{Kind: RestartTemporal, For: seconds(2 + 3*dice.Float64())},
		{Kind: DropPartition, For: seconds(1)},
	}
}
