package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnreachable_AtTheStartWaitsForNoDestinationThatHangs(t *testing.T) {
	topics := make([]string, 10*lookAtOnce)
	for i := range topics {
		topics[i] = fmt.Sprint("topic-", i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs := errors.New("no answer")
	var asked atomic.Int32
	bad := unreachable(ctx, topics, lookAtStart, func(ctx context.Context, _ string) error {
		if int(asked.Add(1)) == len(topics) {
			cancel() // each is asked while all others hang
		}
		<-ctx.Done()
		return hangs
	})
	require.Len(t, bad, len(topics))
}

func TestWarnOfTopics_NamesFewOfMany(t *testing.T) {
	bad := make(map[string]error)
	for i := range 5000 {
		bad[fmt.Sprintf("topic-%04d", i)] = errors.New("no answer")
	}
	var out bytes.Buffer
	warnOfTopics(slog.New(slog.NewTextHandler(&out, nil)), bad)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, warnedTopics+1)
	require.Contains(t, lines[0], "topic=topic-0000 error=\"no answer\"")
	require.Contains(t, lines[warnedTopics], "topics=4980")
}

func TestReadiness_HasNoCharacterThatATerminalObeys(t *testing.T) {
	reported := []string{"topic \x1b[2Jorders\n: not found \x9b31m"}
	line := `reported: topic \u001b[2Jorders\n: not found \x9b31m` + "\n"
	wrong := errors.Join(errors.New("\x1b]0;title\a"), errors.New("größe \u202e"))
	for _, c := range []struct {
		problem  error
		reported []string
		strict   bool
		status   int
		body     string
	}{
		{nil, nil, false, http.StatusOK, "ready\n"},
		{nil, nil, true, http.StatusOK, "ready\n"},
		{nil, reported, false, http.StatusOK, "ready\n" + line},
		{nil, reported, true, http.StatusServiceUnavailable, line},
		{wrong, reported, false, http.StatusServiceUnavailable, `\u001b]0;title\u0007` + "\n" + `größe \u202e` + "\n" + line},
	} {
		status, body := readiness(c.problem, c.reported, c.strict)
		require.Equal(t, c.status, status)
		require.Equal(t, c.body, body)
	}
}

// The worker that answers may be of a version that does not escape its texts.
func TestReadyCommand_ShowsAnAnswerThatNoTerminalObeys(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte("ready\nreported: topic \x1b[2Jorders\n"))
	}))
	defer server.Close()
	want := "ready\n" + `reported: topic \u001b[2Jorders`
	var out strings.Builder
	require.NoError(t, askReady(t.Context(), &out, server.Listener.Addr().String(), false))
	require.Equal(t, want+"\n", out.String())
	status = http.StatusServiceUnavailable
	require.EqualError(t, askReady(t.Context(), &out, server.Listener.Addr().String(), false), want)
}
