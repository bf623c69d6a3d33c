package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/publish/message"
	"github.com/temporal-outbox/relay/internal/relay"
)

// strict is a destination that rejects whole requests, for one event in them or
// for their size.
type strict struct {
	limit int              // bytes of a request
	bad   map[int64]string // the code of every request with that event
	sick  map[int64]bool   // fails in a response, for itself alone

	mu       sync.Mutex
	accepted []int64
	rejected int // requests
}

func (d *strict) send(_ context.Context, events []*relay.Event) (a answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	code := ""
	for _, e := range events {
		if c := d.bad[e.ID]; c != "" {
			code = c
		}
	}
	if weighEvents(events) > d.limit {
		code = "AWS.SimpleQueueService.BatchRequestTooLong"
	}
	if code != "" {
		d.rejected++
		return failAll(errorcode.New(code, "no"))
	}
	for i, e := range events {
		if d.sick[e.ID] {
			a[i] = errorcode.New("InternalError", "")
			continue
		}
		d.accepted = append(d.accepted, e.ID)
	}
	return a
}

// weighEvents is the size of a request with these events.
func weighEvents(events []*relay.Event) (bytes int) {
	for _, ev := range events {
		n, _ := message.Measure(ev)
		bytes += n
	}
	return bytes
}

// publisherTo routes "orders" to send, with a limit that is taken to be the
// destination's.
func publisherTo(send func(context.Context, []*relay.Event) answer, ordered bool, limit int) (*Publisher, *stub) {
	s := &stub{send: send}
	p := s.publisher(ordered)
	s.limit = limit
	return p, s
}

func TestDivide_OnlyTheBadEventsFailAndTheOthersArrive(t *testing.T) {
	splitting := []string{"InvalidMessageContents", "InvalidParameter", "ValidationError"}
	rapid.Check(t, func(t *rapid.T) {
		ordered := rapid.Bool().Draw(t, "ordered")
		isolate := rapid.Bool().Draw(t, "isolate")
		n := rapid.IntRange(1, 150).Draw(t, "n")
		keys := rapid.IntRange(1, 60).Draw(t, "keys")
		key := func(id int64) string { return fmt.Sprint("k", id*31%int64(keys)) }
		events := numbered(1, n, key)
		codes := splitting
		if isolate {
			codes = append([]string{"AccessDenied", "NobodyKnows"}, codes...)
		}
		d := &strict{
			bad:  rapid.MapOfN(rapid.Int64Range(1, int64(n)), rapid.SampledFrom(codes), 0, 8).Draw(t, "bad"),
			sick: rapid.MapOfN(rapid.Int64Range(1, int64(n)), rapid.Just(true), 0, 3).Draw(t, "sick"),
		}
		for i := range events {
			events[i].Payload = strings.Repeat("x", rapid.IntRange(1, 400).Draw(t, "size"))
			if rapid.IntRange(0, 30).Draw(t, "huge") == 0 {
				events[i].Payload = strings.Repeat("x", 2000)
			}
		}
		limit := rapid.SampledFrom([]int{600, 1000, 5000, 100_000}).Draw(t, "limit")
		d.limit = min(limit, rapid.SampledFrom([]int{600, 1000, 5000, 100_000}).Draw(t, "true limit"))
		p, s := publisherTo(d.send, ordered, limit)
		s.guessed = true
		outcome := make(map[int64]*relay.PublishError)
		result, err := p.Publish(context.Background(), Request{
			Topic: "orders", Events: feed(events[:n/2], events[n/2:]), Isolate: isolate,
			Concurrency: rapid.IntRange(1, 5).Draw(t, "concurrency"),
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
		if ordered && s.clash != nil {
			t.Fatal(s.clash)
		}

		want := Result{Events: n, Requests: s.requests}
		blocked := make(map[string]bool)
		var arrive []int64
		failing := 0
		for i := range events {
			ev := &events[i]
			bytes, _ := message.Measure(ev)
			code := d.bad[ev.ID]
			switch {
			case bytes > d.limit:
				code = relay.CodeTooLarge
			case code == "" && d.sick[ev.ID]:
				code = "InternalError"
			}
			got, ok := outcome[ev.ID]
			switch {
			case ordered && blocked[key(ev.ID)]:
				want.Held++
				if ok {
					t.Fatalf("event %d overtook a failed one of its key", ev.ID)
				}
			case !ok:
				t.Fatalf("event %d has no outcome", ev.ID)
			case code != "":
				failing++
				want.Failed++
				blocked[key(ev.ID)] = true
				if got == nil || got.Code != code || got.Whole {
					t.Fatalf("event %d: %+v, want %s of its own", ev.ID, got, code)
				}
				if wantClass := errorcode.Lookup(code).Class; got.Class != wantClass {
					t.Fatalf("event %d: %s, want %s", ev.ID, got.Class, wantClass)
				}
			default:
				want.Acknowledged++
				arrive = append(arrive, ev.ID)
				if got != nil {
					t.Fatalf("event %d is good: %v", ev.ID, got)
				}
			}
		}
		if result != want {
			t.Fatalf("%+v, want %+v", result, want)
		}
		last := make(map[string]int64)
		for _, id := range d.accepted {
			if ordered && id < last[key(id)] {
				t.Fatalf("event %d of %s was accepted after %d", id, key(id), last[key(id)])
			}
			last[key(id)] = id
		}
		if got := slices.Sorted(slices.Values(d.accepted)); !slices.Equal(got, arrive) {
			t.Fatalf("accepted %v, want %v", got, arrive)
		}
		// A bad event costs its own rejection and, of a batch of ten, at most
		// four on the way to it, and each of these two more requests. Each of the
		// two pages may end in a request that is not full.
		if d.limit == limit && s.requests > n+8*failing {
			t.Fatalf("%d requests for %d events of which %d failed", s.requests, n, failing)
		}
		if d.limit == limit && !ordered && limit == 100_000 && s.requests > n/10+2+8*failing {
			t.Fatalf("%d requests for %d events of which %d failed", s.requests, n, failing)
		}
	})
}

func TestDivide_AFailureThatIsAboutNoEventStaysWhole(t *testing.T) {
	for _, code := range []string{"AccessDenied", "Throttled", "InternalError", "EmptyBatchRequest", relay.CodeTimeout, "HTTP403", "NobodyKnows"} {
		d := &strict{limit: 1000, bad: map[int64]string{3: code}}
		p, s := publisherTo(d.send, false, 1000)
		result, err := p.Publish(t.Context(), Request{
			Topic: "orders", Events: feed(numbered(1, 10, nil)),
			Report: func(outcomes []relay.Outcome) {
				for _, o := range outcomes {
					require.NotNil(t, o.Err)
					assert.True(t, o.Err.Whole, code)
					assert.Equal(t, code, o.Err.Code)
				}
			},
		})
		require.NoError(t, err)
		assert.Equal(t, Result{Events: 10, Requests: 1, Failed: 10}, result)
		assert.Equal(t, 1, s.requests)
	}
}

func TestUnroutable_NothingIsWholeOnceEventsAreToBeIsolated(t *testing.T) {
	for _, isolate := range []bool{false, true} {
		_, err := new(stub).publisher(false).Publish(t.Context(), Request{
			Topic: "unknown", Events: feed(numbered(1, 2, nil)), Isolate: isolate,
			Report: func(outcomes []relay.Outcome) {
				for _, o := range outcomes {
					assert.Equal(t, !isolate, o.Err.Whole)
					assert.Equal(t, relay.ClassDestination, o.Err.Class)
				}
			},
		})
		require.NoError(t, err)
	}
}

func TestDivide_AStopLeavesTheRestUnsent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := &strict{limit: 1000, bad: map[int64]string{1: "InvalidParameter"}}
	p, _ := publisherTo(func(ctx context.Context, events []*relay.Event) answer {
		if len(events) <= 5 {
			cancel()
		}
		return d.send(ctx, events)
	}, true, 1000)
	// Key k1 has an event behind the one that is being looked for.
	events := append(numbered(1, 10, func(id int64) string { return fmt.Sprint("k", id) }), numbered(11, 1, func(int64) string { return "k1" })...)
	outcomes := 0
	result, err := p.Publish(ctx, Request{
		Topic: "orders", Concurrency: 1, Events: feed(events),
		Report: func(o []relay.Outcome) { outcomes += len(o) },
	})
	require.ErrorIs(t, err, relay.ErrStopped)
	assert.Zero(t, outcomes)
	assert.Equal(t, Result{Events: 11, Requests: 2, Unsent: 11}, result)
}

// sizes publishes events and returns the sizes of the requests that were sent.
func sizes(t *testing.T, p *Publisher, d *strict, events []relay.Event) (accepted []int, rejected int) {
	d.rejected = 0
	s, ok := p.routes["orders"].open.(*stub)
	require.True(t, ok)
	s.send = func(ctx context.Context, events []*relay.Event) answer {
		a := d.send(ctx, events)
		if a[0] == nil {
			accepted = append(accepted, weighEvents(events))
		}
		return a
	}
	result, err := p.Publish(t.Context(), Request{Topic: "orders", Concurrency: 1, Events: feed(events), Report: ignore})
	require.NoError(t, err)
	require.Equal(t, len(events), result.Acknowledged)
	return accepted, d.rejected
}

func TestRequestSize_StaysBelowARejectedOneUntilTheNextLookUp(t *testing.T) {
	events := numbered(100, 200, nil) // names of one length
	for i := range events {
		events[i].Payload = strings.Repeat("x", 80)
	}
	each, _ := message.Measure(&events[len(events)-1])
	d := &strict{limit: 4*each + each/2}
	p, _ := publisherTo(d.send, false, 100*each)
	route := p.routes["orders"]

	accepted, rejected := sizes(t, p, d, events)
	assert.LessOrEqual(t, rejected, 3, "it learns from one rejection, and from one of what it learned")
	assert.LessOrEqual(t, slices.Max(accepted), d.limit)

	accepted, rejected = sizes(t, p, d, events)
	assert.Zero(t, rejected, "the next stream knows")
	assert.Equal(t, 3*each, slices.Max(accepted), "what was accepted is not given up")
	assert.Equal(t, 100*each, route.open.Properties().MaxBytes, "an event alone may still have the whole")

	// The limit was raised, and a look-up says so.
	d.limit = 100 * each
	route.learned.Store(0)
	accepted, rejected = sizes(t, p, d, events)
	assert.Zero(t, rejected)
	assert.Equal(t, 10*each, slices.Max(accepted))

	// It shrinks below what has been accepted in this very stream.
	d.limit = 2 * each
	at := 0
	p2, s2 := publisherTo(nil, false, 100*each)
	s2.send = func(ctx context.Context, events []*relay.Event) answer {
		at++
		d.limit = map[bool]int{true: 100 * each, false: 2 * each}[at < 5]
		return d.send(ctx, events)
	}
	d.rejected = 0
	result, err := p2.Publish(t.Context(), Request{Topic: "orders", Concurrency: 1, Events: feed(events), Report: ignore})
	require.NoError(t, err)
	assert.Equal(t, len(events), result.Acknowledged)
	assert.Less(t, d.rejected, 10)
}

func TestDivide_AnEventThatIsTooLargeAloneSaysBothSizes(t *testing.T) {
	for _, code := range []string{"BatchRequestTooLong", "HTTP413"} {
		events := numbered(1, 2, nil)
		events[0].Payload = strings.Repeat("x", 5000) // above what is taken for the limit
		events[1].Payload = strings.Repeat("x", 500)  // below
		d := &strict{limit: 100_000, bad: map[int64]string{1: code, 2: code}}
		p, s := publisherTo(d.send, false, 1000)
		s.guessed = true
		got := make(map[int64]*relay.PublishError)
		_, err := p.Publish(t.Context(), Request{Topic: "orders", Events: feed(events), Report: func(outcomes []relay.Outcome) {
			for _, o := range outcomes {
				got[o.ID] = o.Err
			}
		}})
		require.NoError(t, err)
		for id, err := range maps.All(got) {
			bytes, _ := message.Measure(&events[id-1])
			assert.Equal(t, relay.CodeTooLarge, err.Code)
			assert.Equal(t, relay.ClassPoison, err.Class)
			assert.False(t, err.Whole)
			assert.Contains(t, err.Message, fmt.Sprintf("has %d bytes", bytes))
			assert.Contains(t, err.Message, "accepts 1000")
			assert.Contains(t, err.Message, code+": no")
			assert.Equal(t, id == 2, err.Ambiguous, "a destination that finds small events too large is broken")
		}
		assert.Len(t, got, 2)
	}
}

func TestDivide_ForAnUnknownCodeIfItBlamesTheSender(t *testing.T) {
	for name, c := range map[string]struct {
		code     string
		sender   bool
		isolate  bool
		requests int
	}{
		"unknown":            {"NobodyKnows", false, false, 1},
		"unknown, of ours":   {"NobodyKnows", true, false, 9},
		"hangs":              {relay.CodeTimeout, false, true, 1},
		"throttles":          {"Throttling", true, true, 1},
		"denied":             {"AccessDenied", true, false, 1},
		"denied, to isolate": {"AccessDenied", true, true, 9},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := publisherTo(func(_ context.Context, events []*relay.Event) (a answer) {
				for _, e := range events {
					if e.ID == 7 {
						pe := errorcode.New(c.code, "no")
						pe.SenderFault = c.sender
						return failAll(pe)
					}
				}
				return a
			}, false, 100_000)
			result, err := p.Publish(t.Context(), Request{
				Topic: "orders", Events: feed(numbered(1, 10, nil)), Isolate: c.isolate, Report: ignore,
			})
			require.NoError(t, err)
			if c.requests == 1 {
				require.Equal(t, Result{Events: 10, Requests: 1, Failed: 10}, result)
			} else {
				require.Equal(t, Result{Events: 10, Requests: result.Requests, Acknowledged: 9, Failed: 1}, result)
				require.LessOrEqual(t, result.Requests, c.requests)
			}
		})
	}
}
