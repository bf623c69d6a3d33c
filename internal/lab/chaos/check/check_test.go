package check

import (
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

// sound are the facts of a run in which all went well: ten events of each of two
// keys to a FIFO topic and a standard one, and one that was rolled back.
func sound() Facts {
	f := Facts{
		Queues: []Queue{
			{Name: "fifo", Topic: "ledger", Ordered: true, Groups: true},
			{Name: "standard", Topic: "audit"},
			{Name: "fan-out", Topic: "audit"},
		},
	}
	for n := range 10 {
		for _, key := range []string{"a", "k 2"} {
			for _, topic := range []string{"ledger", "audit"} {
				w := Written{
					ID: fmt.Sprintf("%s/%s/%d", topic, key, n+1), Topic: topic, Key: key, Seq: int64(n + 1), Type: "T", ContentType: "text/plain",
					Payload: fmt.Sprint("payload ", n), Attributes: map[string]string{"tenant": "t"}, Outcome: Committed, At: at(float64(n)),
				}
				f.Written = append(f.Written, w)
				f.Sends = append(f.Sends, send(w.ID, "w1", float64(n)+.5))
				for _, q := range f.Queues {
					if q.Topic == topic {
						f.Received = append(f.Received, arrive(q.Name, w, float64(n)+.5))
					}
				}
			}
		}
	}
	f.Written = append(f.Written, Written{ID: "undone", Topic: "audit", Outcome: RolledBack})
	return f
}

// arrive is the message of an event, as it should be.
func arrive(queue string, w Written, seconds float64) Received {
	r := Received{
		Queue: queue, MessageID: fmt.Sprint(w.ID, "@", seconds), EventID: w.ID, Payload: w.Payload,
		Attributes: map[string]string{"tenant": "t", "event_id": w.ID, "event_type": w.Type, "content_type": w.ContentType},
		Sent:       at(seconds), Arrived: at(seconds + .25),
	}
	if queue == "fifo" {
		r.Group, r.Deduplication = map[string]string{"a": "a", "k 2": "sha256:x"}[w.Key], w.ID
	}
	return r
}

// send is a request that was accepted and answered around an instant.
func send(event, process string, seconds float64) Send {
	return Send{EventID: event, Process: process, Began: at(seconds - .01), Ended: at(seconds + .01), Told: true}
}

// repeated has an event sent once more, by a process that hears of it or not, and come in a
// queue.
func repeated(f *Facts, queue, event, process string, seconds float64, before ...func(*Send)) {
	r := f.Received[find(*f, queue, event)]
	r.MessageID, r.Sent, r.Arrived = fmt.Sprint(event, "@", seconds), at(seconds), at(seconds+.25)
	f.Received = append(f.Received, r)
	for i := range f.Sends {
		for _, change := range before {
			if f.Sends[i].EventID == event {
				change(&f.Sends[i])
			}
		}
	}
	f.Sends = append(f.Sends, send(event, process, seconds))
}

// unheard makes a request one whose answer was lost.
func unheard(s *Send) { s.Told = false }

// recorded is the evidence of one event.
func recorded(event string, e Evidence) func([]Lookup) (map[string]Evidence, error) {
	return func([]Lookup) (map[string]Evidence, error) { return map[string]Evidence{event: e}, nil }
}

// shares are the holds of two workers that have the share one after the other.
func shares(first string, since float64, next string, taken float64) []Hold {
	return []Hold{
		{At: at(since), Process: first, Holder: first, Share: true}, {At: at(taken), Process: next, Holder: next, Share: true},
	}
}

func TestCheck_OfASoundRunFindsNoViolation(t *testing.T) {
	v := Check(sound())
	require.Empty(t, v.Violations)
	require.Equal(t, Counts{Committed: 40, RolledBack: 1, Received: 60, Duplicates: map[string]int{}, SlowestEvent: 750 * time.Millisecond}, v.Counts)
}

// find is the place of the first message of an event in a queue.
func find(f Facts, queue, event string) int {
	for i, r := range f.Received {
		if r.Queue == queue && r.EventID == event {
			return i
		}
	}
	panic(event)
}

func TestCheck_FindsAndNamesEachBrokenPromise(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		want   Rule
	}{
		"an event is lost": {func(f *Facts) {
			n := find(*f, "fifo", "ledger/a/4")
			f.Received = append(f.Received[:n], f.Received[n+1:]...)
		}, Lost},
		"an event is lost in one queue of two": {func(f *Facts) {
			n := find(*f, "fan-out", "audit/a/4")
			f.Received = append(f.Received[:n], f.Received[n+1:]...)
		}, Lost},
		"a rolled back event comes": {func(f *Facts) {
			r := f.Received[find(*f, "standard", "audit/a/4")]
			r.EventID, r.MessageID = "undone", "m"
			f.Received = append(f.Received, r)
		}, Phantom},
		"an event that nobody wrote comes": {func(f *Facts) {
			r := f.Received[find(*f, "standard", "audit/a/4")]
			r.EventID, r.MessageID = "foreign", "m"
			f.Received = append(f.Received, r)
		}, Altered},
		"two events of a key are swapped on a FIFO queue": {func(f *Facts) {
			i, j := find(*f, "fifo", "ledger/a/4"), find(*f, "fifo", "ledger/a/5")
			f.Received[i], f.Received[j] = f.Received[j], f.Received[i]
		}, Disorder},
		"a payload differs": {func(f *Facts) { f.Received[find(*f, "fifo", "ledger/a/4")].Payload += " " }, Altered},
		"an attribute is missing": {func(f *Facts) {
			delete(f.Received[find(*f, "standard", "audit/a/4")].Attributes, "tenant")
		}, Altered},
		"an attribute is too many": {func(f *Facts) {
			f.Received[find(*f, "standard", "audit/a/4")].Attributes["x"] = "y"
		}, Altered},
		"a type differs":         {func(f *Facts) { f.Received[find(*f, "standard", "audit/a/4")].Attributes["event_type"] = "U" }, Altered},
		"a group is missing":     {func(f *Facts) { f.Received[find(*f, "fifo", "ledger/a/4")].Group = "" }, Altered},
		"a key has two groups":   {func(f *Facts) { f.Received[find(*f, "fifo", "ledger/k 2/4")].Group = "sha256:y" }, Altered},
		"two keys share a group": {func(f *Facts) { f.Received[find(*f, "fifo", "ledger/k 2/4")].Group = "a" }, Altered},
		"a duplicate on FIFO within the window": {func(f *Facts) {
			repeated(f, "fifo", "ledger/a/4", "w1", 200, unheard)
		}, Repeated},
		"a duplicate without a cause, near faults of others": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: []Hold{{At: at(10)}}})
			f.Faults = []Fault{
				{Kind: "promotion", Start: at(0), End: at(20)},
				{Kind: "kill", Start: at(4), End: at(4), Role: Death, Process: "w3"},
				{Kind: "database cut off", Start: at(3), End: at(9), Role: NoDatabase},
			}
		}, Repeated},
		"a worker sends a batch twice, and is killed later": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w1", 3.6)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.7)}, Held: []Hold{{At: at(9)}}})
			f.Faults = []Fault{{Kind: "kill", Start: at(4), End: at(4), Role: Death, Process: "w1"}}
		}, Repeated},
		"a batch is taken over, though its event was settled": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.7)}, Held: []Hold{{At: at(9)}}})
			f.Faults = []Fault{{Kind: "kill", Start: at(4), End: at(4), Role: Death, Process: "w1"}}
		}, Repeated},
		"a batch is taken over for a short outage": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: []Hold{{At: at(15)}}})
			f.Faults = []Fault{{Kind: "database cut off", Start: at(3), End: at(14), Role: NoDatabase}}
		}, Repeated},
		"a batch is taken over long after the event was accepted": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 90)
			f.Evidence = recorded("audit/a/4", Evidence{Held: []Hold{{At: at(80)}}})
			f.Faults = []Fault{{Kind: "failover", Start: at(60), End: at(70), Role: NewPrimary}, {Kind: "temporal", Start: at(60), End: at(70), Role: NoTemporal}}
		}, Repeated},
		"a batch is sent by a worker that had not claimed it before a failover": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{{At: at(1), Process: "w1", Holder: "a"}, {At: at(2.5), Process: "w1", Holder: "b"}, {At: at(9), Process: "w2", Holder: "c"}}})
			f.Faults = []Fault{{Kind: "failover", Start: at(2.6), End: at(7), Role: NewPrimary}}
		}, Repeated},
		"a worker sends again what it has settled, and no claim was lost": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w1", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{
				{At: at(1), Process: "w1", Holder: "a"}, {At: at(2.5), Process: "w1", Holder: "b"},
			}})
			f.Faults = []Fault{{Kind: "failover", Start: at(2), End: at(7), Role: NewPrimary}}
		}, Repeated},
		"a lane is taken after its event was settled, and a claim was lost": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 40)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{
				{At: at(3.2), Process: "w1", Holder: "a", Lost: true}, {At: at(5), Process: "w2", Holder: "b"},
			}})
			f.Faults = []Fault{{Kind: "failover", Start: at(2), End: at(7), Role: NewPrimary}}
		}, Repeated},
		"an attempt whose claim was lost sends twice": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w1", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{{At: at(2.5), Process: "w1", Holder: "a", Lost: true}}})
			f.Faults = []Fault{{Kind: "failover", Start: at(2), End: at(7), Role: NewPrimary}}
		}, Repeated},
		"a claim was lost, but with another primary": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{
				{At: at(1), Process: "w1", Holder: "a", Lost: true}, {At: at(2.5), Process: "w2", Holder: "b"},
			}})
			f.Faults = []Fault{{Kind: "failover", Start: at(2), End: at(7), Role: NewPrimary}}
		}, Repeated},
		"a share is taken from a worker to which nothing happened": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w2", 8)})
			f.Faults = []Fault{{Kind: "kill", Start: at(3.6), End: at(3.6), Role: Death, Process: "w3"}}
		}, Repeated},
		"a share is taken from a worker that dies later": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w2", 8)})
			f.Faults = []Fault{{Kind: "kill", Start: at(9), End: at(9), Role: Death, Process: "w1"}}
		}, Repeated},
		"a share is taken, though its event was settled": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Settled: []time.Time{at(3.7)}, Held: shares("w1", 1, "w2", 8)})
			f.Faults = []Fault{{Kind: "kill", Start: at(4), End: at(4), Role: Death, Process: "w1"}}
		}, Repeated},
		"a share is taken for a stall that is shorter than its lease": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w2", 6)})
			f.Faults = []Fault{{Kind: "stall", Start: at(3.55), End: at(6.5), Role: Standstill, Process: "w1"}}
		}, Repeated},
		"a share is taken for an outage that is shorter than its lease": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w2", 6)})
			f.Faults = []Fault{{Kind: "cut", Start: at(3), End: at(6), Role: NoDatabase}}
		}, Repeated},
		"a share is taken while Temporal is away": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w2", 8)})
			f.Faults = []Fault{{Kind: "temporal", Start: at(2), End: at(9), Role: NoTemporal}}
		}, Repeated},
		"a worker loses a share, takes it back, and sends again": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w1", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w1", 9)})
			f.Faults = []Fault{{Kind: "stall", Start: at(3.55), End: at(8.5), Role: Standstill, Process: "w1"}}
		}, Repeated},
		"a batch is taken over for a stall that Temporal does not notice": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w2", 20)
			f.Evidence = recorded("audit/a/4", Evidence{Held: []Hold{{At: at(1), Process: "w1", Holder: "a"}, {At: at(7), Process: "w2", Holder: "b"}}})
			f.Faults = []Fault{{Kind: "stall", Start: at(3.55), End: at(8), Role: Standstill, Process: "w1"}}
		}, Repeated},
		"one duplicate more than answers that were lost": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w1", 20, unheard)
			repeated(f, "standard", "audit/a/4", "w1", 21)
		}, Repeated},
		"a duplicate without a request": {func(f *Facts) {
			repeated(f, "standard", "audit/a/4", "w1", 3.6, func(s *Send) { s.Began, s.Ended = at(30), at(30) })
		}, Repeated},
		"an event that exists is a dead letter for want of it": {func(f *Facts) { f.Missing = []string{"audit/a/4"} }, Missing},
		"a producer's statement fails by itself":               {func(f *Facts) { f.Refused = []string{"23514"} }, Refused},
		"a committed event is in no database": {func(f *Facts) {
			f.Kept = map[string]bool{}
			for _, w := range f.Written {
				f.Kept[w.ID] = w.Outcome == Committed && w.ID != "audit/a/4"
			}
			f.Lost = map[string]bool{}
		}, Lost},
		"an event that was rolled back is in the database": {func(f *Facts) {
			f.Kept = map[string]bool{}
			for _, w := range f.Written {
				f.Kept[w.ID] = true
			}
		}, Harness},
		"an event is lost that the new primary has": {func(f *Facts) {
			lostWithPrimary(f, "ledger/a/10")
			n := find(*f, "fifo", "ledger/a/9")
			f.Received = append(f.Received[:n], f.Received[n+1:]...)
		}, Lost},
		"a message of a lost commit differs from what was written": {func(f *Facts) {
			lostWithPrimary(f, "ledger/a/10")
			f.Received[find(*f, "fifo", "ledger/a/10")].Payload += " "
		}, Altered},
		"an event comes again after a later one": {func(f *Facts) {
			n := find(*f, "fifo", "ledger/a/4")
			r := f.Received[n]
			f.Received = append(f.Received, r)
			f.Received[len(f.Received)-1].MessageID, f.Received[len(f.Received)-1].Sent = "again", at(20)
		}, Disorder},
		"something is pending": {func(f *Facts) { f.Remaining = []Remaining{{"pending", "audit: 3"}} }, Left},
		"a recovery that has ended holds a topic": {func(f *Facts) {
			f.LoneHolds = []LoneHold{{Topic: "audit", For: heldMost + time.Second, Why: "nobody knows"}}
		}, Held},
		"a hold lasts for more than a minute beside the time in which workers had no database": {func(f *Facts) {
			f.LoneHolds = []LoneHold{{Topic: "audit", Since: at(10), For: heldMost + 7*time.Second}}
			f.Faults = []Fault{
				{Kind: "cut", Start: at(8), End: at(12), Role: NoDatabase},
				{Kind: "cut", Start: at(11), End: at(14), Role: NoDatabase},
				{Kind: "cut", Start: at(76), End: at(90), Role: NoDatabase},
				{Kind: "temporal", Start: at(20), End: at(60), Role: NoTemporal},
			}
		}, Held},
		"an unknown outcome":                {func(f *Facts) { f.Written[3].Outcome = Ambiguous }, Harness},
		"a gap in the numbers":              {func(f *Facts) { f.Written[3].Seq = 99 }, Harness},
		"nothing was committed":             {func(f *Facts) { f.Written, f.Received = nil, nil }, Harness},
		"a message from an unknown queue":   {func(f *Facts) { f.Received[0].Queue = "elsewhere" }, Harness},
		"a worker or a fault went wrong":    {func(f *Facts) { f.Problems = []string{"a worker ended by itself"} }, Harness},
		"an event in another topic's queue": {func(f *Facts) { f.Received[find(*f, "standard", "audit/a/4")].EventID = "ledger/a/4" }, Altered},
	} {
		t.Run(name, func(t *testing.T) {
			f := sound()
			c.change(&f)
			var rules []Rule
			for _, v := range Check(f).Violations {
				rules = append(rules, v.Rule)
			}
			require.Contains(t, rules, c.want)
		})
	}
}

// lostWithPrimary has a commit lost with the old primary.
func lostWithPrimary(f *Facts, id string) {
	f.Kept, f.Lost = map[string]bool{}, map[string]bool{id: true}
	for _, w := range f.Written {
		f.Kept[w.ID] = w.Outcome == Committed && w.ID != id
	}
}

func TestCheck_AllowsAHoldWhileWorkersHaveNoDatabase(t *testing.T) {
	f := sound()
	f.LoneHolds = []LoneHold{{Topic: "audit", Since: at(10), For: heldMost + 8*time.Second}}
	f.Faults = []Fault{
		{Kind: "cut", Start: at(8), End: at(12), Role: NoDatabase},
		{Kind: "cut", Start: at(11), End: at(14), Role: NoDatabase},
		{Kind: "cut", Start: at(74), End: at(90), Role: NoDatabase},
	}
	require.Empty(t, Check(f).Violations)
}

func TestCheck_AllowsRepetitionsThatTheRelayDidNotCause(t *testing.T) {
	f := sound()
	// A queue delivers a message twice, because its receipt was lost.
	f.Received = append(f.Received, f.Received[find(f, "fifo", "ledger/a/4")])
	repeated(&f, "standard", "audit/a/4", "w1", 20, unheard)
	// A retry after the window is delivered again.
	late := f.Received[find(f, "fifo", "ledger/a/10")]
	late.MessageID, late.Sent = "late", late.Sent.Add(Window)
	f.Received = append(f.Received, late)

	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, 1, v.Counts.Redelivered)
	require.Equal(t, map[string]int{CauseUnanswered: 1, causeWindow: 1}, v.Counts.Duplicates)
}

// A busy destination may accept a request after the relay has given it up and sent the event again. That
// explains one message, and no request that began later.
func TestDuplicates_OfARequestThatWasGivenUpAreAcceptedLate(t *testing.T) {
	slow := func(began float64, told bool) Facts {
		f := sound()
		repeated(&f, "standard", "audit/a/4", "w1", 20)
		last := &f.Sends[len(f.Sends)-1]
		last.Began, last.Told = at(began), told
		return f
	}
	v := Check(slow(2, false))
	require.Empty(t, v.Violations)
	require.Equal(t, map[string]int{CauseUnanswered: 1}, v.Counts.Duplicates)
	require.Len(t, Check(slow(2, true)).Violations, 1, "it had its answer")
	require.Len(t, Check(slow(5, false)).Violations, 1, "the other one had its answer before")
	f := slow(2, false)
	repeated(&f, "standard", "audit/a/4", "w1", 30)
	require.Len(t, Check(f).Violations, 1, "one more")
}

func TestDuplicates_AreExplainedByTheirOwnBatch(t *testing.T) {
	for name, c := range map[string]struct {
		evidence Evidence
		fault    Fault
		cause    string
	}{
		"killed with the event accepted and not settled": {
			Evidence{Settled: []time.Time{at(21)}, Held: []Hold{{At: at(15)}}},
			Fault{Kind: "kill", Start: at(3.6), End: at(3.6), Role: Death, Process: "w1"},
			"kill",
		},
		"killed after it sent the request, and before a busy proxy read it": {
			Evidence{Held: []Hold{{At: at(15)}}},
			Fault{Kind: "kill", Start: at(3.45), End: at(3.45), Role: Death, Process: "w1"},
			"kill",
		},
		"stalled with the event accepted, settled when it is back": {
			Evidence{Settled: []time.Time{at(19.9), at(21)}, Held: []Hold{{At: at(15)}}},
			Fault{Kind: "stall", Start: at(3.55), End: at(19), Role: Standstill, Process: "w1"},
			"stall",
		},
		"stalled with one delivery settled, and another one not": {
			Evidence{Pended: []time.Time{at(3)}, Settled: []time.Time{at(3.6)}, Held: []Hold{{At: at(15)}}},
			Fault{Kind: "stall", Start: at(3.55), End: at(19), Role: Standstill, Process: "w1"},
			"stall",
		},
		"killed, and another worker took its share": {
			Evidence{Settled: []time.Time{at(65)}, Held: shares("w1", 1, "w2", 8)},
			Fault{Kind: "kill", Start: at(3.6), End: at(3.6), Role: Death, Process: "w1"},
			"kill",
		},
		"killed, and a claim took the lane of its share": {
			Evidence{Held: []Hold{{At: at(1), Process: "w1", Holder: "w1", Share: true}, {At: at(8), Process: "w2", Holder: "b"}}},
			Fault{Kind: "kill", Start: at(3.6), End: at(3.6), Role: Death, Process: "w1"},
			"kill",
		},
		"stalled past the lease of its share": {
			Evidence{Held: shares("w1", 1, "w2", 8)},
			Fault{Kind: "stall", Start: at(3.55), End: at(7.55), Role: Standstill, Process: "w1"},
			"stall",
		},
		"the database was away for longer than the lease of the share": {
			Evidence{Held: shares("w1", 1, "w2", 8)}, Fault{Kind: "cut", Start: at(3), End: at(7), Role: NoDatabase}, "cut",
		},
		"the taking of the share was lost with the old primary": {
			Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{
				{At: at(2.2), Process: "w1", Holder: "w1", Share: true, Lost: true}, {At: at(2.5), Process: "w2", Holder: "w2", Share: true},
			}},
			Fault{Kind: "failover", Start: at(2), End: at(30), Role: NewPrimary},
			CauseUndone,
		},
		"Temporal gave the batch to another": {
			Evidence{Held: []Hold{{At: at(15)}}}, Fault{Kind: "temporal", Start: at(2), End: at(5), Role: NoTemporal}, "temporal",
		},
		"the database was away for longer than the lease": {
			Evidence{Held: []Hold{{At: at(63)}}}, Fault{Kind: "cut", Start: at(3), End: at(62), Role: NoDatabase}, "cut",
		},
		"the claim was lost with the old primary": {
			Evidence{Held: []Hold{{At: at(8)}}}, Fault{Kind: "failover", Start: at(2), End: at(7), Role: NewPrimary}, CauseUndone,
		},
		"two attempts had the batch, and the claim of one was lost with the old primary": {
			Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{{At: at(2.2), Process: "w1", Holder: "a", Lost: true}, {At: at(2.5), Process: "w2", Holder: "b"}}},
			Fault{Kind: "failover", Start: at(2), End: at(30), Role: NewPrimary},
			CauseUndone,
		},
		"a lane was taken over, and the new primary knew the attempt before": {
			Evidence{Settled: []time.Time{at(3.6)}, Held: []Hold{{At: at(2.5), Process: "w2", Holder: "b", Lost: true}, {At: at(1), Process: "w1", Holder: "a"}}},
			Fault{Kind: "failover", Start: at(2), End: at(30), Role: NewPrimary},
			CauseUndone,
		},
		"the redrive was lost with the old primary, and another one followed": {
			Evidence{Unpended: []time.Time{at(3)}, Pended: []time.Time{at(50)}}, Fault{Kind: "failover", Start: at(2), End: at(7), Role: NewPrimary}, CauseUndone,
		},
		"the settlement was lost with the old primary": {
			Evidence{Undone: []time.Time{at(3.6)}}, Fault{}, CauseUndone,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := sound()
			repeated(&f, "standard", "audit/a/4", "w2", 64)
			f.Evidence, f.Faults = recorded("audit/a/4", c.evidence), []Fault{c.fault}
			v := Check(f)
			require.Empty(t, v.Violations)
			require.Equal(t, map[string]int{c.cause: 1}, v.Counts.Duplicates)

			f.Faults, f.Evidence = nil, recorded("audit/a/4", Evidence{Settled: c.evidence.Settled, Held: c.evidence.Held})
			require.Len(t, Check(f).Violations, 1, "and by nothing else")
		})
	}
}

// The process cannot know that its request was answered in time.
func TestDuplicates_OfAnAnswerThatCameDuringAStallAreExplained(t *testing.T) {
	stalled := func(until float64, again string) Facts {
		f := sound()
		repeated(&f, "standard", "audit/a/4", again, 20)
		f.Evidence = recorded("audit/a/4", Evidence{Held: shares("w1", 1, "w1", 15)})
		f.Faults = []Fault{{Kind: "stall", Start: at(3.5), End: at(until), Role: Standstill, Process: "w1"}}
		return f
	}
	v := Check(stalled(7.5, "w1"))
	require.Empty(t, v.Violations)
	require.Equal(t, map[string]int{"stall": 1}, v.Counts.Duplicates)
	require.Len(t, Check(stalled(6, "w1")).Violations, 1, "its request had more time")
	require.Len(t, Check(stalled(7.5, "w2")).Violations, 1, "another worker does not have the share")
	f := stalled(7.5, "w1")
	f.Faults[0].Start = at(3.52)
	require.Len(t, Check(f).Violations, 1, "it had read the answer")
}

// Three deliveries of one event, the first and two replays, are settled, and a failover
// undoes that: all three come again, one right after the other.
func TestDuplicates_OfSeveralDeliveriesHaveACauseEach(t *testing.T) {
	f := sound()
	f.Replays = map[string][]Replay{"audit/a/4": {{Number: 7, At: at(5)}, {Number: 8, At: at(5)}}}
	for _, again := range []float64{6, 6.1, 20, 20.1, 20.2} {
		for _, queue := range []string{"standard", "fan-out"} {
			repeated(&f, queue, "audit/a/4", "w1", again)
		}
		f.Sends = f.Sends[:len(f.Sends)-1] // one request for both queues
	}
	f.Evidence = recorded("audit/a/4", Evidence{Undone: []time.Time{at(6.3)}, Settled: []time.Time{at(20.3)}})
	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, map[string]int{CauseUndone: 6}, v.Counts.Duplicates)

	repeated(&f, "standard", "audit/a/4", "w1", 20.4)
	require.Len(t, Check(f).Violations, 1, "one more has none")
}

func TestLostCommits_AreCountedApartWithTheirMessages(t *testing.T) {
	f := sound()
	lostWithPrimary(&f, "ledger/a/10")
	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, 1, v.Counts.LostCommits)
	require.Equal(t, 1, v.Counts.Orphans)
	require.Equal(t, 39, v.Counts.Committed)
}

func TestCheck_TakesAnAmbiguousCommitForTheStateInTheDatabase(t *testing.T) {
	f := sound()
	f.Kept, f.Lost = map[string]bool{}, map[string]bool{}
	for i := range f.Written {
		f.Kept[f.Written[i].ID] = f.Written[i].Outcome == Committed
		f.Written[i].Outcome = Ambiguous
	}
	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, 40, v.Counts.Committed)
	require.Equal(t, 1, v.Counts.RolledBack)
}

func TestDuplicates_OfAFaultAreAPageForEachBatchAtMost(t *testing.T) {
	f := Facts{
		Queues: []Queue{{Name: "standard", Topic: "audit"}},
		Faults: []Fault{{Kind: "kill", Start: at(1.5), End: at(1.5), Role: Death, Process: "w1"}},
		Evidence: func(list []Lookup) (map[string]Evidence, error) {
			all := map[string]Evidence{}
			for _, l := range list {
				all[l.Event] = Evidence{Held: []Hold{{At: at(8)}}}
			}
			return all, nil
		},
	}
	for n := range pageEvents*batches + 1 {
		w := Written{ID: fmt.Sprint(n), Topic: "audit", Outcome: Committed, Type: "T", ContentType: "text/plain", Attributes: map[string]string{"tenant": "t"}}
		f.Written = append(f.Written, w)
		f.Received = append(f.Received, arrive("standard", w, 1), arrive("standard", w, 9))
		f.Sends = append(f.Sends, send(w.ID, "w1", 1), send(w.ID, "w2", 9))
	}
	require.Len(t, Check(f).Violations, 1)
	f.Received = f.Received[:len(f.Received)-1]
	require.Empty(t, Check(f).Violations)
}

// A worker that dies repeats what it had in hand of its shares, of all topics together: however many
// queues the events come to.
func TestDuplicates_OfADeadWorkersSharesAreWhatItHadInHandAtMost(t *testing.T) {
	f := Facts{
		Queues: []Queue{{Name: "standard", Topic: "audit"}, {Name: "fan-out", Topic: "audit"}, {Name: "other", Topic: "orders"}},
		Faults: []Fault{{Kind: "kill", Start: at(1.5), End: at(1.5), Role: Death, Process: "w1"}},
		Evidence: func(list []Lookup) (map[string]Evidence, error) {
			all := map[string]Evidence{}
			for _, l := range list {
				all[l.Event] = Evidence{Held: shares("w1", 0, "w2", 8)}
			}
			return all, nil
		},
	}
	for n := range carried + 1 {
		topic := []string{"audit", "orders"}[n%2]
		w := Written{ID: fmt.Sprint(n), Topic: topic, Outcome: Committed, Type: "T", ContentType: "text/plain", Attributes: map[string]string{"tenant": "t"}}
		f.Written = append(f.Written, w)
		for _, q := range f.Queues {
			if q.Topic == topic {
				f.Received = append(f.Received, arrive(q.Name, w, 1), arrive(q.Name, w, 9))
			}
		}
		f.Sends = append(f.Sends, send(w.ID, "w1", 1), send(w.ID, "w2", 9))
	}
	require.Len(t, Check(f).Violations, 1)
	last := fmt.Sprint(carried)
	f.Received = slices.DeleteFunc(f.Received, func(r Received) bool { return r.EventID == last && r.Sent.Equal(at(9)) })
	require.Empty(t, Check(f).Violations)
}

func TestSource_PartsGiveTheSameVerdictAsOne(t *testing.T) {
	f := replayed()
	repeated(&f, "standard", "audit/a/4", "w1", 30, unheard)
	i, k := find(f, "fifo", "ledger/a/4"), find(f, "fifo", "ledger/a/5")
	f.Received[i], f.Received[k] = f.Received[k], f.Received[i]
	f.Received = slices.DeleteFunc(f.Received, func(r Received) bool { return r.EventID == "audit/k 2/7" })
	want := Check(f)
	require.Len(t, want.Violations, 3)
	got, err := Judge(f, divide(f, 7))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// divided is a source of several parts.
type divided struct {
	parts []Part
	steps [][]Step
}

func divide(f Facts, n int) *divided {
	d := &divided{parts: make([]Part, n), steps: make([][]Step, n)}
	of := func(id string) *Part {
		sum := crc32.ChecksumIEEE([]byte(id))
		return &d.parts[sum%uint32(n)]
	}
	for i := range d.parts {
		d.parts[i].Replays = map[string][]Replay{}
	}
	for _, w := range f.Written {
		p := of(w.ID)
		p.Written = append(p.Written, w)
	}
	for i, r := range f.Received {
		p := of(r.EventID)
		r.N = i
		p.Received = append(p.Received, r)
	}
	for _, s := range f.Sends {
		p := of(s.EventID)
		p.Sends = append(p.Sends, s)
	}
	for id, list := range f.Replays {
		of(id).Replays[id] = list
	}
	return d
}

func (d *divided) Parts() int                  { return len(d.parts) }
func (d *divided) Part(n int) (Part, error)    { return d.parts[n], nil }
func (d *divided) Steps(n int) ([]Step, error) { return d.steps[n], nil }
func (d *divided) Put(s Step) error {
	n := crc32.ChecksumIEEE([]byte(s.Topic+s.Key)) % uint32(len(d.steps))
	d.steps[n] = append(d.steps[n], s)
	return nil
}

func TestCheck_FindsEachLoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := sound()
		n := rapid.IntRange(0, len(f.Received)-1).Draw(t, "lost")
		f.Received = append(f.Received[:n:n], f.Received[n+1:]...)
		v := Check(f).Violations
		require.Len(t, v, 1)
		require.Equal(t, Lost, v[0].Rule)
	})
}

func TestCheck_FindsEachOtherOrderOfAKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := sound()
		var places []int
		for i, r := range f.Received {
			if r.Queue == "fifo" && r.Group == "a" {
				places = append(places, i)
			}
		}
		order := rapid.Permutation(places).Draw(t, "order")
		shuffled := append([]Received(nil), f.Received...)
		same := true
		for i := range places {
			shuffled[places[i]] = f.Received[order[i]]
			same = same && places[i] == order[i]
		}
		f.Received = shuffled
		require.Equal(t, same, len(Check(f).Violations) == 0)
	})
}

func TestSlowest_CountsToTheNextAcknowledgement(t *testing.T) {
	acks := map[string][]time.Time{"a": {at(1), at(5), at(30)}, "b": {at(2), at(11)}}
	got := Slowest([]Fault{
		{Kind: "kill", Start: at(0), End: at(2)},
		{Kind: "denied", Topic: "a", Start: at(0), End: at(6)},
		{Kind: "late", Start: at(31), End: at(32)},
	}, acks)
	require.Equal(t, Recovery{Kind: "denied", Topic: "a", Took: 24 * time.Second}, got)
}
