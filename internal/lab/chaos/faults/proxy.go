package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

// Proxy passes requests on to an endpoint, if no rule prevents it.
type Proxy struct {
	URL    string
	target *url.URL
	server *http.Server
	client *http.Transport

	mu     sync.Mutex
	dice   *rand.Rand
	rules  map[int]*Rule
	gone   map[int]chan struct{} // closed when the rule is
	last   int
	flying map[string]int // requests being forwarded, by destination
	record record
}

// record is what the proxy has seen.
type record struct {
	injected map[Kind]int
	acks     map[string][]time.Time
	sent     func(check.Send)
}

// ackEvery is how often the record says of a destination that something was accepted: a
// long run is told by as few instants a second as a short one.
const ackEvery = 50 * time.Millisecond

// New serves on a port of its own until it is closed. It tells sent of every entry that
// the endpoint accepts; the process is the access key that signed the request.
func New(ctx context.Context, endpoint string, seed uint64, sent func(check.Send)) (*Proxy, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("read AWS_ENDPOINT_URL: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen as a proxy: %w", err)
	}
	p := &Proxy{
		URL: "http://" + listener.Addr().String(), target: target,
		client: &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256},
		dice:   rand.New(rand.NewPCG(seed, 0)), rules: map[int]*Rule{}, gone: map[int]chan struct{}{}, flying: map[string]int{},
		record: record{injected: map[Kind]int{}, acks: map[string][]time.Time{}, sent: sent},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// Close ends the proxy and what hangs in it.
func (p *Proxy) Close() {
	_ = p.server.Close()
	p.client.CloseIdleConnections()
}

// Begin puts a rule in force until end is called.
func (p *Proxy) Begin(r Rule) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	id, gone := p.last, make(chan struct{})
	p.rules[id], p.gone[id] = &r, gone
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.rules, id)
		delete(p.gone, id)
		close(gone)
	})
}

// Quiesce waits until no request to a destination is being forwarded. A rule that
// holds new ones back must be in force.
func (p *Proxy) Quiesce(ctx context.Context, destination string) error {
	for {
		p.mu.Lock()
		n := p.flying[destination]
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Injected counts faults by kind.
func (p *Proxy) Injected() map[Kind]int { return copied(p, p.record.injected) }

// Acknowledged has, by destination, when the relay was told that something was
// accepted.
func (p *Proxy) Acknowledged() map[string][]time.Time { return copied(p, p.record.acks) }

func copied[K comparable, V any](p *Proxy, m map[K]V) map[K]V {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(map[K]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// ServeHTTP takes a request of the relay.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client gave up
	}
	q := read(r, body)
	fault := p.decide(r.Context(), q)
	if fault == nil {
		return // the client gave up while it was held
	}
	if fault.slow > 0 {
		pause(r.Context(), fault.slow)
	}
	if fault.refuse(w, r, q) {
		return
	}
	var reply *reply
	if q.entries == nil || len(fault.withheld) < len(q.entries) {
		fault.began = time.Now()
		reply, err = p.forward(r, q, fault)
		fault.ended = time.Now()
		if err != nil {
			p.unknown(r, q, fault)
			panic(http.ErrAbortHandler) // as if the proxy were not there
		}
	} else {
		reply = q.emptyReply()
	}
	p.reply(w, r, q, fault, reply)
}

// reply is the endpoint's answer to a request.
type reply struct {
	status int
	header http.Header
	text   []byte
}

// forward sends the request without its withheld entries. It is not cancelled with the
// client, because the endpoint may have accepted the request already.
func (p *Proxy) forward(r *http.Request, q *request, f *fault) (*reply, error) {
	p.count(q.destination, 1)
	defer p.count(q.destination, -1)
	body := q.without(f.withheld)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), hangFor)
	defer cancel()
	out, err := http.NewRequestWithContext(ctx, r.Method, p.target.JoinPath(r.URL.Path).String(), bytes.NewReader(body)) //nolint:gosec // forwarding is what a proxy is for
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Accept-Encoding")
	answer, err := p.client.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return &reply{answer.StatusCode, answer.Header, text}, err
}

func (p *Proxy) count(destination string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying[destination] += n
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
