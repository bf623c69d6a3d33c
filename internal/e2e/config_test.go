package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

var errNotYet = errors.New("not yet")

// ready asks /readyz and returns an error unless the answer holds want.
func (w *worker) ready(want string) error {
	w.t.Helper()
	resp, err := http.Get("http://" + w.http + "/readyz") //nolint:noctx // a test
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), want) {
		return fmt.Errorf("/readyz says %q, want %q", b, want)
	}
	return nil
}

// refused starts a worker that must not start, and returns what it says.
func (o *outbox) refused(env ...string) string {
	o.t.Helper()
	w := o.startWorker(env...)
	select {
	case <-w.done:
	case <-time.After(40 * time.Second):
		o.t.Fatalf("the worker runs on:\n%s", w.text())
	}
	require.Error(o.t, w.err)
	return w.text()
}

func TestAWorkerSaysEverythingThatIsWrongAtOnce(t *testing.T) {
	o := newOutbox(t, "topics: {}\n")
	out := o.refused("DATABASE_URL=", "OUTBOX_CONFIG=", "OUTBOX_LOG_FORMAT=xml", "TEMPORAL_DEPLOYMENT_NAME=d")
	for _, want := range []string{"DATABASE_URL is not set", "OUTBOX_CONFIG is not set", "OUTBOX_LOG_FORMAT", "go together"} {
		require.Contains(t, out, want)
	}
	out = o.refused("DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "TEMPORAL_ADDRESS=127.0.0.1:1")
	require.Contains(t, out, "names no topics", "the file is read first")
}

func TestAPolicyThatCannotHoldIsRefusedWithItsTopic(t *testing.T) {
	o := newOutbox(t, `topics:
  a: {sqs: a, onPoison: block}
  b: {sqs: b, onPoison: drop}
  c: {sqs: c, giveUpAfter: -1h}
  d: {sqs: d, maxPerSecond: -1}
  e: {sqs: e.fifo, onPoison: block, giveUpAfter: 2h, maxPerSecond: 300}
`)
	out := o.refused()
	for _, want := range []string{`topic "a": onPoison is block`, `topic "b": onPoison is "drop"`, `topic "c": giveUpAfter`, `topic "d": maxPerSecond`} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, `topic "e"`)
}

func TestAWorkerNamesEveryNeighbourThatIsAway(t *testing.T) {
	o := newOutbox(t, "topics:\n  orders: {sqs: there-is-no-such-queue}\n")
	out := o.refused("DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "TEMPORAL_ADDRESS=127.0.0.1:1")
	require.Contains(t, out, "connect to the database")
	require.Contains(t, out, "connect to Temporal")
}

func TestAMistakeInTheConfigurationIsNamedWithItsPlace(t *testing.T) {
	for config, want := range map[string]string{
		"topics:\n  orders: {snss: x}\n":         "snss",
		"topics:\n  orders: {sns: x, sqs: y}\n":  "orders",
		"topics:\n  orders: {}\n":                "orders",
		"topics:\n  orders: {sqs: \"a b\"}\n":    "a b",
		"topic:\n  orders: {sqs: x}\n":           "topic",
		"topics:\n  o: {sqs: x.fifo, fair: true": "yaml",
	} {
		o := newOutbox(t, config)
		out := o.refused()
		require.Contains(t, out, "OUTBOX_CONFIG", config)
		require.Contains(t, out, want, config)
	}
}

func TestABrokenDestinationKeepsNoWorkerFromStartingNorOtherTopicsFromFlowing(t *testing.T) {
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  broken: {sqs: there-is-no-such-queue}\n  orders: {sqs: "+q.name+"}\n")
	o.write("broken", "b", 50, 5)
	o.write("orders", "o", 50, 5)
	w := o.work()
	require.Contains(t, w.text(), "there-is-no-such-queue")
	o.schedule()
	requireOnce(t, q.receive(50, 30*time.Second), "o", 50)
	o.drainedTopic("orders", 15*time.Second) // an event is received before it is settled
	require.Equal(t, 50, o.pending(), "the other topic's events wait")
	require.NoError(t, w.ready("broken"))
}

func TestStatusShowsWhatIsPendingAsTableAndJSON(t *testing.T) {
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	require.Contains(t, o.starter("status"), "no topic has had an event yet")
	o.write("orders", "o", 7, 2)
	require.Contains(t, o.starter("status"), "orders")
	var status struct {
		Topics []struct {
			Topic   string
			Pending int
		}
	}
	require.NoError(t, json.Unmarshal([]byte(o.starter("status", "--json")), &status))
	require.Len(t, status.Topics, 1)
	require.Equal(t, 7, status.Topics[0].Pending)
	require.Contains(t, o.starter("migrate"), "nothing to do")

	o.env = append(o.env, "DATABASE_URL=postgres://nobody@127.0.0.1:1/x")
	for _, command := range []string{"status", "migrate"} {
		out, err := o.tryStarter(command)
		require.Error(t, err)
		require.Contains(t, out, "starter: ")
	}
}
