package detach

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type doer func(*http.Request) (*http.Response, error)

func (f doer) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestClient_AResponseThatOvertakesItsRequestBreaksNothing(t *testing.T) {
	in := smithyhttp.NewStackRequest().(*smithyhttp.Request)
	in, err := in.SetStream(bytes.NewReader([]byte("request body")))
	require.NoError(t, err)
	in.ContentLength = int64(len("request body"))
	req := in.Build(t.Context())
	sdks := req.Body
	client := Client{HTTPClient: doer(func(req *http.Request) (*http.Response, error) {
		// The way net/http sends a body, and the SDK closing its own in between.
		var sent strings.Builder
		_, err := io.Copy(&sent, io.LimitReader(req.Body, req.ContentLength))
		require.NoError(t, err)
		require.NoError(t, sdks.Close())
		surplus, err := io.Copy(io.Discard, req.Body)
		require.NoError(t, err, "net/http would close the connection")
		assert.Zero(t, surplus)
		assert.Equal(t, "request body", sent.String())

		again, err := req.GetBody()
		require.NoError(t, err)
		body, err := io.ReadAll(again)
		require.NoError(t, err)
		assert.Equal(t, "request body", string(body))
		return &http.Response{}, nil
	})}
	_, err = client.Do(req)
	require.NoError(t, err)
}

func TestClient_SendsNothingAfterTheDeadlineThoughTheTimerStandsStill(t *testing.T) {
	client := Client{HTTPClient: doer(func(*http.Request) (*http.Response, error) {
		t.Error("sent")
		return nil, nil
	})}
	req, err := http.NewRequestWithContext(overslept{t.Context()}, http.MethodPost, "http://localhost", nil)
	require.NoError(t, err)
	_, err = client.Do(req)
	require.ErrorIs(t, err, ErrTooLate)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// overslept is a context whose deadline has passed and whose timer has not.
type overslept struct{ context.Context }

func (overslept) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }
