package publish

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

// maxEntries is how many events a request to a stub carries.
const maxEntries = 10

// answer is how a stub answers, by the event's place in the request: nil where it accepts one.
type answer [maxEntries]*relay.PublishError

// failAll is the answer to a request that failed as a whole.
func failAll(err *relay.PublishError) (a answer) {
	err.Whole = true
	for i := range a {
		a[i] = err
	}
	return a
}

// stub is a destination inside the process.
type stub struct {
	ordered bool
	limit   int
	guessed bool // the limit is not known to be the true one
	// send answers a request. Default: everything is accepted at once.
	send func(ctx context.Context, events []*relay.Event) answer

	mu       sync.Mutex
	inFlight int
	most     int // in flight at once
	requests int
	sent     []int64        // event ids, as requests began
	busy     map[string]int // keys in flight
	clash    error          // two events of a key were in flight at once
}

func (s *stub) Properties() destination.Properties {
	return destination.Properties{Ordered: s.ordered, MaxEvents: maxEntries, MaxBytes: s.limit}
}

func (s *stub) Check(ev *relay.Event) (bytes int, invalid *relay.PublishError) {
	if s.guessed {
		return message.Check(ev, awsapi.MaxLimit)
	}
	return message.Check(ev, s.limit)
}

func (*stub) Span() destination.Span { return destination.Span{Operation: "send", Name: "stub"} }

func (s *stub) NewSender() destination.Sender { return &stubSender{stub: s} }

type stubSender struct {
	*stub
	outcomes [maxEntries]destination.Outcome
}

func (s *stubSender) Send(ctx context.Context, events []*relay.Event) destination.Answer {
	s.count(events, +1)
	defer s.count(events, -1)
	var a answer
	if s.send != nil {
		a = s.send(ctx, events)
	}
	if a[0] != nil && a[0].Whole {
		return destination.Failed(a[0])
	}
	for i, err := range a {
		s.outcomes[i] = destination.Outcome{Accepted: err == nil, Err: err}
	}
	return destination.Answer{Outcomes: s.outcomes[:len(events)]}
}

func (s *stub) count(events []*relay.Event, d int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == nil {
		s.busy = make(map[string]int)
	}
	s.inFlight += d
	s.most = max(s.most, s.inFlight)
	for _, ev := range events {
		s.busy[ev.Key] += d
		if ev.Key != "" && s.busy[ev.Key] > 1 {
			s.clash = fmt.Errorf("key %q has %d events in flight", ev.Key, s.busy[ev.Key])
		}
		if d > 0 {
			s.sent = append(s.sent, ev.ID)
		}
	}
	if d > 0 {
		s.requests++
	}
}

// publisher routes "orders" to s.
func (s *stub) publisher(ordered bool) *Publisher {
	s.ordered, s.limit = ordered, 1000
	c := newCachedRoute(Route{Topic: "orders", Ordered: ordered, Limit: s.limit})
	c.open, c.next = s, time.Now().Add(time.Hour)
	return &Publisher{cfg: Config{}.withDefaults(), routes: map[string]*cachedRoute{"orders": c}}
}

// numbered makes n events with ids from first, of key(id).
func numbered(first, n int, key func(id int64) string) []relay.Event {
	events := make([]relay.Event, n)
	for i := range events {
		id := int64(first + i)
		events[i] = relay.Event{Ref: relay.Ref{ID: id}, EventID: fmt.Sprint("event-", id), Type: "T", ContentType: "c", Payload: "p"}
		if key != nil {
			events[i].Key = key(id)
		}
	}
	return events
}

func feed(pages ...[]relay.Event) <-chan []relay.Event {
	c := make(chan []relay.Event, len(pages))
	for _, p := range pages {
		c <- p
	}
	close(c)
	return c
}

func ignore([]relay.Outcome) {}

var errRejected = &relay.PublishError{Code: "no"}

func TestLoop_EveryEventHasOneOutcomeOrIsHeldBehindAFailureOfItsKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ordered := rapid.Bool().Draw(t, "ordered")
		keys := rapid.IntRange(1, 40).Draw(t, "keys")
		failing := rapid.MapOf(rapid.Int64Range(1, 300), rapid.Just(true)).Draw(t, "failing")
		s := &stub{send: func(_ context.Context, events []*relay.Event) (a answer) {
			for i, ev := range events {
				if failing[ev.ID] {
					a[i] = errRejected
				}
			}
			return a
		}}
		var pages [][]relay.Event
		total := 0
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 100), 0, 4).Draw(t, "pages") {
			pages = append(pages, numbered(total+1, n, func(id int64) string { return fmt.Sprint(id * 31 % int64(keys)) }))
			total += n
		}
		concurrency := rapid.IntRange(1, 8).Draw(t, "concurrency")
		outcome := make(map[int64]*relay.PublishError)
		result, err := s.publisher(ordered).Publish(context.Background(), Request{
			Topic: "orders", Concurrency: concurrency, Events: feed(pages...),
			Report: func(outcomes []relay.Outcome) {
				for _, o := range outcomes {
					if _, twice := outcome[o.ID]; twice {
						t.Fatalf("event %d has two outcomes", o.ID)
					}
					outcome[o.ID] = o.Err
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if s.most > concurrency {
			t.Fatalf("%d requests at once", s.most)
		}
		if ordered && s.clash != nil {
			t.Fatal(s.clash)
		}
		want := Result{Events: total, Requests: s.requests}
		blocked := make(map[string]bool)
		last := make(map[string]int64)
		for _, page := range pages {
			for _, ev := range page {
				err, ok := outcome[ev.ID]
				switch {
				case ordered && blocked[ev.Key]:
					want.Held++
					if ok {
						t.Fatalf("event %d overtook a failed one of its key", ev.ID)
					}
				case !ok:
					t.Fatalf("event %d has no outcome", ev.ID)
				case failing[ev.ID]:
					want.Failed++
					blocked[ev.Key] = true
				default:
					want.Acknowledged++
				}
				if ok && (err != nil) != failing[ev.ID] {
					t.Fatalf("event %d: %v", ev.ID, err)
				}
			}
		}
		if result != want {
			t.Fatalf("%+v, want %+v", result, want)
		}
		for _, id := range s.sent {
			key := fmt.Sprint(id * 31 % int64(keys))
			if ordered && id < last[key] {
				t.Fatalf("event %d of key %s left after %d", id, key, last[key])
			}
			last[key] = id
		}
	})
}

func TestLoop_RequestsAreFullAcrossPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages = 50
		events := make(chan []relay.Event, 1)
		var sizes []int
		// When Report is done, there are five events left, an answer, and a page.
		s := &stub{send: func(_ context.Context, batch []*relay.Event) (a answer) {
			time.Sleep(time.Second)
			sizes = append(sizes, len(batch))
			if sent := len(sizes); sent < pages {
				events <- numbered(6+10*sent, 10, nil)
			} else if sent == pages {
				close(events)
			}
			return a
		}}
		events <- numbered(1, 15, nil)
		result, err := s.publisher(false).Publish(t.Context(), Request{
			Topic: "orders", Concurrency: 1, Events: events,
			Report: func([]relay.Outcome) { time.Sleep(2 * time.Second) },
		})
		require.NoError(t, err)
		assert.Equal(t, 15+10*(pages-1), result.Acknowledged)
		last := len(sizes) - 1
		assert.Equal(t, 5, sizes[last])
		assert.Equal(t, slices.Repeat([]int{10}, last), sizes[:last])
	})
}

func TestLoop_TakesTheNextPageWhileTheLastIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work = 10 * time.Millisecond
		s := &stub{send: func(context.Context, []*relay.Event) (a answer) { time.Sleep(work); return a }}
		pages := make(chan []relay.Event)
		go func() {
			defer close(pages)
			for i := range 10 {
				time.Sleep(work) // load
				pages <- numbered(1+50*i, 50, nil)
			}
		}()
		start := time.Now()
		_, err := s.publisher(false).Publish(t.Context(), Request{
			Topic: "orders", Concurrency: 5, Events: pages, Report: ignore,
		})
		require.NoError(t, err)
		// Ten loads and, beside the next load each, ten times sending.
		assert.Equal(t, 11*work, time.Since(start))
	})
}

func TestLoop_AHotKeyDoesNotWaitBehindYoungerEventsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{send: func(context.Context, []*relay.Event) (a answer) { time.Sleep(time.Second); return a }}
		events := numbered(1, 420, func(id int64) string {
			if id <= 20 {
				return "hot"
			}
			return fmt.Sprint(id)
		})
		start := time.Now()
		_, err := s.publisher(true).Publish(t.Context(), Request{
			Topic: "orders", Concurrency: 2, Events: feed(events), Report: ignore,
		})
		require.NoError(t, err)
		// 42 requests, two at once; the 20 of the hot key are among them.
		assert.Equal(t, 21*time.Second, time.Since(start))
	})
}
