package check

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// replayed are the facts of a run in which all went well, and in which key a's events
// 3 to 7 were replayed twice: under number 12 from second 20 on, and under number 15
// from second 20.5 on, so that messages of both come by turns.
func replayed() Facts {
	f := sound()
	f.Replays = map[string][]Replay{}
	for n := 3; n <= 7; n++ {
		for i, number := range []int64{12, 15} {
			for _, topic := range []string{"ledger", "audit"} {
				w := *writtenAs(f, fmt.Sprintf("%s/a/%d", topic, n))
				began := 20 + float64(i)/2
				f.Replays[w.ID] = append(f.Replays[w.ID], Replay{number, at(began)})
				f.Sends = append(f.Sends, send(w.ID, "w1", began+float64(n)))
				for _, q := range f.Queues {
					if q.Topic == topic {
						r := arrive(q.Name, w, began+float64(n))
						r.Deduplication = fmt.Sprintf("%s/%d", w.ID, number)
						f.Received = append(f.Received, r)
					}
				}
			}
		}
	}
	return f
}

func writtenAs(f Facts, id string) *Written {
	for i := range f.Written {
		if f.Written[i].ID == id {
			return &f.Written[i]
		}
	}
	panic(id)
}

// message is the place of the message that was sent at an instant.
func message(f Facts, queue, event string, seconds float64) int {
	for i, r := range f.Received {
		if r.Queue == queue && r.EventID == event && r.Sent.Equal(at(seconds)) {
			return i
		}
	}
	panic(fmt.Sprint(event, "@", seconds))
}

func without(f *Facts, n int) { f.Received = append(f.Received[:n:n], f.Received[n+1:]...) }

func TestReplay_ReceivedOnceAndInOrderViolatesNothing(t *testing.T) {
	v := Check(replayed())
	require.Empty(t, v.Violations)
	require.Equal(t, 20, v.Counts.Replayed)
	require.Empty(t, v.Counts.Duplicates, "a replay is no duplicate")
}

func TestReplay_EachBrokenPromiseIsFoundAndNamed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		want   Rule
	}{
		"a replay is lost on a FIFO queue": {func(f *Facts) { without(f, message(*f, "fifo", "ledger/a/4", 24)) }, Lost},
		"a replay is lost in one queue of two": {func(f *Facts) {
			without(f, message(*f, "fan-out", "audit/a/4", 24))
		}, Lost},
		"a replay is lost, and another one came twice": {func(f *Facts) {
			n := message(*f, "fifo", "ledger/a/4", 24)
			f.Received[n].Deduplication = "ledger/a/4/15"
			f.Received[n].Sent = at(24 - Window.Seconds())
		}, Lost},
		"a replay is lost, and the event came twice before": {func(f *Facts) {
			f.Received[message(*f, "standard", "audit/a/4", 24)].Sent = at(5)
			for i := range f.Sends {
				unheard(&f.Sends[i])
			}
		}, Lost},
		"the first delivery is lost, and a replay came": {func(f *Facts) { without(f, message(*f, "fifo", "ledger/a/4", 3.5)) }, Lost},
		"two events of a key are swapped in a replay": {func(f *Facts) {
			i, j := message(*f, "fifo", "ledger/a/4", 24), message(*f, "fifo", "ledger/a/5", 25)
			f.Received[i], f.Received[j] = f.Received[j], f.Received[i]
		}, Disorder},
		"a later event of its key overtakes one that is redriven": {func(f *Facts) {
			n := message(*f, "fifo", "ledger/a/8", 7.5)
			r := f.Received[n]
			without(f, n)
			f.Received = append(f.Received, r)
		}, Disorder},
		"a replay comes twice from a FIFO queue within the window": {func(f *Facts) {
			r := f.Received[message(*f, "fifo", "ledger/a/7", 27)]
			r.MessageID, r.Sent = "again", at(40)
			f.Received = append(f.Received, r)
		}, Repeated},
		"a replay comes twice from a standard queue, without a cause": {func(f *Facts) {
			r := f.Received[message(*f, "standard", "audit/a/7", 27)]
			r.MessageID, r.Sent = "again", at(40)
			f.Received = append(f.Received, r)
		}, Repeated},
		"a replay comes that nobody asked for": {func(f *Facts) {
			r := f.Received[message(*f, "fifo", "ledger/a/7", 27)]
			r.MessageID, r.Deduplication = "more", "ledger/a/7/16"
			f.Received = append(f.Received, r)
		}, Phantom},
		"a deduplication id is no event's": {func(f *Facts) {
			r := f.Received[message(*f, "fifo", "ledger/a/7", 27)]
			r.MessageID, r.Deduplication = "more", "ledger/a/7/0"
			f.Received = append(f.Received, r)
		}, Altered},
		"a payload differs in a replay": {func(f *Facts) { f.Received[message(*f, "fifo", "ledger/a/4", 24)].Payload += " " }, Altered},
		"a rolled back event is replayed": {func(f *Facts) {
			f.Replays["undone"] = []Replay{{12, at(20)}}
		}, Harness},
	} {
		t.Run(name, func(t *testing.T) {
			f := replayed()
			c.change(&f)
			v := Check(f).Violations
			require.Len(t, v, 1, "one rule, and no other: %v", v)
			require.Equal(t, c.want, v[0].Rule)
		})
	}
}

func TestDuplicates_OfAReplayHaveTheSameCausesAsOthers(t *testing.T) {
	f := replayed()
	for _, event := range []string{"audit/a/6", "audit/a/7"} {
		r := f.Received[message(f, "standard", event, map[string]float64{"audit/a/6": 26.5, "audit/a/7": 27.5}[event])]
		r.MessageID, r.Sent = "again"+event, at(40)
		f.Received = append(f.Received, r)
		f.Sends = append(f.Sends, send(event, "w2", 40))
	}
	for i := range f.Sends {
		if f.Sends[i].EventID == "audit/a/6" {
			unheard(&f.Sends[i])
		}
	}
	f.Evidence = recorded("audit/a/7", Evidence{Settled: []time.Time{at(7), at(27.2), at(41)}, Pended: []time.Time{at(20), at(20)}, Held: []Hold{{At: at(38)}}})
	f.Faults = []Fault{{Kind: "kill", Start: at(27.6), End: at(27.6), Role: Death, Process: "w1"}}
	late := f.Received[message(f, "fifo", "ledger/a/7", 27)]
	late.MessageID, late.Sent = "late", late.Sent.Add(Window)
	f.Received = append(f.Received, late)

	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, map[string]int{CauseUnanswered: 1, "kill": 1, causeWindow: 1}, v.Counts.Duplicates)
}

func TestLostReplays_AreCountedApartWithTheirMessages(t *testing.T) {
	f := replayed()
	f.LostReplays = map[string][]Replay{}
	for id, list := range f.Replays {
		f.LostReplays[id], f.Replays[id] = list[1:], list[:1]
	}
	v := Check(f)
	require.Empty(t, v.Violations)
	require.Equal(t, 10, v.Counts.LostReplays)
	require.Equal(t, 15, v.Counts.Orphans)
}

func TestReplay_EachLostDeliveryIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := replayed()
		without(&f, rapid.IntRange(0, len(f.Received)-1).Draw(t, "lost"))
		v := Check(f).Violations
		require.Len(t, v, 1)
		require.Equal(t, Lost, v[0].Rule)
	})
}

func TestReplay_EachOtherOrderIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := replayed()
		var places []int
		for n := 3; n <= 7; n++ {
			places = append(places, message(f, "fifo", fmt.Sprint("ledger/a/", n), 20+float64(n)))
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
