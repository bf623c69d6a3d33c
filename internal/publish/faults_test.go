package publish_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// both runs a test against an SNS topic and an SQS queue, standard or FIFO.
func both(t *testing.T, fifo bool, test func(t *testing.T, w *wire, d publish.Destination)) {
	suffix := ""
	if fifo {
		suffix = ".fifo"
	}
	for service, d := range map[publish.Service]publish.Destination{
		publish.SNS: {SNS: "arn:aws:sns:eu-central-1:1:orders" + suffix},
		publish.SQS: {SQS: "https://queue.example/1/orders" + suffix},
	} {
		t.Run(string(service), func(t *testing.T) {
			t.Parallel()
			test(t, newWire(t), d)
		})
	}
}

// simple makes n events with ids from 1, each with a key of its own.
func simple(n int) []relay.Event {
	events := make([]relay.Event, n)
	for i := range events {
		events[i] = relay.Event{
			Ref: relay.Ref{ID: int64(i + 1)}, EventID: uuid.NewString(), Key: fmt.Sprint("k", i+1),
			Type: "t", Payload: fmt.Sprintf("payload of event %d", i+1), ContentType: "text/plain",
		}
	}
	return events
}

// ledger collects outcomes and insists on one for each event.
type ledger struct {
	t    testing.TB
	mu   sync.Mutex
	byID map[int64]*relay.PublishError
}

func (l *ledger) report(outcomes []relay.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = make(map[int64]*relay.PublishError)
	}
	for _, o := range outcomes {
		_, twice := l.byID[o.ID]
		assert.False(l.t, twice, "event %d has two outcomes", o.ID)
		l.byID[o.ID] = o.Err
	}
}

// codes returns each event's code, "" for acknowledged ones.
func (l *ledger) codes() map[int64]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	codes := make(map[int64]string)
	for id, err := range l.byID {
		codes[id] = ""
		if err != nil {
			codes[id] = err.Code
		}
	}
	return codes
}

// publishAll publishes events and returns what became of them.
func publishAll(t testing.TB, p *publish.Publisher, events ...relay.Event) *ledger {
	l := &ledger{t: t}
	_, err := p.Publish(t.Context(), publish.Request{Topic: "orders", Events: stream(events), Report: l.report})
	require.NoError(t, err)
	return l
}

func TestResponse_EveryEntryIsAccountedFor(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		w.publish = func(wireBatch) wireReply {
			return wireReply{
				Fail: map[string]wireError{
					"1": {Code: "InternalError", Message: "try again"},
					"2": {Code: "InvalidParameter", Message: "no", SenderFault: true},
					"8": {Code: "InternalError"}, // never sent
				},
				Omit:  map[string]bool{"3": true},
				Extra: []string{"9", "10", "", "x", "2"}, // never sent, but for one that also failed
			}
		}
		l := publishAll(t, w.publisher(d), simple(5)...)
		assert.Equal(t, map[int64]string{1: "", 2: "InternalError", 3: "InvalidParameter", 4: relay.CodeUnanswered, 5: ""}, l.codes())
		assert.Equal(t, relay.ClassRetry, l.byID[2].Class)
		assert.Equal(t, relay.ClassPoison, l.byID[3].Class)
		assert.True(t, l.byID[3].Ambiguous)
		assert.Equal(t, relay.ClassRetry, l.byID[4].Class)
		assert.Equal(t, "try again", l.byID[2].Message)
		assert.False(t, l.byID[2].SenderFault)
		assert.True(t, l.byID[3].SenderFault)
	})
}

func TestFailure_OfARequestIsThatOfEachOfItsEvents(t *testing.T) {
	for name, c := range map[string]struct {
		reply     wireReply
		code      string
		attempts  int
		class     relay.Class
		throttled bool
	}{
		"access denied":   {wireReply{Status: 403, Error: &wireError{Code: "AuthorizationError", Message: "not yours"}}, "AuthorizationError", 1, relay.ClassDestination, false},
		"not found":       {wireReply{Status: 404, Error: &wireError{Code: "NotFound", Message: "gone"}}, "NotFound", 1, relay.ClassDestination, false},
		"throttling":      {wireReply{Status: 400, Error: &wireError{Code: "ThrottlingException", Message: "slow down"}}, "ThrottlingException", 2, relay.ClassRetry, true},
		"SNS's throttled": {wireReply{Status: 429, Error: &wireError{Code: "Throttled", Message: "slow down"}}, "Throttled", 1, relay.ClassRetry, true},
		"internal":        {wireReply{Status: 500, Error: &wireError{Code: "InternalFailure", Message: "oops"}}, "InternalFailure", 2, relay.ClassRetry, false},
		"a proxy's 503":   {wireReply{Status: 503, Raw: "<html><body>Service Unavailable<br></html>"}, "HTTP503", 2, relay.ClassRetry, false},
		"an empty 502":    {wireReply{Status: 502, Raw: " "}, "HTTP502", 2, relay.ClassRetry, false},
		"a redirect":      {wireReply{Status: 302, Raw: "moved"}, "HTTP302", 1, relay.ClassDestination, false},
		"a broken body":   {wireReply{Raw: "<PublishBatchResponse><Publ{"}, relay.CodeResponse, 0, relay.ClassRetry, false},
		"a busy proxy":    {wireReply{Status: 429, Raw: "later"}, "HTTP429", 1, relay.ClassRetry, true},
		"an unknown 429":  {wireReply{Status: 429, Error: &wireError{Code: "Later", Message: "later"}}, "Later", 1, relay.ClassRetry, true},
		"a key's":         {wireReply{Status: 400, Error: &wireError{Code: "KMS.AccessDeniedException", Message: "no"}}, "KMS.AccessDeniedException", 1, relay.ClassDestination, false},
		"a firewall":      {wireReply{Status: 403, Raw: "<html>Forbidden</html>"}, "HTTP403", 1, relay.ClassDestination, false},
		"dropped":         {wireReply{Drop: true}, relay.CodeConnection, 0, relay.ClassRetry, false},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
				w.publish = func(wireBatch) wireReply { return c.reply }
				l := publishAll(t, w.publisher(d), simple(3)...)
				assert.Equal(t, map[int64]string{1: c.code, 2: c.code, 3: c.code}, l.codes(), "%v", l.byID[1])
				for _, err := range l.byID {
					assert.Equal(t, c.class, err.Class)
					assert.Equal(t, c.throttled, err.Throttled)
					assert.True(t, err.Whole)
				}
				if c.attempts > 0 {
					assert.EqualValues(t, c.attempts, w.calls.Load(), "attempts")
				}
				if c.reply.Error != nil {
					assert.Equal(t, c.reply.Error.Message, l.byID[1].Message)
				}
				assert.NotContains(t, l.byID[1].Error(), "payload of event")
			})
		})
	}
}

func TestRepetition_AfterALostAnswerHasTheSameDeduplicationID(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		var seen [][]wireEntry
		w.publish = func(b wireBatch) wireReply {
			seen = append(seen, b.Entries)
			return wireReply{Drop: b.Call == 1}
		}
		l := publishAll(t, w.publisher(d), simple(3)...)
		assert.Equal(t, map[int64]string{1: "", 2: "", 3: ""}, l.codes())
		require.Len(t, seen, 2)
		assert.Equal(t, seen[0], seen[1])
	})
}

func TestTimeout_BoundsTheCostOfASilentServer(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		release := make(chan struct{})
		defer close(release)
		w.publish = func(wireBatch) wireReply { <-release; return wireReply{} }
		p := w.publisher(d, func(c *publish.Config) {
			c.RequestTimeout, c.AttemptTimeout = 10*time.Second, 200*time.Millisecond
		})
		start := time.Now()
		l := publishAll(t, p, simple(2)...)
		assert.Equal(t, map[int64]string{1: relay.CodeTimeout, 2: relay.CodeTimeout}, l.codes())
		assert.EqualValues(t, 2, w.calls.Load(), "attempts")
		assert.Less(t, time.Since(start), 5*time.Second)
	})
}

func TestLease_BoundsARequestWithAllItsAttempts(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		release := make(chan struct{})
		defer close(release)
		w.publish = func(wireBatch) wireReply { <-release; return wireReply{} }
		p := w.publisher(d)
		_, err := p.Resolve(t.Context(), "orders")
		require.NoError(t, err)
		l := &ledger{t: t}
		start := time.Now()
		end := start.Add(300 * time.Millisecond)
		result, err := p.Publish(t.Context(), publish.Request{
			Topic: "orders", Concurrency: 1, Events: stream(simple(15)), Report: l.report,
			Deadline: func() time.Time { return end },
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		assert.Less(t, time.Since(start), 5*time.Second)
		assert.Equal(t, relay.PublishResult{Events: 15, Requests: 1, Failed: 10, Unsent: 5}, result)
		for id, code := range l.codes() {
			assert.Equal(t, relay.CodeTimeout, code, "event %d", id)
		}
		assert.LessOrEqual(t, w.calls.Load(), int64(1), "attempts")
	})
}

// The machine is suspended while a request is under way. The context's timer stands
// still meanwhile, so that the SDK would repeat the request when it wakes up.
func TestLease_ASuspendedMachineRepeatsNoRequestAfterIt(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		var isOver atomic.Bool
		w.publish = func(wireBatch) wireReply {
			isOver.Store(true)
			return wireReply{Drop: true}
		}
		p := w.publisher(d)
		_, err := p.Resolve(t.Context(), "orders")
		require.NoError(t, err)
		l := &ledger{t: t}
		before := w.calls.Load()
		_, err = p.Publish(t.Context(), publish.Request{
			Topic: "orders", Concurrency: 1, Events: stream(simple(15)), Report: l.report,
			Deadline: func() time.Time {
				if isOver.Load() {
					return time.Now().Add(-time.Second)
				}
				return time.Now().Add(time.Minute)
			},
		})
		require.ErrorIs(t, err, relay.ErrStopped)
		assert.Equal(t, before+1, w.calls.Load(), "it was sent again")
		assert.Len(t, l.codes(), 10, "and has an outcome")
	})
}

func TestErrorText_IsCutBetweenCharacters(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		w.publish = func(b wireBatch) wireReply {
			long := wireError{Code: "InternalError", Message: "x" + strings.Repeat("ü", 5000)}
			if b.Call == 1 {
				return wireReply{Fail: map[string]wireError{"0": long}}
			}
			return wireReply{Status: 400, Error: &long}
		}
		p := w.publisher(d)
		for range 2 {
			text := publishAll(t, p, simple(1)...).byID[1].Message
			assert.LessOrEqual(t, len(text), 500)
			assert.Greater(t, len(text), 490)
			assert.True(t, strings.HasSuffix(text, "ü…"), text)
		}
	})
}

func TestCredentials_ThatAreMissingFailTheEventsAndNothingElse(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		p := w.publisher(d)
		l := publishAll(t, p, simple(1)...)
		require.Equal(t, map[int64]string{1: ""}, l.codes())

		p = w.publisher(d, func(c *publish.Config) {
			c.AWS.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{}, assert.AnError
			})
		})
		l = publishAll(t, p, simple(2)...)
		assert.Equal(t, map[int64]string{1: relay.CodeNotSent, 2: relay.CodeNotSent}, l.codes())
		assert.Contains(t, l.byID[1].Message, "check that the worker has AWS credentials")
	})
}

func TestBody_IsThePayloadByteForByte(t *testing.T) {
	both(t, true, func(t *testing.T, w *wire, d publish.Destination) {
		var mu sync.Mutex
		got := make(map[string]wireEntry)
		w.publish = func(b wireBatch) wireReply {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range b.Entries {
				got[e.Attributes["event_id"]] = e
			}
			return wireReply{}
		}
		events := simple(4)
		events[0].Payload = "\U0001F600 \u2028 <&>\"'\\ %41+ \t\r\n\n ü " // not everything of this passes every emulator
		events[1].Payload = " "
		events[2].Attributes = map[string]string{"traceparent": "00-a-b-01", "tenant": " x=1&y=2 "}
		events[3].Replay = 7
		publishAll(t, w.publisher(d), events...)
		require.Len(t, got, len(events))
		for i, ev := range events {
			e := got[ev.EventID]
			assert.Equal(t, ev.Payload, e.Body)
			require.NotNil(t, e.Group)
			require.NotNil(t, e.Dedup)
			assert.Equal(t, ev.Key, *e.Group)
			want := map[string]string{"event_id": ev.EventID, "event_type": "t", "content_type": "text/plain"}
			deduplication := ev.EventID
			switch i {
			case 2:
				want["traceparent"], want["tenant"] = "00-a-b-01", " x=1&y=2 "
			case 3:
				deduplication += "/7"
			}
			assert.Equal(t, deduplication, *e.Dedup)
			assert.Equal(t, want, e.Attributes)
		}
	})
}

func TestGroups_OfStandardDestinationsAreForFairOnesOnly(t *testing.T) {
	for _, fair := range []bool{false, true} {
		t.Run(fmt.Sprint("fair=", fair), func(t *testing.T) {
			both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
				d.Fair = fair
				var got []wireEntry
				w.publish = func(b wireBatch) wireReply { got = b.Entries; return wireReply{} }
				events := simple(2)
				events[1].Key = ""
				publishAll(t, w.publisher(d), events...)
				require.Len(t, got, 2)
				if fair {
					require.NotNil(t, got[0].Group)
					assert.Equal(t, events[0].Key, *got[0].Group)
				} else {
					assert.Nil(t, got[0].Group)
				}
				assert.Nil(t, got[1].Group, "AWS rejects an empty one")
				assert.Nil(t, got[0].Dedup)
				assert.Nil(t, got[1].Dedup)
			})
		})
	}
}

func TestRegion_OfARequestIsThatOfItsDestination(t *testing.T) {
	for _, d := range []publish.Destination{
		{SNS: "arn:aws:sns:ap-south-1:1:orders"},
		{SQS: "https://sqs.ap-south-1.amazonaws.com/1/orders"},
	} {
		w := newWire(t)
		w.publish = func(b wireBatch) wireReply {
			assert.Equal(t, "ap-south-1", b.Region)
			assert.Equal(t, d.SNS+d.SQS, b.Address)
			return wireReply{}
		}
		publishAll(t, w.publisher(d), simple(1)...)
		assert.EqualValues(t, 1, w.calls.Load())
	}
}
