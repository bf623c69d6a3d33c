package chaos

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

// Report is what a run showed. Times are in seconds.
type Report struct {
	OK          bool              `json:"ok"`
	Seed        uint64            `json:"seed"`
	Seconds     float64           `json:"seconds"`
	Workers     int               `json:"workers"`
	Topics      int               `json:"topics"` // with their part of the events
	Batches     Batches           `json:"batches"`
	Committed   int               `json:"committed"`
	RolledBack  int               `json:"rolledBack"`
	LostCommits int               `json:"lostCommits"` // with an old primary
	LostReplays int               `json:"lostReplays"` // the same
	Orphans     int               `json:"orphans"`     // messages of these, all queues together
	Received    int               `json:"received"`    // messages, all queues together
	Redelivered int               `json:"redelivered"`
	Duplicates  map[string]int    `json:"duplicates"` // by cause
	Faults      map[string]int    `json:"faults"`     // by kind
	Operations  Operations        `json:"operations"`
	Retention   Retention         `json:"retention"`
	Recovery    Slowest           `json:"slowestRecovery"`
	Slowest     float64           `json:"slowestEventSeconds"` // from commit to reception
	Drain       float64           `json:"drainSeconds"`        // from the last fault until nothing was left
	Violations  []check.Violation `json:"violations"`
	Notes       []string          `json:"notes,omitempty"`
	Plan        []plan.Step       `json:"plan"`
}

// Slowest is the longest time from the end of a fault to the next acknowledgement
// of a topic that it concerned.
type Slowest struct {
	Seconds float64 `json:"seconds"`
	After   string  `json:"after"`
	Topic   string  `json:"topic"`
}

// Operations counts the events that operators redrove, replayed and discarded.
type Operations struct {
	Dead     map[string]int `json:"dead"`     // became dead letters, as often as they did, by code
	Redriven int            `json:"redriven"` // those of the drain included
	Replayed int            `json:"replayed"`
	// ReplayedOld are those of the replayed whose day retention was to drop.
	ReplayedOld int `json:"replayedOld"`
	Discarded   int `json:"discarded"`

	gone int // events that retention has dropped or deleted
}

// Retention counts the expired partitions and their events.
type Retention struct {
	Dropped int `json:"dropped"` // partitions
	Events  int `json:"events"`  // that went with them, or out of the default partition
	// Needed is how often the harness tried to drop one of which something was pending
	// or dead. Attempts of Maintenance are not counted.
	Needed int `json:"needed"`
}

func (fx *fixture) report(facts check.Facts, done Operations, drained time.Duration) (*Report, error) {
	verdict, err := check.Judge(facts, fx.observed)
	if err != nil {
		return nil, err
	}
	slowest := check.Slowest(facts.Faults, fx.acknowledged())
	c := verdict.Counts
	injected := maps.Clone(fx.happened)
	for kind, n := range fx.proxy.Injected() {
		injected[string(kind)] += n
	}
	retention := Retention{Dropped: len(facts.Drops), Events: done.gone, Needed: injected[partitionNeeded]}
	injected[string(plan.DropPartition)] = retention.Dropped
	return &Report{
		OK: len(verdict.Violations) == 0, Seed: fx.cfg.Seed, Seconds: fx.cfg.Length.Seconds(), Workers: fx.cfg.Workers,
		Topics: fx.cfg.Topics, Batches: fx.cfg.Batches,
		Committed: c.Committed, RolledBack: c.RolledBack, LostCommits: c.LostCommits, LostReplays: c.LostReplays, Orphans: c.Orphans,
		Received: c.Received, Redelivered: c.Redelivered,
		Duplicates: c.Duplicates, Faults: injected, Operations: done, Retention: retention,
		Recovery: Slowest{slowest.Took.Seconds(), slowest.Kind, slowest.Topic},
		Slowest:  c.SlowestEvent.Seconds(), Drain: drained.Seconds(),
		Violations: verdict.Violations, Notes: fx.notes, Plan: fx.cfg.Plan,
	}, nil
}

// acknowledged returns, by outbox topic, the times at which the relay received an
// acknowledgement.
func (fx *fixture) acknowledged() map[string][]time.Time {
	acks := fx.proxy.Acknowledged()
	byTopic := make(map[string][]time.Time)
	for _, topic := range topics.All {
		times := acks[fx.aim(topic)]
		slices.SortFunc(times, time.Time.Compare)
		byTopic[topic] = times
	}
	return byTopic
}

// Print writes the report for people.
func (l *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "\nseed %d, %.0f s, %d topics, %d workers, batches %s\n\n", l.Seed, l.Seconds, l.Topics, l.Workers, l.Batches)
	fmt.Fprintf(w, "events      %6d committed, %d rolled back\n", l.Committed, l.RolledBack)
	fmt.Fprintf(w, "failover    %6d commits lost with an old primary, and %d replays; %d messages of these had been published\n", l.LostCommits, l.LostReplays, l.Orphans)
	fmt.Fprintf(w, "messages    %6d received, %d delivered again by their queue\n", l.Received, l.Redelivered)
	fmt.Fprintf(w, "operators   %6d redriven, %d replayed (%d of expired days), %d discarded\n",
		l.Operations.Redriven, l.Operations.Replayed, l.Operations.ReplayedOld, l.Operations.Discarded)
	fmt.Fprintf(w, "retention   %6d partitions dropped, %d events gone; %d times a partition stayed because its events were needed\n", l.Retention.Dropped, l.Retention.Events, l.Retention.Needed)
	fmt.Fprintf(w, "slowest     %6.1f s from the commit of an event to its reception\n", l.Slowest)
	fmt.Fprintf(w, "recovery    %6.1f s from the end of a fault to the next acknowledgement, at most; after: %s (%s)\n", l.Recovery.Seconds, l.Recovery.After, l.Recovery.Topic)
	fmt.Fprintf(w, "drained     %6.1f s after the last event was written\n", l.Drain)
	printCounts(w, "faults", l.Faults)
	printCounts(w, "dead letters by code", l.Operations.Dead)
	printCounts(w, "duplicates by cause", l.Duplicates)
	for _, note := range l.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", note)
	}
	if l.OK {
		fmt.Fprintln(w, "\nevery check held")
		return
	}
	fmt.Fprintln(w, "\nBROKEN PROMISES")
	for _, v := range l.Violations {
		fmt.Fprintf(w, "  %s: %s\n", v.Rule, v.Text)
	}
}

func printCounts(w io.Writer, title string, counts map[string]int) {
	fmt.Fprintf(w, "\n%s\n", title)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "  %6d  %s\n", counts[name], name)
	}
	if len(counts) == 0 {
		fmt.Fprintln(w, "       0")
	}
}
