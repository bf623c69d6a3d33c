// Package tcp is a TCP proxy that harms connections: it delays them, resets them, and
// refuses them for a while. It stands between PostgreSQL and its clients.
//
// (Toxiproxy does the same and more; as a library it brings Prometheus, a router
// and a logger along, for the sixty lines that are needed.)
package tcp

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy forwards connections to an address.
type Proxy struct {
	listener net.Listener
	delay    atomic.Int64
	away     atomic.Bool

	mu     sync.Mutex
	target string
	conns  map[*net.TCPConn]bool
}

// New listens on a port of its own until it is closed.
func New(ctx context.Context, target string) (*Proxy, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen as a proxy: %w", err)
	}
	p := &Proxy{target: target, listener: listener, conns: map[*net.TCPConn]bool{}}
	go p.serve()
	return p, nil
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Close ends the proxy with all its connections.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.Reset()
}

// Delay holds up everything that passes, in each direction.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Cut resets all connections, and new ones until Restore.
func (p *Proxy) Cut() {
	p.away.Store(true)
	p.Reset()
}

// Restore ends a Cut.
func (p *Proxy) Restore() { p.away.Store(false) }

// Redirect has new connections go to another address, and resets those that go to the old
// one. It does not end a Cut.
func (p *Proxy) Redirect(target string) {
	p.mu.Lock()
	changed := p.target != target
	p.target = target
	p.mu.Unlock()
	if changed {
		p.Reset()
	}
}

// Reset breaks all connections, even in the middle of a statement, and returns how many
// there were.
func (p *Proxy) Reset() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.conns) / 2
	for c := range p.conns {
		_ = c.SetLinger(0) // RST instead of FIN
		_ = c.Close()
	}
	clear(p.conns)
	return n
}

func (p *Proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		go p.connect(conn.(*net.TCPConn)) //nolint:errcheck // a TCP listener accepts TCP connections
	}
}

func (p *Proxy) connect(client *net.TCPConn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	dialed, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	server := dialed.(*net.TCPConn) //nolint:errcheck // it was dialed as such
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	stale := p.target != target // Redirect was called while the old address was dialed
	p.mu.Unlock()
	if p.away.Load() {
		p.Reset()
		return
	}
	if stale {
		p.drop(client, server)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pipe(server, client) })
	both.Go(func() { p.pipe(client, server) })
	both.Wait()
	p.drop(client, server)
}

func (p *Proxy) drop(conns ...*net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
		_ = c.Close()
	}
}

// pipe copies one direction until it ends, and then ends the other end's reading.
func (p *Proxy) pipe(to, from *net.TCPConn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if d := time.Duration(p.delay.Load()); d > 0 && n > 0 {
			time.Sleep(d)
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				_, _ = io.Copy(io.Discard, from) // until the other direction closes it
				return
			}
		}
		if err != nil {
			_ = to.CloseWrite()
			return
		}
	}
}
