package bench

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// queue answers a batch as SQS does. Bodies that contain "refuse" are failed
// entries, "drop" ones are in neither list, and "break" ones make it a 500.
func queue(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Entries []map[string]any }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		out := map[string][]map[string]any{"Successful": {}, "Failed": {}}
		for _, e := range in.Entries {
			body := e["MessageBody"].(string)
			switch {
			case strings.Contains(body, "break"):
				w.WriteHeader(http.StatusInternalServerError)
			case strings.Contains(body, "refuse"):
				out["Failed"] = append(out["Failed"], map[string]any{"Id": e["Id"]})
			case !strings.Contains(body, "drop"):
				out["Successful"] = append(out["Successful"], map[string]any{"Id": e["Id"]})
			}
		}
		time.Sleep(20 * time.Millisecond)
		_ = json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(s.Close)
	return s
}

func send(t *testing.T, url string, bodies ...string) string {
	t.Helper()
	var in struct {
		QueueUrl string
		Entries  []map[string]any
	}
	for i, body := range bodies {
		in.Entries = append(in.Entries, map[string]any{"Id": string(rune('a' + i)), "MessageBody": body})
	}
	text, err := json.Marshal(in)
	require.NoError(t, err)
	resp, err := http.Post(url, "application/x-amz-json-1.0", strings.NewReader(string(text)))
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(answer)
}

func TestProxy_NotesWhenTheQueueHasAcceptedAnEvent(t *testing.T) {
	p, err := newProxy(t.Context(), queue(t).URL)
	require.NoError(t, err)
	defer p.close()
	before := time.Now()
	answer := send(t, p.URL, `{"marker":"`+marker(7)+`"}`, marker(8)+"refuse", marker(9)+"drop", "no marker")

	require.Contains(t, answer, `"Successful":[{"Id":"a"},{"Id":"d"}]`, "the response is passed on whole")
	require.WithinRange(t, p.when(7), before.Add(20*time.Millisecond), time.Now())
	for _, n := range []int{8, 9, 10} {
		require.Zero(t, p.when(n), "event %d was not accepted", n)
	}
	first := p.when(7)
	send(t, p.URL, marker(7), marker(9))
	require.Equal(t, first, p.when(7), "the first time counts")
	require.NotZero(t, p.when(9))
	events, again := p.count()
	require.Equal(t, 2, events)
	require.Equal(t, 1, again)
}

func TestProxy_CountsNoEventOfAnError(t *testing.T) {
	p, err := newProxy(t.Context(), queue(t).URL)
	require.NoError(t, err)
	defer p.close()
	send(t, p.URL, marker(1), marker(2)+"break")
	events, _ := p.count()
	require.Zero(t, events)
}
