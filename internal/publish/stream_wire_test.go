package publish_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// sender opens a sender to the wire's queues, one for each topic, and closes it when the test ends.
func (w *wire) sender(r relay.SenderRequest, topics ...string) relay.Sender {
	to := make(map[string]publish.Destination)
	for _, topic := range topics {
		to[topic] = publish.Destination{SQS: w.URL + "/1/" + topic}
	}
	p, err := publish.New(publish.Config{AWS: w.aws(), Topics: to})
	require.NoError(w.t, err)
	s := p.Open(r)
	w.t.Cleanup(func() { require.NoError(w.t, s.Close(context.Background())) })
	return s
}

func TestSender_ATopicWithMostOfTheTrafficDelaysNoOtherAtTheWire(t *testing.T) {
	w := newWire(t)
	var mu sync.Mutex
	busy := 0 // requests of the busy topic that have arrived
	arrived := make(map[string]chan int)
	w.publish = func(b wireBatch) wireReply {
		mu.Lock()
		defer mu.Unlock()
		if b.Address == w.URL+"/1/busy" {
			busy++
			return wireReply{}
		}
		arrived[b.Address] <- busy
		return wireReply{}
	}
	topics := []string{"busy"}
	for i := range 9 {
		topics = append(topics, fmt.Sprint("quiet-", i))
		arrived[w.URL+"/1/"+topics[i+1]] = make(chan int, 100)
	}
	s := w.sender(relay.SenderRequest{Report: func(string, []relay.Outcome) {}}, topics...)
	s.Add("busy", manyEvents(20_000))
	overtaken := 0
	for range 5 {
		for _, topic := range topics[1:] {
			mu.Lock()
			before := busy
			mu.Unlock()
			s.Add(topic, simple(1))
			overtaken = max(overtaken, <-arrived[w.URL+"/1/"+topic]-before)
		}
	}
	require.Positive(t, s.Backlog(), "the busy topic has events all the time")
	// Those in flight, some that were answered on their way, and not the thousands in the queue.
	require.Less(t, overtaken, 200)
}

func TestSender_NoAttemptLeavesAfterTheDeadline(t *testing.T) {
	w := newWire(t)
	var over atomic.Bool
	w.publish = func(wireBatch) wireReply {
		over.Store(true)
		return wireReply{Drop: true} // the SDK would try once more
	}
	outcomes := make(chan []relay.Outcome, 1)
	start := time.Now()
	s := w.sender(relay.SenderRequest{
		Deadline: func() time.Time {
			if over.Load() {
				return start
			}
			return start.Add(time.Hour)
		},
		Report: func(_ string, o []relay.Outcome) { outcomes <- o },
	}, "orders")
	s.Add("orders", simple(1))
	require.Error(t, (<-outcomes)[0].Err)
	require.EqualValues(t, 1, w.calls.Load())
}

func TestSender_ADividedRequestKeepsTheOrderOfItsKeys(t *testing.T) {
	w := newWire(t)
	events := simple(40)
	for i := range events {
		events[i].Key = fmt.Sprint("k", i%5)
	}
	bad := events[7].EventID
	behind := []int64{13, 18, 23, 28, 33, 38} // of the same key
	var mu sync.Mutex
	var order []string
	w.publish = func(b wireBatch) wireReply {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range b.Entries {
			if e.Attributes["event_id"] == bad {
				return wireReply{Status: 400, Error: &wireError{Code: "InvalidMessageContents", Message: "no"}}
			}
		}
		for _, e := range b.Entries {
			order = append(order, *e.Group+" "+e.Attributes["event_id"])
		}
		return wireReply{}
	}
	var want []string
	for i, ev := range events {
		if i != 7 && !slices.Contains(behind, int64(i+1)) {
			want = append(want, ev.Key+" "+ev.EventID)
		}
	}
	l := &ledger{t: t}
	s := w.sender(relay.SenderRequest{Report: func(_ string, o []relay.Outcome) { l.report(o) }}, "orders.fifo")
	for page := range slices.Chunk(events, 3) {
		s.Add("orders.fifo", slices.Clone(page))
	}
	require.Eventually(t, func() bool { return len(l.codes()) == 40-len(behind) }, 10*time.Second, time.Millisecond)
	require.Equal(t, "InvalidMessageContents", l.codes()[8])
	mu.Lock()
	defer mu.Unlock()
	slices.SortStableFunc(want, byGroup)
	slices.SortStableFunc(order, byGroup)
	require.Equal(t, want, order)
}

func byGroup(a, b string) int { return int(a[1]) - int(b[1]) }

func TestEmulator_EventsOfManyTopicsArriveInOrderPerKeyOnFIFO(t *testing.T) {
	cfg := testenv.AWS(t)
	to, fixtures := make(map[string]publish.Destination), make(map[string]fixture)
	for i, service := range []publish.Service{publish.SNS, publish.SQS, publish.SNS, publish.SQS} {
		topic := fmt.Sprint("topic-", i)
		t.Run(topic, func(t *testing.T) { fixtures[topic] = newFixture(t, cfg, service, i > 1) })
		to[topic] = fixtures[topic].destination
	}
	p, err := publish.New(publish.Config{AWS: cfg, Topics: to})
	require.NoError(t, err)
	l := make(map[string]*ledger)
	for topic := range to {
		l[topic] = &ledger{t: t}
	}
	s := p.Open(relay.SenderRequest{Report: func(topic string, o []relay.Outcome) { l[topic].report(o) }})
	const n = 60
	events := make(map[string][]relay.Event)
	for topic := range to {
		events[topic] = manyEvents(n)
	}
	for at := 0; at < n; at += 6 {
		for topic := range to {
			s.Add(topic, slices.Clone(events[topic][at:at+6]))
		}
	}
	for topic, f := range fixtures {
		require.Eventually(t, func() bool { return len(l[topic].codes()) == n }, 30*time.Second, 10*time.Millisecond)
		for id, code := range l[topic].codes() {
			require.Empty(t, code, "event %d of %s", id, topic)
		}
		keys, wanted, arrived := make(map[string]string), make(map[string][]string), make(map[string][]string)
		for _, ev := range events[topic] {
			keys[ev.EventID] = ev.Key
			wanted[ev.Key] = append(wanted[ev.Key], ev.EventID)
		}
		for _, m := range f.receive(t, n) {
			id := *m.MessageAttributes["event_id"].StringValue
			arrived[keys[id]] = append(arrived[keys[id]], id)
		}
		if !p.Ordered(topic) {
			for key := range wanted {
				slices.Sort(wanted[key])
				slices.Sort(arrived[key])
			}
		}
		assert.Equal(t, wanted, arrived, topic)
	}
	require.NoError(t, s.Close(t.Context()))
}
