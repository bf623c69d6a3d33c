package detach

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The SDK repeats a request within the deadline that it began with. The lease may be
// over before: the context's timer stood still while the machine was suspended.
func TestClient_AsksBeforeEachAttemptWhetherItIsTooLate(t *testing.T) {
	sent := 0
	client := Client{HTTPClient: doer(func(*http.Request) (*http.Response, error) {
		sent++
		return &http.Response{}, nil
	})}
	end := time.Now().Add(time.Minute)
	ctx := WithDeadline(t.Context(), func() time.Time { return end })
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost", nil)
	require.NoError(t, err)
	_, err = client.Do(req)
	require.NoError(t, err)

	end = time.Now().Add(-time.Second)
	_, err = client.Do(req)
	require.ErrorIs(t, err, ErrTooLate)
	require.Equal(t, 1, sent)
}
