package e2e

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy passes TCP connections on, until a test does to them what networks do.
type proxy struct {
	address, target string
	tap             io.Writer // may be nil

	mu     sync.Mutex
	mended *sync.Cond
	state  state
	conns  map[net.Conn]bool
}

type state int

const (
	whole   state = iota
	silent        // nothing gets through, and nobody is told; what was sent may arrive later
	refused       // connections are reset, and new ones as well
)

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	return newTappedProxy(t, target, nil)
}

// newTappedProxy is a proxy of which tap sees what clients send.
func newTappedProxy(t *testing.T, target string, tap io.Writer) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{address: l.Addr().String(), target: target, tap: tap, conns: map[net.Conn]bool{}}
	p.mended = sync.NewCond(&p.mu)
	t.Cleanup(func() {
		_ = l.Close()
		p.set(refused) // ends whoever waits
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// inFrontOf returns the proxy's URL for a database.
func (p *proxy) inFrontOf(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	u.Host = p.address
	return u.String()
}

func hostOf(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	return u.Host
}

func (p *proxy) set(s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state = s; s == refused {
		p.dropAll()
	}
	p.mended.Broadcast()
}

// reset drops every connection there is, once.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropAll()
}

func (p *proxy) dropAll() {
	for c := range p.conns {
		drop(c)
	}
	clear(p.conns)
}

// drop closes with a reset rather than an end.
func drop(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (p *proxy) serve(client net.Conn) {
	if !p.pass(client) {
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target) //nolint:noctx // a test
	if err != nil || !p.pass(server) {
		drop(client)
		return
	}
	var sent io.Reader = client
	if p.tap != nil {
		sent = io.TeeReader(client, p.tap)
	}
	go p.copy(server, client, sent)
	p.copy(client, server, server)
}

// pass waits while the line is silent, and drops c if the line is down.
func (p *proxy) pass(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.state == silent {
		p.mended.Wait()
	}
	if p.state == refused {
		drop(c)
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) copy(to, from net.Conn, what io.Reader) {
	_, _ = io.Copy(gated{p, to}, what)
	_, _ = to.Close(), from.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, to)
	delete(p.conns, from)
}

// gated holds up what is written while the line is silent.
type gated struct {
	p *proxy
	net.Conn
}

func (g gated) Write(b []byte) (int, error) {
	if !g.p.open() {
		return 0, net.ErrClosed
	}
	return g.Conn.Write(b)
}

func (p *proxy) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.state == silent {
		p.mended.Wait()
	}
	return p.state == whole
}
