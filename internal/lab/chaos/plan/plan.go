// Package plan decides which fault happens when. A plan is a pure function of a seed and
// a length, so you can repeat the plan of a run that found something.
package plan

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
)

// Step is one fault or one command, at its time.
type Step struct {
	At     time.Duration `json:"at"`
	For    time.Duration `json:"for"`
	Kind   Kind          `json:"kind"`
	Topic  string        `json:"topic,omitempty"`  // outbox topic; empty: all
	Worker int           `json:"worker,omitempty"` // which of them
	Share  float64       `json:"share,omitempty"`  // of requests or entries
	Key    string        `json:"key,omitempty"`    // whose events; empty: of all keys
}

func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%5.1fs  %s", s.At.Seconds(), s.Kind)
	if s.Topic != "" {
		fmt.Fprintf(&b, " · %s", s.Topic)
	}
	if s.Key != "" {
		fmt.Fprintf(&b, " · key %.20q", s.Key)
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
	// round is the time in which every kind has its turn once, and longRound that in which
	// every kind has it twice, and what takes minutes once.
	round     = 2 * time.Minute
	longRound = 5 * time.Minute
	// LongestOutage is how long the database is away at most: longer than a run of two
	// minutes, and than a lease.
	LongestOutage = 140 * time.Second
	// calm is how long nothing is done at the beginning, and at least at the end.
	calm = 4 * time.Second
	// Long is the least length of a plan with what takes minutes: stalls past the lease,
	// and outages past a run.
	Long = longRound
)

// Topics are those that the harness writes to, as a plan needs to know them.
type Topics struct {
	All   []string
	Topic string   // has an SNS topic that may be deleted
	Queue string   // has an SQS queue that may be deleted
	Keys  []string // that all of them have events of
	Old   []string // those of them that have events of days that retention drops
	// Crowd are topics beside All, for which there are steps of their own: the names of topics with more
	// events come more often. Mortal are those of them whose events may be refused for good.
	Crowd, Mortal []string
}

// Make returns the steps of a plan in the order of their beginning. All are over
// when the length is.
func Make(seed uint64, length time.Duration, topics Topics, workers int) []Step {
	dice := rand.New(rand.NewPCG(seed, 1))
	operatorsDice := rand.New(rand.NewPCG(seed, 3))
	crowdDice := rand.New(rand.NewPCG(seed, 4))
	var steps []Step
	rounds, turns := max(1, int(length/round)), 1
	if length >= Long {
		rounds, turns = int(length/longRound), 2
	}
	for r := range rounds {
		from := length * time.Duration(r) / time.Duration(rounds)
		to := length * time.Duration(r+1) / time.Duration(rounds)
		// Sequences beside each other, each without overlaps of its own.
		for _, kinds := range []func() []Step{
			func() []Step { return destinations(dice, topics) },
			func() []Step { return processes(dice, topics, workers) },
			func() []Step { return neighbours(dice) },
			func() []Step { return holders(dice) },
		} {
			steps = append(steps, sequence(dice, repeat(turns, kinds), from+calm, to-calm)...)
		}
		steps = append(steps, sequence(operatorsDice, repeat(turns, func() []Step { return operators(operatorsDice, topics) }), from+calm, to-calm)...)
		if len(topics.Crowd) > 0 {
			for _, kinds := range []func(*rand.Rand, Topics) []Step{crowdFaults, crowdOperators} {
				steps = append(steps, sequence(crowdDice, repeat(turns, func() []Step { return kinds(crowdDice, topics) }), from+calm, to-calm)...)
			}
		}
		if length >= Long {
			steps = append(steps, lasting(dice, r, workers, from+calm, to-calm)...)
		}
	}
	steps = append(steps, Step{Kind: RouteTopic, At: (length / 2).Round(100 * time.Millisecond)})
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps
}

// firstOfAll are kinds that come early: those that take two minutes to recover from, so
// that a run of two minutes shows the recovery, and the one that makes the dead letters
// which are redriven later.
var firstOfAll = []Kind{TerminateRecovery, LostRefusal, Kind(faults.Poison)}

// sequence shuffles steps and spreads them over a time. If the steps
// do not fit into the time, each becomes shorter.
func sequence(dice *rand.Rand, steps []Step, from, to time.Duration) []Step {
	dice.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for i, s := range steps {
		if slices.Contains(firstOfAll, s.Kind) {
			early := dice.IntN(2)
			steps[i], steps[early] = steps[early], steps[i]
		}
	}
	// A step takes its own length, and all steps share the rest of the time.
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

func processes(dice *rand.Rand, topics Topics, workers int) []Step {
	steps := []Step{
		{Kind: Kill, For: seconds(2)},
		{Kind: Stall, For: seconds(12 + 3*dice.Float64())},
		{Kind: Terminate, For: seconds(2)},
		{Kind: Promote, For: seconds(4)},
		{Kind: LostClaim, For: seconds(5)},
		{Kind: LostRefusal, For: seconds(5)},
		{Kind: Kill, For: seconds(2)},
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
	failover := []Kind{FailOver, FailOverEarly}[dice.IntN(2)]
	return []Step{
		{Kind: SlowDatabase, For: seconds(6)},
		{Kind: ResetDatabase, For: 0},
		{Kind: ResetDatabase, For: 0},
		{Kind: CutDatabase, For: seconds(2 + 4*dice.Float64())},
		{Kind: RestartDatabase, For: seconds(1 + 2*dice.Float64())},
		{Kind: RestartTemporal, For: seconds(2 + 3*dice.Float64())},
		{Kind: DropPartition, For: seconds(6)},
		{Kind: failover, For: seconds(4 + 4*dice.Float64())},
		{Kind: Restore, For: seconds(4 + 4*dice.Float64())},
	}
}

// holders are transactions of other applications, and faults of partitions.
func holders(dice *rand.Rand) []Step {
	return []Step{
		{Kind: HoldWriter, For: seconds(10 + 10*dice.Float64())},
		{Kind: PrepareTransaction, For: seconds(10 + 10*dice.Float64())},
		{Kind: ExhaustPartitions, For: seconds(4)},
		{Kind: ExhaustPartitions, For: seconds(4)},
	}
}

// lasting takes minutes, in the middle of a round: an outage of the database that is longer
// than a run of two minutes and than a lease, or by turns a stall that is longer than a lease.
func lasting(dice *rand.Rand, round, workers int, from, to time.Duration) []Step {
	step := Step{Kind: LongCut, For: LongestOutage}
	if round%2 == 1 {
		step = Step{Kind: LongStall, For: seconds(64 + 4*dice.Float64()), Worker: dice.IntN(workers)}
	}
	step.At = (from + (to-from-step.For)/2).Round(100 * time.Millisecond)
	return []Step{step}
}

// repeat gives all kinds several turns.
func repeat(turns int, kinds func() []Step) (steps []Step) {
	for range turns {
		steps = append(steps, kinds()...)
	}
	return steps
}
