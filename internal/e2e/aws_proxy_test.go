package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// awsProxy passes requests on to AWS's endpoint, but for those that publish to a
// destination that a test has an answer of its own for.
type awsProxy struct {
	url string

	mu       sync.Mutex
	faults   map[string]http.HandlerFunc // by the destination's name
	answered func(body string)           // is told of each request that the endpoint has answered
}

func newAWSProxy(t *testing.T) *awsProxy {
	t.Helper()
	target, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	require.NoError(t, err)
	p := &awsProxy{faults: map[string]http.HandlerFunc{}}
	pass := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // who asked is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if fault := p.fault(r.Header.Get("X-Amz-Target"), string(body)); fault != nil {
			fault(w, r)
			return
		}
		pass.ServeHTTP(w, r)
		p.mu.Lock()
		answered := p.answered
		p.mu.Unlock()
		if answered != nil {
			answered(string(body))
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	p.url = server.URL
	return p
}

// fault finds the answer to a request, if it publishes: to SQS in JSON, or to SNS
// as a form.
func (p *awsProxy) fault(target, body string) http.HandlerFunc {
	if !strings.HasSuffix(target, "SendMessageBatch") && !strings.Contains(body, "Action=PublishBatch") {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, fault := range p.faults {
		if strings.Contains(body, name) {
			return fault
		}
	}
	return nil
}

// answer has f answer what is published to the destination of that name; nil passes
// it on again.
func (p *awsProxy) answer(name string, f http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults[name] = f; f == nil {
		delete(p.faults, name)
	}
}

// tell has f told of the requests that the endpoint answers from now on.
func (p *awsProxy) tell(f func(body string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answered = f
}

// swallowed are requests that nobody answers, and how long their callers wait.
type swallowed struct {
	mu       sync.Mutex
	requests int
	longest  time.Duration
}

func (s *swallowed) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	began := time.Now()
	<-r.Context().Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.longest = max(s.longest, time.Since(began))
}

func (s *swallowed) seen() (requests int, longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, s.longest
}

// throttled are requests that are refused as SQS and SNS do.
type throttled struct{ requests atomic.Int64 }

func (t *throttled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.requests.Add(1)
	if r.Header.Get("X-Amz-Target") != "" {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"__type":"com.amazonaws.sqs#RequestThrottled","message":"Request is throttled."}`)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(http.StatusTooManyRequests)
	_, _ = io.WriteString(w, `<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>`+
		`<Code>Throttled</Code><Message>Rate exceeded</Message></Error><RequestId>1</RequestId></ErrorResponse>`)
}
