package publish_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

const (
	producersTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	sameForXRay    = "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1"
)

// entriesSent are the entries that reach the wire, by event id.
type entriesSent struct {
	mu   sync.Mutex
	byID map[string][]wireEntry
}

func (s *entriesSent) watch(w *wire) *entriesSent {
	s.byID = make(map[string][]wireEntry)
	w.publish = func(b wireBatch) wireReply {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range b.Entries {
			s.byID[e.Attributes["event_id"]] = append(s.byID[e.Attributes["event_id"]], e)
		}
		return wireReply{}
	}
	return s
}

func TestTraceHeader_OfSQSIsTheEventsTraceIfThatIsValid(t *testing.T) {
	w := newWire(t)
	sent := new(entriesSent).watch(w)
	traces := map[string]string{
		producersTrace: "String " + sameForXRay,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00": "String Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=0",
		"": "", // none
		// What a producer in SQL may have written.
		"00-1": "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":       "",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":       "",
		"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01":       "",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra": "",
	}
	events := simple(len(traces) * 10)
	var given []string
	for trace := range traces {
		for range 10 { // a request full, so that the next one uses the same buffers
			if trace != "" {
				events[len(given)].Attributes = map[string]string{"traceparent": trace}
			}
			given = append(given, trace)
		}
	}
	p := w.publisher(publish.Destination{SQS: "https://queue.example/1/orders"})
	_, err := p.Publish(t.Context(), publish.Request{Topic: "orders", Concurrency: 1, Events: stream(events), Report: func([]relay.Outcome) {}})
	require.NoError(t, err)
	for i, ev := range events {
		require.Len(t, sent.byID[ev.EventID], 1)
		e := sent.byID[ev.EventID][0]
		assert.Equal(t, traces[given[i]], e.System["AWSTraceHeader"], "for %q", given[i])
		assert.Equal(t, given[i], e.Attributes["traceparent"], "what the producer wrote is sent, whatever it is")
	}
}

func TestRepetition_IsTheSameToTheByteWithItsTrace(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		sent := new(entriesSent).watch(w)
		events := simple(25)
		for i := range events {
			events[i].Attributes = map[string]string{"traceparent": producersTrace, "n": fmt.Sprint(i)}
		}
		publishAll(t, w.publisher(d), events...)
		publishAll(t, w.publisher(d), events[7:]...) // in other requests, at other places
		for _, ev := range events[7:] {
			attempts := sent.byID[ev.EventID]
			require.Len(t, attempts, 2)
			attempts[0].ID, attempts[1].ID = "", "" // the place in the request
			assert.Equal(t, attempts[0], attempts[1])
			assert.Equal(t, producersTrace, attempts[0].Attributes["traceparent"])
		}
	})
}
