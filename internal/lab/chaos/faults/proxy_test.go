package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// endpoint accepts every entry that it gets, and remembers which.
type endpoint struct {
	*httptest.Server
	mu  sync.Mutex
	got map[string]int // by payload
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{got: map[string]int{}}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	defer e.mu.Unlock()
	if strings.HasPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.") {
		var in struct {
			Entries []struct{ Id, MessageBody string }
		}
		_ = json.Unmarshal(body, &in)
		answer := map[string]any{"Attributes": map[string]string{}}
		var good []map[string]string
		for _, entry := range in.Entries {
			e.got[entry.MessageBody]++
			good = append(good, map[string]string{"Id": entry.Id, "MessageId": "m"})
		}
		answer["Successful"] = good
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	form, _ := url.ParseQuery(string(body))
	var good strings.Builder
	for i := 1; form.Has(fmt.Sprintf("%s%d.Id", member, i)); i++ {
		e.got[form.Get(fmt.Sprintf("%s%d.Message", member, i))]++
		fmt.Fprintf(&good, "<member><Id>%s</Id><MessageId>m</MessageId></member>", form.Get(fmt.Sprintf("%s%d.Id", member, i)))
	}
	fmt.Fprintf(w, `<%[1]sResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><%[1]sResult><Successful>%[2]s</Successful></%[1]sResult></%[1]sResponse>`,
		form.Get("Action"), good.String())
}

// scene is a publisher that reaches an endpoint through a proxy.
type scene struct {
	*Proxy
	endpoint *endpoint
	t        *testing.T
	p        *publish.Publisher // patient, so that a busy machine is no fault
	hurried  *publish.Publisher // for requests that hang

	mu   sync.Mutex
	sent []check.Send
}

// unheard counts the accepted entries of whose acceptance the publisher did not hear, and
// all.
func (s *scene) unheard() (unheard, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.sent {
		if !one.Told {
			unheard++
		}
		require.Equal(s.t, "id", one.Process)
		require.NotEmpty(s.t, one.EventID)
		require.False(s.t, one.Began.IsZero() || one.Ended.Before(one.Began))
	}
	return unheard, len(s.sent)
}

func newScene(t *testing.T, d publish.Destination) *scene {
	t.Helper()
	e := newEndpoint(t)
	s := &scene{endpoint: e, t: t}
	proxy, err := New(t.Context(), e.URL, 1, func(one check.Send) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent = append(s.sent, one)
	})
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	publisher := func(timeout time.Duration) *publish.Publisher {
		p, err := publish.New(publish.Config{
			AWS: aws.Config{
				Region: "eu-central-1", BaseEndpoint: &proxy.URL,
				Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
			},
			Topics: map[string]publish.Destination{"t": d}, Attempts: 1, RequestTimeout: 2 * timeout, AttemptTimeout: timeout,
		})
		require.NoError(t, err)
		_, err = p.Resolve(t.Context(), "t")
		require.NoError(t, err)
		return p
	}
	s.Proxy, s.p, s.hurried = proxy, publisher(30*time.Second), publisher(2*time.Second)
	return s
}

// publish sends n events and returns the codes of those that were refused, by
// payload, and how often the endpoint got each.
func (s *scene) publish(n int) (refused map[string]string, got map[string]int) {
	s.t.Helper()
	return s.publishBy(s.p, n)
}

// publisherFor is the one that waits for a fault of that kind no longer than it must.
func (s *scene) publisherFor(kind Kind) *publish.Publisher {
	if kind == Hang || kind == HangAfter {
		return s.hurried
	}
	return s.p
}

func (s *scene) publishBy(p *publish.Publisher, n int) (refused map[string]string, got map[string]int) {
	s.t.Helper()
	events := make(chan []relay.Event, 1)
	page := make([]relay.Event, n)
	for i := range page {
		page[i] = relay.Event{
			Ref: relay.Ref{ID: int64(i)}, EventID: fmt.Sprint("id-", i), Type: "T", ContentType: "text/plain", Payload: fmt.Sprintf("<payload & %d>", i),
			Attributes: map[string]string{"a": "ü & <x>"},
		}
	}
	events <- page
	close(events)
	refused = map[string]string{}
	_, err := p.Publish(context.WithoutCancel(s.t.Context()), relay.PublishRequest{
		Topic: "t", Events: events, Concurrency: 1,
		Report: func(outcomes []relay.Outcome) {
			for _, o := range outcomes {
				if o.Err != nil {
					refused[page[o.ID].Payload] = o.Err.Code
				}
			}
		},
	})
	require.NoError(s.t, err)
	s.endpoint.mu.Lock()
	defer s.endpoint.mu.Unlock()
	got = s.endpoint.got
	s.endpoint.got = map[string]int{}
	return refused, got
}

// both runs a test for SNS and SQS.
func both(t *testing.T, test func(t *testing.T, s *scene)) {
	for name, d := range map[string]publish.Destination{
		"SNS": {SNS: "arn:aws:sns:eu-central-1:1:orders"}, "SQS": {SQS: "https://queue.example/1/orders"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newScene(t, d))
		})
	}
}

func TestProxy_WithoutRulesForwardsEverything(t *testing.T) {
	both(t, func(t *testing.T, s *scene) {
		refused, got := s.publish(25)
		require.Empty(t, refused)
		require.Len(t, got, 25)
		require.NotEmpty(t, s.Acknowledged()["orders"])
		require.Empty(t, s.Injected())
		require.Eventually(t, func() bool { _, all := s.unheard(); return all == 25 }, 10*time.Second, time.Millisecond)
		unheard, _ := s.unheard()
		require.Zero(t, unheard)
	})
}

func TestProxy_EntriesReportedAsFailedWereNotAcceptedAndTheRestWere(t *testing.T) {
	both(t, func(t *testing.T, s *scene) {
		for kind, codes := range map[Kind][]string{
			FailEntry: {"InternalError"}, ThrottleEntry: {"Throttled", "RequestThrottled"}, OmitDropped: {relay.CodeUnanswered},
			Poison: {"InvalidParameter", "InvalidMessageContents"},
		} {
			end := s.Begin(Rule{Kind: kind, Share: .5})
			refused, got := s.publish(100)
			end()
			require.NotEmpty(t, refused)
			require.Len(t, got, 100-len(refused), "%s", kind)
			for payload, code := range refused {
				require.Contains(t, codes, code)
				require.Zero(t, got[payload], "%s: accepted all the same", kind)
			}
			require.Equal(t, len(refused), s.Injected()[kind])
		}
		unheard, _ := s.unheard()
		require.Zero(t, unheard)
	})
}

func TestProxy_CountsEntriesAcceptedWithoutAnAnswer(t *testing.T) {
	both(t, func(t *testing.T, s *scene) {
		for kind, code := range map[Kind]string{
			OmitAccepted: relay.CodeUnanswered, DropAnswer: relay.CodeConnection, HangAfter: relay.CodeTimeout,
		} {
			before, _ := s.unheard()
			end := s.Begin(Rule{Kind: kind, Share: 1})
			refused, got := s.publishBy(s.publisherFor(kind), 10)
			end()
			require.Len(t, refused, 10)
			require.Len(t, got, 10)
			for _, c := range refused {
				require.Equal(t, code, c, "%s", kind)
			}
			require.Eventually(t, func() bool { after, _ := s.unheard(); return after-before >= 10 }, 10*time.Second, time.Millisecond)
		}
	})
}

func TestProxy_RefusesWholeRequestsWithTheErrorsOfTheService(t *testing.T) {
	both(t, func(t *testing.T, s *scene) {
		for kind, codes := range map[Kind][]string{
			Throttle: {"Throttled", "RequestThrottled"}, Deny: {"AuthorizationError", "AccessDenied"},
			ServerError: {"InternalFailure", "HTTP503"}, DropRequest: {relay.CodeConnection}, Hang: {relay.CodeTimeout},
		} {
			end := s.Begin(Rule{Kind: kind, Share: 1, Destination: "orders"})
			refused, got := s.publishBy(s.publisherFor(kind), 5)
			end()
			require.Len(t, refused, 5, "%s", kind)
			require.Empty(t, got, "%s: accepted all the same", kind)
			for _, c := range refused {
				require.Contains(t, codes, c)
			}
		}
	})
}

func TestRule_ConcernsItsDestinationAndEnds(t *testing.T) {
	both(t, func(t *testing.T, s *scene) {
		end := s.Begin(Rule{Kind: Deny, Share: 1, Destination: "others"})
		refused, _ := s.publish(5)
		require.Empty(t, refused)
		end()
		end = s.Begin(Rule{Kind: Deny, Share: 1, Spared: []string{"others", "orders"}})
		refused, _ = s.publish(5)
		require.Empty(t, refused)
		end()
		end = s.Begin(Rule{Kind: Slow, Share: 1, Delay: 200 * time.Millisecond})
		began := time.Now()
		refused, _ = s.publish(5)
		require.Empty(t, refused)
		require.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond)
		end()
		s.Begin(Rule{Kind: Slow, Share: 1, Delay: time.Hour})()
		refused, _ = s.publish(5)
		require.Empty(t, refused)
	})
}

func TestHold_KeepsRequestsUntilItEnds(t *testing.T) {
	both(t, func(t *testing.T, s *scene) {
		open := s.Begin(Rule{Kind: Hold, Share: 1, Destination: "orders"})
		require.NoError(t, s.Quiesce(t.Context(), "orders"))
		time.AfterFunc(100*time.Millisecond, open)
		began := time.Now()
		refused, got := s.publish(5)
		require.Empty(t, refused)
		require.Len(t, got, 5)
		require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	})
}
