package detach

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// sent returns the request as net/http gets it, with the body that a Body has.
func sent(t *testing.T, b *Body, text string) *http.Request {
	t.Helper()
	b.Set(append(b.Buffer(len(text)), text...))
	req, err := http.NewRequestWithContext(WithBody(t.Context(), b), http.MethodPost, "http://localhost", bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	var got *http.Request
	_, err = Client{HTTPClient: doer(func(r *http.Request) (*http.Response, error) {
		got = r
		return &http.Response{}, nil
	})}.Do(req)
	require.NoError(t, err)
	return got
}

func TestBody_IsReadByEveryAttempt(t *testing.T) {
	for name, text := range map[string]string{"small": "text", "large": strings.Repeat("text", pooledFrom), "larger than any": strings.Repeat("x", pooledTo+1)} {
		t.Run(name, func(t *testing.T) {
			var b Body
			req := sent(t, &b, text)
			require.EqualValues(t, len(text), req.ContentLength)
			for range 2 {
				got, err := io.ReadAll(req.Body)
				require.NoError(t, err)
				require.Equal(t, text, string(got))
				n, err := io.Copy(io.Discard, req.Body)
				require.NoError(t, err, "net/http looks for surplus bytes")
				require.Zero(t, n)
				require.NoError(t, req.Body.Close())
				require.NoError(t, req.Body.Close())
				req.Body, err = req.GetBody()
				require.NoError(t, err)
			}
			require.NoError(t, req.Body.Close())
			b.Done()
			require.Empty(t, b.Bytes())
		})
	}
}

func TestBody_UsesABufferAgainOnceNobodyReadsIt(t *testing.T) {
	text := strings.Repeat("text", pooledFrom)
	var b Body
	req := sent(t, &b, text)
	buffer := &b.buffer[:1][0]
	b.Done()
	for range 100 {
		next := b.Buffer(len(text))
		require.NotSame(t, buffer, &next[:1][0], "an answer came before the body was sent, and net/http still reads it")
	}
	got, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	require.Equal(t, text, string(got))

	req = sent(t, &b, text)
	require.NoError(t, req.Body.Close())
	n, err := req.Body.Read(make([]byte, 8))
	require.ErrorIs(t, err, errBodyGone)
	require.Zero(t, n)
	b.Done()
}

// A body is closed by another goroutine than the one that reads it when a request is given up.
func TestBody_IsNotReadOnceItIsClosed(t *testing.T) {
	for range 200 {
		var b Body
		text := strings.Repeat("a", pooledFrom)
		req := sent(t, &b, text)
		var reading sync.WaitGroup
		reading.Go(func() {
			got, _ := io.ReadAll(req.Body)
			require.Empty(t, strings.Trim(string(got), "a"), "a later request's body was read")
		})
		require.NoError(t, req.Body.Close())
		b.Done()
		b.Set(append(b.Buffer(len(text)), strings.Repeat("b", len(text))...))
		reading.Wait()
		b.Done()
	}
}

func TestClass_WastesAQuarterAtMost(t *testing.T) {
	last := 0
	for size := pooledFrom; size <= pooledTo; size += 1021 {
		pool, bytes := class(size)
		require.GreaterOrEqual(t, bytes, size)
		require.LessOrEqual(t, bytes, size+size/4)
		require.GreaterOrEqual(t, pool, last)
		require.Less(t, pool, len(buffers))
		again, same := class(bytes)
		require.Equal(t, []int{pool, bytes}, []int{again, same})
		last = pool
	}
}

func TestBodyOf_IsNoBodyWithoutOne(t *testing.T) { require.Nil(t, BodyOf(context.Background())) }
