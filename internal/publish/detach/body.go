package detach

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/bits"
	"net/http"
	"sync"
)

const (
	// pooledFrom is the size, in bytes, from which a buffer is used again. A smaller one is quickly
	// made, and net/http sends a body that it knows in one write with the header.
	pooledFrom = 64 << 10
	// pooledTo is the size of the largest buffer that is used again: more than a request of AWS has.
	pooledTo = 4 << 20
)

// Body is the encoded body of one request at a time. The relay encodes it once, and every attempt
// of the request reads the same bytes: no step in between makes a copy of its own.
type Body struct {
	encoded []byte
	buffer  []byte // from the pool, nil if it is not

	mu   sync.Mutex
	open int // readers that net/http has not closed yet
}

// errBodyGone is the answer to a read that comes after the end of a request.
var errBodyGone = errors.New("the body of the request is closed")

// Buffer returns an empty buffer for a body of about so many bytes.
func (b *Body) Buffer(size int) []byte {
	b.buffer = nil
	if size >= pooledFrom && size <= pooledTo {
		b.buffer = take(size)
		return b.buffer
	}
	return make([]byte, 0, size)
}

// Set makes encoded the body of the next request. The buffer may have grown into another.
func (b *Body) Set(encoded []byte) { b.encoded = encoded }

// Bytes is the body. Nothing may keep it longer than the request.
func (b *Body) Bytes() []byte { return b.encoded }

// Done ends the request. Its buffer is used again, unless net/http may still read it: a response,
// or the end of its patience, may come before the body was sent.
func (b *Body) Done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buffer != nil && b.open == 0 {
		give(b.buffer)
		b.encoded, b.buffer = nil, nil
		return
	}
	b.encoded, b.buffer = nil, nil
}

// bodyKey finds a request's Body in its context.
type bodyKey struct{}

// WithBody returns a context for a request with this body.
func WithBody(ctx context.Context, b *Body) context.Context {
	return context.WithValue(ctx, bodyKey{}, b)
}

// BodyOf returns the body that WithBody has put into a context, or nil.
func BodyOf(ctx context.Context) *Body {
	b, _ := ctx.Value(bodyKey{}).(*Body)
	return b
}

// attach gives the body to a request.
func (b *Body) attach(req *http.Request) {
	encoded := b.encoded
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(encoded)), nil }
	if b.buffer != nil {
		req.GetBody = func() (io.ReadCloser, error) { return b.reader(encoded), nil }
	}
	req.Body, _ = req.GetBody()
}

func (b *Body) reader(encoded []byte) io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
	return &reader{body: b, left: encoded}
}

// reader reads a Body whose buffer is used again. It does not touch the buffer once it is closed,
// not even if Close comes during a Read.
type reader struct {
	body   *Body
	mu     sync.Mutex
	left   []byte
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return 0, errBodyGone
	case len(r.left) == 0:
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed, r.left = true, nil
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	r.body.open--
	return nil
}

// buffers are used again by the requests of the process. There is a pool for each of four sizes
// between two powers of two, so that a buffer is larger than asked for by a quarter at most.
var buffers [4 * 8]sync.Pool

// class is the pool for a size, and the size of its buffers.
func class(size int) (pool, bytes int) {
	power := bits.Len(uint(size - 1)) // 2^(power-1) < size <= 2^power
	quarter := 1 << (power - 3)
	quarters := (size - 1<<(power-1) + quarter - 1) / quarter // 1 to 4
	return 4*(power-bits.Len(pooledFrom-1)) + quarters - 1, 1<<(power-1) + quarters*quarter
}

func take(size int) []byte {
	pool, bytes := class(size)
	if b, ok := buffers[pool].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, bytes)
}

func give(buffer []byte) {
	pool, _ := class(cap(buffer))
	buffers[pool].Put(&buffer)
}
