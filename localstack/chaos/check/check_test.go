package check

import (
	"fmt"
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
		Unanswered: map[string]int{},
	}
	for n := range 10 {
		for _, key := range []string{"a", "k 2"} {
			for _, topic := range []string{"ledger", "audit"} {
				w := Written{
					ID: fmt.Sprintf("%s/%s/%d", topic, key, n+1), Topic: topic, Key: key, Seq: int64(n + 1), Type: "T", ContentType: "text/plain",
					Payload: fmt.Sprint("payload ", n), Attributes: map[string]string{"tenant": "t"}, Fate: Committed, At: at(float64(n)),
				}
				f.Written = append(f.Written, w)
				for _, q := range f.Queues {
					if q.Topic == topic {
						f.Received = append(f.Received, arrive(q.Name, w, float64(n)+.5))
					}
				}
			}
		}
	}
	f.Written = append(f.Written, Written{ID: "undone", Topic: "audit", Fate: RolledBack})
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

func TestAFlawlessRunViolatesNothing(t *testing.T) {
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

func TestEachBrokenPromiseIsSeenAndNamed(t *testing.T) {
	again := func(f *Facts, queue, event string, seconds float64) {
		r := f.Received[find(*f, queue, event)]
		f.Received = append(f.Received, arrive(queue, Written{
			ID: r.EventID, Key: r.Group, Payload: r.Payload, Type: "T", ContentType: "text/plain",
		}, seconds))
		f.Received[len(f.Received)-1].Group = r.Group
	}
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
			again(f, "fifo", "ledger/a/4", 200)
			f.Faults = []Fault{{Kind: "kill", Start: at(0), End: at(20), Repeats: true}}
		}, Repeated},
		"a duplicate without a cause": {func(f *Facts) {
			again(f, "standard", "audit/a/4", 20)
			f.Faults = []Fault{{Kind: "promotion", Start: at(0), End: at(20)}, {Kind: "kill", Start: at(100), End: at(102), Repeats: true}}
		}, Repeated},
		"one duplicate more than answers that were lost": {func(f *Facts) {
			f.Unanswered["audit/a/4"] = 1
			again(f, "standard", "audit/a/4", 20)
			again(f, "standard", "audit/a/4", 21)
		}, Repeated},
		"something is pending":              {func(f *Facts) { f.Leftovers = []Leftover{{"pending", "audit: 3"}} }, Left},
		"an unknown fate":                   {func(f *Facts) { f.Written[3].Fate = Unknown }, Harness},
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

func TestWhatIsNoFaultOfTheRelayIsNoViolation(t *testing.T) {
	f := sound()
	// A queue delivers a message twice, because its receipt was lost.
	f.Received = append(f.Received, f.Received[find(f, "fifo", "ledger/a/4")])
	// An answer was lost, and a worker was killed when it had just sent.
	for _, event := range []string{"audit/a/4", "audit/a/5"} {
		r := f.Received[find(f, "standard", event)]
		r.MessageID, r.Sent = "again", at(20)
		r.MessageID += event
		f.Received = append(f.Received, r)
	}
	f.Unanswered["audit/a/4"] = 1
	// It was killed for another topic, and published all of them.
	f.Faults = []Fault{{Kind: "kill", Topic: "ledger", Start: at(5), End: at(6), Repeats: true}}
	// A retry after the window is delivered again.
	late := f.Received[find(f, "fifo", "ledger/a/10")]
	late.MessageID, late.Sent = "late", late.Sent.Add(Window)
	f.Received = append(f.Received, late)

	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, 1, v.Counts.Redelivered)
	require.Equal(t, map[string]int{CauseUnanswered: 1, "kill": 1, "after the deduplication window": 1}, v.Counts.Duplicates)
}

func TestAFaultExplainsAPageForEachBatchAndNoMore(t *testing.T) {
	f := Facts{Queues: []Queue{{Name: "standard", Topic: "audit"}}, Faults: []Fault{{Kind: "kill", Start: at(1), End: at(2), Repeats: true}}}
	for n := range pageEvents*batches + 1 {
		w := Written{ID: fmt.Sprint(n), Topic: "audit", Fate: Committed, Type: "T", ContentType: "text/plain", Attributes: map[string]string{"tenant": "t"}}
		f.Written = append(f.Written, w)
		f.Received = append(f.Received, arrive("standard", w, 1), arrive("standard", w, 9))
	}
	require.Len(t, Check(f).Violations, 1)
	f.Received = f.Received[:len(f.Received)-1]
	require.Empty(t, Check(f).Violations)
}

func TestALossIsSeenWhereverItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := sound()
		n := rapid.IntRange(0, len(f.Received)-1).Draw(t, "lost")
		f.Received = append(f.Received[:n:n], f.Received[n+1:]...)
		v := Check(f).Violations
		require.Len(t, v, 1)
		require.Equal(t, Lost, v[0].Rule)
	})
}

func TestAnyOtherOrderOfAKeyIsSeen(t *testing.T) {
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

func TestTheSlowestRecoveryIsToTheNextAcknowledgement(t *testing.T) {
	acks := map[string][]time.Time{"a": {at(1), at(5), at(30)}, "b": {at(2), at(11)}}
	got := Slowest([]Fault{
		{Kind: "kill", Start: at(0), End: at(2)},
		{Kind: "denied", Topic: "a", Start: at(0), End: at(6)},
		{Kind: "late", Start: at(31), End: at(32)},
	}, acks)
	require.Equal(t, Recovery{Kind: "denied", Topic: "a", Took: 24 * time.Second}, got)
}
