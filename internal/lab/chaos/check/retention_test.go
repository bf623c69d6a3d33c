package check

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// discarded are the facts of a run in which all went well: an operator discarded the
// first delivery of an event of each topic, which did not come, and a replay of others.
func discarded() Facts {
	f := replayed()
	f.Discards = map[string][]int64{"ledger/a/2": {0}, "audit/a/2": {0}, "ledger/a/4": {12}, "audit/a/4": {15}}
	for _, m := range []struct {
		queue, event string
		seconds      float64
	}{
		{"fifo", "ledger/a/2", 1.5},
		{"standard", "audit/a/2", 1.5},
		{"fan-out", "audit/a/2", 1.5},
		{"fifo", "ledger/a/4", 24},
		{"standard", "audit/a/4", 24.5},
		{"fan-out", "audit/a/4", 24.5},
	} {
		without(&f, message(f, m.queue, m.event, m.seconds))
	}
	f.Drops = []Drop{{Partition: "event_20261028", At: at(30), Events: 7}}
	return f
}

func TestDiscarded_EventsNeedNotBeReceived(t *testing.T) {
	require.Empty(t, Check(discarded()).Violations)
}

func TestDiscarded_EachBrokenPromiseAndThatOfRetentionIsFoundAndNamed(t *testing.T) {
	come := func(f *Facts, queue, event, deduplication string, seconds float64) {
		r := arrive(queue, *writtenAs(*f, event), seconds)
		if queue == "fifo" {
			r.Deduplication = deduplication
		}
		f.Received = append(f.Received, r)
		slices.SortStableFunc(f.Received, func(a, b Received) int { return a.Sent.Compare(b.Sent) })
	}
	for name, c := range map[string]struct {
		change func(*Facts)
		want   Rule
	}{
		"a discarded event comes from a FIFO queue":     {func(f *Facts) { come(f, "fifo", "ledger/a/2", "ledger/a/2", 1.5) }, Phantom},
		"a discarded event comes from a standard queue": {func(f *Facts) { come(f, "standard", "audit/a/2", "", 1.5) }, Phantom},
		"a discarded replay comes from a FIFO queue":    {func(f *Facts) { come(f, "fifo", "ledger/a/4", "ledger/a/4/12", 24) }, Phantom},
		"a discarded replay comes from a standard queue": {func(f *Facts) {
			come(f, "standard", "audit/a/4", "", 60)
		}, Repeated},
		"another replay of a discarded one's event is lost": {func(f *Facts) {
			without(f, message(*f, "fifo", "ledger/a/4", 24.5))
		}, Lost},
		"an event is lost whose replay was discarded": {func(f *Facts) {
			without(f, message(*f, "standard", "audit/a/4", 3.5))
		}, Lost},
		"another event of a discarded one's key is lost": {func(f *Facts) {
			without(f, message(*f, "fifo", "ledger/a/1", .5))
		}, Lost},
		"what nobody committed is discarded": {func(f *Facts) { f.Discards["undone"] = []int64{0} }, Harness},
		"a partition is dropped with something pending or dead": {func(f *Facts) {
			f.Drops = append(f.Drops, Drop{Partition: "event_20261029", At: at(31), Events: 3, Needed: 1})
		}, Retention},
		"an event is gone, and no partition with it": {func(f *Facts) { f.Vanished = []string{"ledger/a/9"} }, Retention},
		"a partition of which nothing is needed stays": {func(f *Facts) {
			f.Remaining = []Remaining{{"kept", "the partition of 2026-10-28"}}
		}, Left},
	} {
		t.Run(name, func(t *testing.T) {
			f := discarded()
			c.change(&f)
			v := Check(f).Violations
			require.Len(t, v, 1, "one rule, and no other: %v", v)
			require.Equal(t, c.want, v[0].Rule)
		})
	}
}

// It was accepted, nobody heard of it, the next attempt was refused, and so it died.
func TestDiscarded_EventsMayHaveComeBeforeTheirDeadLetter(t *testing.T) {
	f := discarded()
	for _, event := range []string{"ledger/a/2", "audit/a/2"} {
		for _, q := range f.Queues {
			if w := writtenAs(f, event); q.Topic == w.Topic {
				f.Received = append(f.Received[:1:1], append([]Received{arrive(q.Name, *w, 1.5)}, f.Received[1:]...)...)
			}
		}
	}
	for i := range f.Sends {
		if f.Sends[i].EventID == "ledger/a/2" {
			unheard(&f.Sends[i])
		}
	}
	f.Evidence = recorded("audit/a/2", Evidence{Held: []Hold{{At: at(12)}}})
	f.Faults = []Fault{{Kind: "kill", Start: at(1.6), End: at(1.6), Role: Death, Process: "w1"}}
	require.Empty(t, Check(f).Violations)
}

// everywhere is an event's message in each queue of its topic, at each of some times.
func everywhere(f Facts, w *Written, seconds ...float64) (all []Received) {
	for _, q := range f.Queues {
		for _, s := range seconds {
			if q.Topic == w.Topic {
				all = append(all, arrive(q.Name, *w, s))
			}
		}
	}
	return all
}

// A failover undid the settlement of an event twice; then the event died and was discarded.
func TestDiscarded_EventsMayHaveComeTwiceBeforeTheirDeadLetter(t *testing.T) {
	f := discarded()
	w := writtenAs(f, "audit/a/2")
	f.Sends = append(f.Sends, send(w.ID, "w1", 1.5), send(w.ID, "w1", 20))
	f.Received = append(f.Received, everywhere(f, w, 1.5, 20)...)
	f.Evidence = recorded(w.ID, Evidence{Undone: []time.Time{at(1.6), at(20.1)}})
	require.Empty(t, Check(f).Violations)
}

// A dead letter was redriven and sent, and the primary that knew of both was lost. For the new
// one it was dead all the time, and then it was discarded.
func TestDiscarded_EventsMayHaveComeByARedriveThatWasLost(t *testing.T) {
	f := discarded()
	w := writtenAs(f, "audit/a/2")
	f.Sends = append(f.Sends, send(w.ID, "w1", 12))
	f.Received = append(f.Received, everywhere(f, w, 12)...)
	f.Faults = []Fault{{Kind: "failover", Start: at(11), End: at(14), Role: NewPrimary}}
	v := Check(f).Violations
	require.Len(t, v, 1)
	require.Equal(t, Phantom, v[0].Rule)
	for _, redriven := range []float64{0.9, 12.1} { // long before the fault, and after it was sent
		f.Evidence = recorded(w.ID, Evidence{Unpended: []time.Time{at(redriven)}})
		require.Len(t, Check(f).Violations, 1)
	}
	f.Evidence = recorded(w.ID, Evidence{Unpended: []time.Time{at(11.5)}})
	require.Empty(t, Check(f).Violations)

	// One redrive brings one message to each queue.
	f.Sends = append(f.Sends, send(w.ID, "w1", 13))
	f.Received = append(f.Received, everywhere(f, w, 13)...)
	require.NotEmpty(t, Check(f).Violations)
	f.Evidence = recorded(w.ID, Evidence{Unpended: []time.Time{at(11.5), at(12.5)}})
	require.Empty(t, Check(f).Violations)
}

// The claim by which it was sent went with the old primary. Another attempt has the lane, and
// makes the event a dead letter: on the new primary, one before it in its key is dead.
func TestDiscarded_EventsMayHaveComeFromALaneOfTwoHolders(t *testing.T) {
	f := discarded()
	w := writtenAs(f, "audit/a/2")
	f.Sends = append(f.Sends, send(w.ID, "w1", 12))
	f.Received = append(f.Received, everywhere(f, w, 12)...)
	f.Faults = []Fault{{Kind: "restore", Start: at(10), End: at(11), Role: NewPrimary}}
	lost, other := Hold{At: at(10.5), Process: "w1", Holder: "a", Lost: true}, Hold{At: at(11.2), Process: "w2", Holder: "b"}
	known := lost
	known.Lost = false
	for name, held := range map[string][]Hold{"one holder": {lost}, "no claim was lost": {known, other}} {
		f.Evidence = recorded(w.ID, Evidence{Held: held})
		require.Len(t, Check(f).Violations, 1, name)
	}
	f.Evidence = recorded(w.ID, Evidence{Held: []Hold{lost, other}})
	require.Empty(t, Check(f).Violations)
	f.Evidence = recorded(w.ID, Evidence{Held: []Hold{lost, other}, Settled: []time.Time{at(11.1)}})
	require.Len(t, Check(f).Violations, 1, "it was settled before the other one had the lane")
}

// A failover undid the settlement of a replay. Then it died and was discarded.
func TestDiscarded_ReplaysMayHaveComeBeforeTheirDeadLetter(t *testing.T) {
	f := discarded()
	w := writtenAs(f, "audit/a/4")
	f.Received = append(f.Received, everywhere(f, w, 24.5)...)
	settled := Evidence{Settled: []time.Time{at(24.8)}}
	f.Evidence = recorded(w.ID, settled)
	v := Check(f).Violations
	require.Len(t, v, 1)
	require.Equal(t, Repeated, v[0].Rule)

	settled.Undone, settled.Settled = settled.Settled, nil
	f.Evidence = recorded(w.ID, settled)
	require.Empty(t, Check(f).Violations)
	require.Equal(t, map[string]int{CauseUndone: 2}, Check(f).Counts.Duplicates)
}

// The first message's answer was lost. The second one was told of, and its event must not die.
func TestDiscarded_EventsThatWereAcknowledgedNeedACause(t *testing.T) {
	f := discarded()
	w := writtenAs(f, "audit/a/2")
	first := send(w.ID, "w1", 1.5)
	unheard(&first)
	f.Sends = append(f.Sends, first, send(w.ID, "w1", 20))
	f.Received = append(f.Received, everywhere(f, w, 1.5, 20)...)
	v := Check(f).Violations
	require.Len(t, v, 1)
	require.Equal(t, Phantom, v[0].Rule)
	f.Evidence = recorded(w.ID, Evidence{Undone: []time.Time{at(20.1)}})
	require.Empty(t, Check(f).Violations)
}
