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

func TestConfiguration_EverySettingThatIsWrongIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics: {}\n")
	out := o.refused("DATABASE_URL=", "OUTBOX_CONFIG=", "OUTBOX_LOG_FORMAT=xml", "TEMPORAL_DEPLOYMENT_NAME=d")
	for _, want := range []string{"DATABASE_URL is not set", "OUTBOX_CONFIG is not set", "OUTBOX_LOG_FORMAT", "go together"} {
		require.Contains(t, out, want)
	}
	out = o.refused("DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "TEMPORAL_ADDRESS=127.0.0.1:1")
	require.Contains(t, out, "names no topics", "the file is read first")
}

func TestConfiguration_APolicyThatCannotHoldIsRefusedWithItsTopic(t *testing.T) {
	t.Parallel()
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

// Each of these was told alone, without its place, or not at all.
func TestConfiguration_AllMistakesAreNamedAtOnceWithTheirPlaces(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, `topics:
  a: {sqs: a, giveUpAfter: 1 day}
  b: {sqs: b, onPoison: drop}
  c: {sns: "no name"}
  d: {snss: d}
  e: {sqs: e, maxPerSecond: many}
  fine: {sqs: fine, giveUpAfter: 1d}
---
topics: {g: {sqs: g}}
`)
	url := "postgresql+psycopg2://relay:hidden@127.0.0.1/db"
	out := o.refused("DATABASE_URL=" + url)
	for _, want := range []string{
		`outbox.yaml:2: topic "a": giveUpAfter is "1 day": it must be a duration such as 90s`,
		`outbox.yaml:3: topic "b": onPoison is "drop"`, `outbox.yaml:4: topic "c": SNS topic "no name"`,
		`outbox.yaml:5: topic "d": snss is not a key of a topic: did you mean sns?`,
		`outbox.yaml:6: topic "e": maxPerSecond is "many": it must be a number`,
		`outbox.yaml:9: a second YAML document begins here`,
		`DATABASE_URL: read the database URL: its scheme is postgresql+psycopg2, which only Python's SQLAlchemy knows: use postgresql:// instead`,
	} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "fine")
	require.NotContains(t, out, "hidden")
	out, status := o.check([]string{"DATABASE_URL=" + url})
	require.Equal(t, 1, status)
	require.Equal(t, 8, strings.Count(out, "failed   configuration"), out)
	o.env = append(o.env, "DATABASE_URL=jdbc:postgresql://127.0.0.1/db?user=relay&password=hidden")
	for _, command := range []string{"migrate", "status"} {
		r := o.command(command)
		require.Equal(t, 2, r.status)
		require.Contains(t, r.err, "it is a JDBC URL: take off jdbc:")
		require.NotContains(t, r.err, "hidden")
	}
}

func TestWorker_NamesEveryNeighbourThatIsAway(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: there-is-no-such-queue}\n")
	out := o.refused("DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "TEMPORAL_ADDRESS=127.0.0.1:1")
	require.Contains(t, out, "connect to the database")
	require.Contains(t, out, "connect to Temporal")
}

func TestConfiguration_AMistakeIsNamedWithItsPlace(t *testing.T) {
	t.Parallel()
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

func TestWorker_StartsWithABrokenDestinationAndOtherTopicsFlow(t *testing.T) {
	t.Parallel()
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
	testenv.Eventually(t, 20*time.Second, func() error { return w.ready("reported: topic broken: ") })
}

func TestStatus_ShowsPendingEventsAsTableAndJSON(t *testing.T) {
	t.Parallel()
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
