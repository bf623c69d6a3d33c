// Package detach keeps answers of AWS from being lost on the way through the SDK.
// The publisher needs it, and so does every consumer and tool of ours that must
// not count an accepted request as failed.
package detach

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ErrTooLate says that a request was not sent, because its deadline had passed.
var ErrTooLate = fmt.Errorf("not sent: %w", context.DeadlineExceeded)

// Client wraps an SDK client's HTTPClient. It is the last to see a request before
// net/http does.
type Client struct{ aws.HTTPClient }

// deadlineKey finds in a context what says how long its requests may be sent.
type deadlineKey struct{}

// WithDeadline returns a context whose requests are not sent from the instant on that
// deadline returns. It is asked right before each request and each repetition, and so
// knows what the context's own deadline does not: that a lease was not renewed, or that
// the machine was suspended since. It must not block, and may be called concurrently.
func WithDeadline(ctx context.Context, deadline func() time.Time) context.Context {
	return context.WithValue(ctx, deadlineKey{}, deadline)
}

// Do sends req unless its deadline has passed, with a body of its own: the one of WithBody, or else
// a copy of the SDK's.
func (c Client) Do(req *http.Request) (*http.Response, error) {
	// A process that was stopped and continued (SIGSTOP, a paused virtual
	// machine) wakes up with a context that should long be over but whose timer
	// has not run yet. Without this look at the clock it would still send what
	// another worker has by now taken over.
	if d, ok := req.Context().Deadline(); ok && time.Until(d) <= 0 {
		return nil, ErrTooLate
	}
	if deadline, ok := req.Context().Value(deadlineKey{}).(func() time.Time); ok && !deadline().After(time.Now()) {
		return nil, ErrTooLate
	}
	if b := BodyOf(req.Context()); b != nil && len(b.encoded) > 0 && req.ContentLength == int64(len(b.encoded)) {
		b.attach(req)
	} else if err := detach(req); err != nil {
		return nil, err
	}
	return c.HTTPClient.Do(req)
}

// detach gives req a body that is independent of the SDK's.
//
// The SDK (smithy-go 1.28.8) closes its body as soon as a response begins, and
// the WriteTo of a closed one returns io.EOF, where a reader at its end returns
// nil. net/http looks for surplus bytes after the last one has left, and where
// the response was quicker than that look it takes the io.EOF for a failed write
// and closes the connection, in the middle of the response if need be. The batch
// was accepted then, but the answer is lost, and it is sent again.
//
// A body of a type that net/http knows also leaves in one write with the header,
// and can be sent again where a kept connection turns out to be dead.
func detach(req *http.Request) error {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength <= 0 {
		return nil
	}
	body := make([]byte, req.ContentLength)
	if _, err := io.ReadFull(req.Body, body); err != nil {
		return fmt.Errorf("read request body: %w", err)
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	return nil
}
