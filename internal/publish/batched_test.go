package publish_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// arrivals are the entries that a wire has accepted, in their order, and the requests.
type arrivals struct {
	mu       sync.Mutex
	accepted []string // bodies
	requests [][]string
	inFlight map[string]bool // groups
	overlaps int
}

// take accepts a request, except entries with a body that is refused.
func (a *arrivals) take(b wireBatch, refused map[string]string) wireReply {
	groups := map[string]bool{}
	for _, e := range b.Entries {
		groups[*e.Group] = true
	}
	a.mu.Lock()
	for g := range groups {
		if a.inFlight[g] {
			a.overlaps++
		}
		a.inFlight[g] = true
	}
	a.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	for g := range groups {
		delete(a.inFlight, g)
	}
	reply := wireReply{Fail: map[string]wireError{}}
	var bodies []string
	for _, e := range b.Entries {
		bodies = append(bodies, e.Body)
		if code := refused[e.Body]; code != "" {
			reply.Fail[e.ID] = wireError{Code: code, Message: "no", SenderFault: true}
			continue
		}
		a.accepted = append(a.accepted, e.Body)
	}
	a.requests = append(a.requests, bodies)
	return reply
}

// ofOneKey are events of one key, with their numbers as payloads.
func ofOneKey(n int) []relay.Event {
	events := simple(n)
	for i := range events {
		events[i].Key, events[i].Payload = "k", fmt.Sprint(i+1)
	}
	return events
}

func TestKeyRequests_BatchedSendTenEventsOfAKeyInOrder(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		d.KeyRequests = publish.BatchedKeys
		a := &arrivals{inFlight: map[string]bool{}}
		w.publish = func(b wireBatch) wireReply { return a.take(b, nil) }
		l := publishAll(t, w.publisher(d), ofOneKey(95)...)
		require.Len(t, l.codes(), 95)
		require.Len(t, a.requests, 10)
		require.Zero(t, a.overlaps, "a key has one request in flight")
		for i, body := range a.accepted {
			require.Equal(t, fmt.Sprint(i+1), body)
		}
	})
}

func TestKeyRequests_SingleSendOneEventOfAKey(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		a := &arrivals{inFlight: map[string]bool{}}
		w.publish = func(b wireBatch) wireReply { return a.take(b, nil) }
		publishAll(t, w.publisher(d), ofOneKey(12)...)
		require.Len(t, a.requests, 12)
	})
}

// The destination may accept later events of a key than one that it has refused. No further request follows.
func TestKeyRequests_BatchedEndAKeyAtTheRequestOfWhichAnEventFailed(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		d.KeyRequests = publish.BatchedKeys
		a := &arrivals{inFlight: map[string]bool{}}
		w.publish = func(b wireBatch) wireReply { return a.take(b, map[string]string{"13": "InvalidMessageContents"}) }
		l := publishAll(t, w.publisher(d), ofOneKey(40)...)
		require.Len(t, l.codes(), 20, "those behind the request have no outcome")
		require.Equal(t, "InvalidMessageContents", l.codes()[13])
		require.Equal(t, []string{"12", "14", "15", "16", "17", "18", "19", "20"}, a.accepted[11:])
	})
}

func TestKeyRequests_BatchedDivideARejectedRequestIntoSingleEvents(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		d.KeyRequests = publish.BatchedKeys
		a := &arrivals{inFlight: map[string]bool{}}
		w.publish = func(b wireBatch) wireReply {
			for _, e := range b.Entries {
				if e.Body == "15" {
					return wireReply{Status: 400, Error: &wireError{Code: "InvalidMessageContents", Message: "no"}}
				}
			}
			return a.take(b, nil)
		}
		l := publishAll(t, w.publisher(d), ofOneKey(30)...)
		require.Equal(t, "InvalidMessageContents", l.codes()[15])
		require.Len(t, l.codes(), 15)
		var want []string
		for i := range 14 {
			want = append(want, fmt.Sprint(i+1))
		}
		require.Equal(t, want, a.accepted, "in order, and none behind the refused one")
	})
}

func TestKeyRequests_OfAnotherDestinationOrValueAreAMistake(t *testing.T) {
	for _, d := range []publish.Destination{
		{SQS: "audit", KeyRequests: publish.BatchedKeys},
		{SQS: "audit.fifo", KeyRequests: "many"},
	} {
		mistakes := d.Mistakes("audit")
		require.Len(t, mistakes, 1)
		require.Equal(t, "keyRequests", mistakes[0].Key)
	}
	require.Empty(t, publish.Destination{SQS: "audit.fifo", KeyRequests: publish.BatchedKeys}.Mistakes("audit"))
	require.Empty(t, publish.Destination{SQS: "audit", KeyRequests: publish.SingleKeys}.Mistakes("audit"))
}
