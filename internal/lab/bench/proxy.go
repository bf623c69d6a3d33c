package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// marker is what a payload carries to be recognised on its way.
func marker(n int) string { return fmt.Sprintf("bench-%07d-", n) }

var markers = regexp.MustCompile(`bench-(\d{7})-`)

// proxy passes requests on to an SQS endpoint and notes when each marked message
// was first accepted: when the response that names it as successful has arrived
// here, on its way to the relay.
type proxy struct {
	URL    string
	server *http.Server

	mu    sync.Mutex
	acked map[int]time.Time
	again int // accepted more than once
}

// newProxy serves on a port of its own until it is closed.
func newProxy(ctx context.Context, endpoint string) (*proxy, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("read AWS_ENDPOINT_URL: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen as a proxy: %w", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // it is one
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 256, 256
	p := &proxy{URL: "http://" + listener.Addr().String(), acked: make(map[int]time.Time)}
	pass := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:      transport,
		ModifyResponse: p.stamp,
	}
	p.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		pass.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sentKey{}, body)))
	})}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// sentKey has the request's body in its context.
type sentKey struct{}

// stamp reads the whole response before the relay does, and notes the events that it
// acknowledges.
func (p *proxy) stamp(r *http.Response) error {
	answer, err := io.ReadAll(r.Body)
	now := time.Now()
	if closeErr := r.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(answer))
	sent, ok := r.Request.Context().Value(sentKey{}).([]byte)
	if !ok {
		return errors.New("a response without a request")
	}
	if r.StatusCode < 200 || r.StatusCode > 299 || !markers.Match(sent) {
		return nil
	}
	accepted, err := accepted(sent, answer)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range accepted {
		if _, ok := p.acked[n]; ok {
			p.again++
			continue
		}
		p.acked[n] = now
	}
	return nil
}

// accepted returns the markers of the entries of a SendMessageBatch that its
// answer names as successful.
func accepted(sent, answer []byte) ([]int, error) {
	var request struct {
		Entries []struct {
			ID          string `json:"Id"`
			MessageBody string
		}
	}
	if err := json.Unmarshal(sent, &request); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	var response struct {
		Successful []struct {
			ID string `json:"Id"`
		}
	}
	if err := json.Unmarshal(answer, &response); err != nil {
		return nil, fmt.Errorf("read the response: %w", err)
	}
	successful := make(map[string]bool, len(response.Successful))
	for _, s := range response.Successful {
		successful[s.ID] = true
	}
	var found []int
	for _, e := range request.Entries {
		m := markers.FindStringSubmatch(e.MessageBody)
		if m == nil || !successful[e.ID] {
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, fmt.Errorf("read a marker: %w", err)
		}
		found = append(found, n)
	}
	return found, nil
}

// when is the time at which event n was accepted; zero if it was not yet.
func (p *proxy) when(n int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked[n]
}

// count is how many events have been accepted, and how many were once more.
func (p *proxy) count() (events, again int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked), p.again
}

func (p *proxy) close() { _ = p.server.Close() }
