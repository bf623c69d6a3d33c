package publish_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// lists answers ListTopics in two pages, and attributes with that limit.
func lists(calls *sync.Map, limit *atomic.Int64) func(string, *http.Request, url.Values) wireReply {
	return func(action string, _ *http.Request, form url.Values) wireReply {
		n, _ := calls.LoadOrStore(action, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		switch {
		case action == "ListTopics" && form.Get("NextToken") == "":
			return wireReply{Raw: topicPage("<NextToken>more</NextToken>", "not-orders", "orders-archive", "audit.fifo")}
		case action == "ListTopics":
			return wireReply{Raw: topicPage("", "orders", "billing")}
		case action == "GetTopicAttributes":
			return wireReply{Raw: fmt.Sprintf("<GetTopicAttributesResponse><GetTopicAttributesResult><Attributes><entry><key>MaximumMessageSize</key>"+
				"<value>%d</value></entry><entry><key>TopicArn</key><value>%s</value></entry></Attributes></GetTopicAttributesResult></GetTopicAttributesResponse>",
				limit.Load(), form.Get("TopicArn"))}
		case action == "GetQueueAttributes":
			return wireReply{Raw: fmt.Sprintf(`{"Attributes":{"MaximumMessageSize":"%d"}}`, limit.Load())}
		}
		return wireReply{}
	}
}

func topicPage(token string, names ...string) string {
	members := ""
	for _, name := range names {
		members += "<member><TopicArn>arn:aws:sns:eu-central-1:1:" + name + "</TopicArn></member>"
	}
	return "<ListTopicsResponse><ListTopicsResult><Topics>" + members + "</Topics>" + token + "</ListTopicsResult></ListTopicsResponse>"
}

func count(calls *sync.Map, action string) int64 {
	n, ok := calls.Load(action)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

func TestResolve_FindsNamesByOnePageOfTheListingForAllTopics(t *testing.T) {
	w := newWire(t)
	var calls sync.Map
	var limit atomic.Int64
	limit.Store(300_000)
	w.other = lists(&calls, &limit)
	p, err := publish.New(publish.Config{AWS: w.aws(), Topics: map[string]publish.Destination{
		"a": {SNS: "orders"}, "b": {SNS: "audit.fifo"}, "c": {SNS: "billing"},
	}})
	require.NoError(t, err)
	want := map[string]publish.Route{
		"a": {Topic: "a", Service: publish.SNS, Name: "orders", Address: "arn:aws:sns:eu-central-1:1:orders", Region: "eu-central-1", Limit: 300_000},
		"b": {Topic: "b", Service: publish.SNS, Name: "audit.fifo", Address: "arn:aws:sns:eu-central-1:1:audit.fifo", Region: "eu-central-1", Limit: 300_000, Ordered: true},
		"c": {Topic: "c", Service: publish.SNS, Name: "billing", Address: "arn:aws:sns:eu-central-1:1:billing", Region: "eu-central-1", Limit: 300_000},
	}
	var wg sync.WaitGroup
	for _, topic := range append(p.Topics(), p.Topics()...) {
		wg.Go(func() {
			r, err := p.Resolve(t.Context(), topic)
			assert.NoError(t, err)
			assert.Equal(t, want[topic], r)
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1, count(&calls, "ListTopics"), "a page tells whose topics they are")
	assert.EqualValues(t, 3, count(&calls, "GetTopicAttributes"))
}

func TestResolve_LearnsALimitAndRefreshesIt(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		var calls sync.Map
		var limit atomic.Int64
		limit.Store(1024)
		known := lists(&calls, &limit)
		w.other = known
		p := w.publisher(d, func(c *publish.Config) { c.RefreshAfter = time.Nanosecond })
		r, err := p.Resolve(t.Context(), "orders")
		require.NoError(t, err)
		assert.Equal(t, 1024, r.Limit)

		limit.Store(2048)
		r, err = p.Resolve(t.Context(), "orders")
		require.NoError(t, err)
		assert.Equal(t, 2048, r.Limit)

		w.other = func(string, *http.Request, url.Values) wireReply {
			return wireReply{Status: 404, Error: &wireError{Code: "NotFound", Message: "gone"}}
		}
		r, err = p.Resolve(t.Context(), "orders")
		require.NoError(t, err, "what is known stays known")
		assert.Equal(t, 2048, r.Limit)

		// Requests keep to it.
		events := simple(6)
		for i := range events {
			events[i].Payload = strings.Repeat("x", 900)
		}
		var bytes []int
		w.publish = func(b wireBatch) wireReply { bytes = append(bytes, weigh(b)); return wireReply{} }
		l := &ledger{t: t}
		result, err := p.Publish(t.Context(), publish.Request{
			Topic: "orders", Concurrency: 1, Events: stream(events), Report: l.report,
		})
		require.NoError(t, err)
		assert.Equal(t, 3, result.Requests)
		for _, n := range bytes {
			assert.LessOrEqual(t, n, 2048)
		}
	})
}

// weigh counts a batch the way AWS documents it.
func weigh(b wireBatch) int {
	n := 0
	for _, e := range b.Entries {
		n += len(e.Body)
		for name, value := range e.Attributes {
			n += len(name) + len("String") + len(value)
		}
	}
	return n
}

func TestResolve_TakesTheDefaultLimitIfAttributesMayNotBeRead(t *testing.T) {
	both(t, false, func(t *testing.T, w *wire, d publish.Destination) {
		want := map[bool]int{true: 256 << 10, false: 1 << 20}[d.SNS != ""]
		for _, code := range []string{"AuthorizationError", "AccessDenied", "AccessDeniedException"} {
			w.other = func(string, *http.Request, url.Values) wireReply {
				return wireReply{Status: 403, Error: &wireError{Code: code, Message: "no"}}
			}
			r, err := w.publisher(d).Resolve(t.Context(), "orders")
			require.NoError(t, err)
			assert.Equal(t, want, r.Limit)
			assert.True(t, r.Guessed)
		}
	})
}

func TestResolve_LeavesAnEventAboveAGuessedLimitToTheDestination(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprint("known=", known), func(t *testing.T) {
			w := newWire(t)
			var limit atomic.Int64
			limit.Store(256 << 10)
			if known {
				w.other = lists(new(sync.Map), &limit)
			}
			var sent [][]string
			w.publish = func(b wireBatch) wireReply {
				var ids []string
				for _, e := range b.Entries {
					ids = append(ids, e.Attributes["event_id"])
				}
				sent = append(sent, ids)
				return wireReply{}
			}
			events := simple(4)
			events[1].Payload = strings.Repeat("x", 700<<10)
			events[2].Payload = strings.Repeat("x", 1<<20) // with its attributes more than AWS allows
			p := w.publisher(publish.Destination{SNS: "arn:aws:sns:eu-central-1:1:orders"})
			l := &ledger{t: t}
			_, err := p.Publish(t.Context(), publish.Request{Topic: "orders", Concurrency: 1, Events: stream(events), Report: l.report})
			require.NoError(t, err)
			id := func(i int) string { return events[i].EventID }
			if known {
				assert.Equal(t, map[int64]string{1: "", 2: relay.CodeTooLarge, 3: relay.CodeTooLarge, 4: ""}, l.codes())
				assert.Equal(t, [][]string{{id(0), id(3)}}, sent)
				assert.Contains(t, l.byID[2].Message, "262144")
			} else {
				assert.Equal(t, map[int64]string{1: "", 2: "", 3: relay.CodeTooLarge, 4: ""}, l.codes())
				assert.Equal(t, [][]string{{id(0)}, {id(1)}, {id(3)}}, sent)
				assert.Contains(t, l.byID[3].Message, "1048576")
			}
			assert.Equal(t, relay.ClassPoison, l.byID[3].Class)
			assert.False(t, l.byID[3].Ambiguous)
		})
	}
}

func TestResolve_NamesAnUnresolvableDestinationWithARemedy(t *testing.T) {
	deny := wireReply{Status: 403, Error: &wireError{Code: "AuthorizationError", Message: "no"}}
	for name, c := range map[string]struct {
		d     publish.Destination
		reply wireReply
		want  []string
	}{
		"no such topic": {
			publish.Destination{SNS: "missing"},
			wireReply{Raw: topicPage("", "missing2", "not-missing")},
			[]string{`topic orders`, `SNS topic "missing"`, relay.CodeNoTopic, "create it in eu-central-1"},
		},
		"no such queue": {
			publish.Destination{SQS: "missing"},
			wireReply{Status: 400, Error: &wireError{Code: "AWS.SimpleQueueService.NonExistentQueue", Message: "no"}},
			[]string{`topic orders`, `SQS queue "missing"`, "NonExistentQueue", "create it in eu-central-1"},
		},
		"topics may not be listed": {publish.Destination{SNS: "orders"}, deny, []string{"sns:ListTopics", "ARN"}},
		"queue may not be read":    {publish.Destination{SQS: "orders"}, deny, []string{"sqs:GetQueueUrl", "URL"}},
		"no server":                {publish.Destination{SQS: "orders"}, wireReply{Drop: true}, []string{relay.CodeConnection, "AWS_ENDPOINT_URL"}},
		"an answer without a URL":  {publish.Destination{SQS: "orders"}, wireReply{Raw: "{}"}, []string{relay.CodeResponse, "GetQueueUrl"}},
		"a bad token": {
			publish.Destination{SNS: "orders"},
			wireReply{Status: 403, Error: &wireError{Code: "InvalidClientTokenId", Message: "no"}},
			[]string{"InvalidClientTokenId", "credentials"},
		},
		"not an ARN after all": {
			publish.Destination{SNS: "orders"},
			wireReply{Status: 400, Error: &wireError{Code: "InvalidParameter", Message: "TopicArn"}},
			[]string{"InvalidParameter", "TopicArn"},
		},
		"anything else": {
			publish.Destination{SNS: "orders"},
			wireReply{Status: 500, Error: &wireError{Code: "InternalError", Message: "oops"}},
			[]string{"InternalError: ", "oops"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			w.other = func(action string, _ *http.Request, _ url.Values) wireReply {
				if action == "GetTopicAttributes" && c.reply.Raw != "" {
					return wireReply{} // which names no topic
				}
				return c.reply
			}
			p := w.publisher(c.d)
			_, err := p.Resolve(t.Context(), "orders")
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			var pe *relay.PublishError
			require.ErrorAs(t, err, &pe)

			// An event's outcome says the same.
			l := publishAll(t, p, simple(2)...)
			assert.Equal(t, map[int64]string{1: pe.Code, 2: pe.Code}, l.codes())
			assert.Equal(t, pe.Message, l.byID[2].Message)
			assert.NotEqual(t, relay.ClassPoison, l.byID[2].Class, "no event was part of it")
			assert.Zero(t, w.calls.Load())
		})
	}
}

func TestResolve_IsTriedAgainAfterAFailure(t *testing.T) {
	w := newWire(t)
	var calls sync.Map
	var limit atomic.Int64
	known := lists(&calls, &limit)
	w.other = func(action string, r *http.Request, form url.Values) wireReply {
		return wireReply{Status: 500, Error: &wireError{Code: "InternalError"}}
	}
	p := w.publisher(publish.Destination{SNS: "orders"})
	_, err := p.Resolve(t.Context(), "orders")
	require.Error(t, err)
	w.other = known
	_, err = p.Resolve(t.Context(), "orders")
	require.NoError(t, err)
}

func TestStop_WhileResolvingIsAStop(t *testing.T) {
	w := newWire(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	defer close(release)
	w.other = func(_ string, r *http.Request, _ url.Values) wireReply {
		cancel()
		<-release
		_, _ = io.Copy(io.Discard, r.Body)
		return wireReply{}
	}
	_, err := w.publisher(publish.Destination{SNS: "orders"}).Publish(ctx, publish.Request{
		Topic: "orders", Events: stream(simple(1)), Report: func([]relay.Outcome) { t.Error("reported") },
	})
	require.ErrorIs(t, err, relay.ErrStopped)
}
