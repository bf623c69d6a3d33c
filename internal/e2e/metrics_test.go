package e2e

import (
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// metrics are what a worker's /metrics shows: values by name and labels, as they
// are written there.
type metrics map[string]float64

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{.*\})?) (\S+)$`)

func (w *worker) metrics() (m metrics, text string) {
	w.t.Helper()
	resp, err := http.Get("http://" + w.http + "/metrics") //nolint:noctx // a test
	require.NoError(w.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, resp.StatusCode)
	m = metrics{}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		found := sampleLine.FindStringSubmatch(strings.TrimSpace(line))
		require.NotNil(w.t, found, "not a sample: %s", line)
		m[found[1]], err = strconv.ParseFloat(found[2], 64)
		require.NoError(w.t, err)
	}
	return m, string(b)
}

// has reports whether there is a series of that name with all these labels.
func (m metrics) has(name string, labels ...string) bool {
	for series := range m {
		if series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		all := true
		for _, l := range labels {
			all = all && strings.Contains(series, l)
		}
		if all {
			return true
		}
	}
	return false
}

// busy is what a worker shows that something of everything has happened to: topic
// orders flows and has a poison event, broken is in recovery, audit is paused. All
// that must not show is marked s3cr3t.
func busy(t *testing.T) (m metrics, text string) {
	t.Helper()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n  broken: {sqs: there-is-no-such-queue}\n  audit: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.write("orders", "s3cr3t", 300, 30)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 's3cr3t key', 's3cr3t type', E's3cr3t \x07')`)
	o.write("broken", "s3cr3t", 20, 5)
	o.write("audit", "s3cr3t", 7, 5)
	o.starter("pause", "audit", "--by", "s3cr3t ann", "--reason", "s3cr3t reason")
	w := o.work(shared)
	o.starter("schedule")
	o.unschedule(o.queue)
	o.unschedule(o.queue + "-maintenance")
	q.receive(300, 30*time.Second)
	o.recovering(c, "broken")
	testenv.Eventually(t, 40*time.Second, func() error {
		m, text = w.metrics()
		switch {
		case m[`outbox_topic_paused{by="recovery",topic="broken"}`] != 1, m[`outbox_dead_letters{topic="orders"}`] != 1:
			return errors.New("the sample from before shows")
		case !m.has("outbox_partitions_ahead_days"):
			return errors.New("the upkeep does not show yet")
		}
		return nil
	})
	return m, text
}

func TestMetrics_ShowFlowFailuresAndWaitingAndNothingOfAnEvent(t *testing.T) {
	t.Parallel()
	m, text := busy(t)
	for series, want := range map[string]float64{
		`outbox_events_published_total{topic="orders"}`:                             300,
		`outbox_events_published_total{topic="broken"}`:                             0,
		`outbox_events_dead_lettered_total{code="InvalidCharacter",topic="orders"}`: 1,
		`outbox_publish_latency_seconds_count{topic="orders"}`:                      300,
		`outbox_request_events_sum{topic="orders"}`:                                 300,
		`outbox_requests_total{outcome="unanswered",topic="orders"}`:                0,
		`outbox_duplicates_suspected_total{topic="orders"}`:                         0,
		`outbox_recoveries_begun_total{topic="broken"}`:                             1,
		`outbox_claims_lost_total{topic="orders"}`:                                  0,
		`outbox_receipts_lost_total{topic="orders"}`:                                0,
		`outbox_dependency_up{dependency="database"}`:                               1,
		`outbox_dependency_up{dependency="temporal"}`:                               1,
		`outbox_database_errors_total{operation="statement"}`:                       0,
		`outbox_topics_sampled`:                                                     3,
		`outbox_pending_events{topic="broken"}`:                                     20,
		`outbox_pending_events{topic="audit"}`:                                      7,
		`outbox_pending_events_capped{topic="audit"}`:                               0,
		`outbox_topic_paused{by="operator",topic="audit"}`:                          1,
		`outbox_topic_paused{by="operator",topic="broken"}`:                         0,
		`outbox_partitions_ahead_days`:                                              14,
		`outbox_default_partition_events`:                                           0,
	} {
		require.Contains(t, m, series)
		require.Equal(t, want, m[series], series)
	}
	refused := m[`outbox_events_failed_total{class="poison",code="InvalidCharacter",topic="orders"}`]
	require.Contains(t, []float64{1, 2}, refused, "in the batch that makes it a dead letter, and before in the shares if they had it first")
	require.Positive(t, m[`outbox_oldest_pending_age_seconds{topic="audit"}`])
	require.Less(t, m[`outbox_publish_latency_seconds_sum{topic="orders"}`]/300, 60.0, "seconds")
	require.GreaterOrEqual(t, m[`outbox_events_failed_total{class="destination",code="NonExistentQueue",topic="broken"}`], 20.0)
	require.NotContains(t, text, "s3cr3t")
}

func TestMetrics_OfAWorkerThatClaimsNoMoreHaveNoStaleGauges(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	w := o.work()
	o.schedule()
	testenv.Eventually(t, 20*time.Second, func() error {
		if m, _ := w.metrics(); !m.has("outbox_pending_events", `topic="orders"`) {
			return errNotYet
		}
		return nil
	})
	require.NoError(t, c.ScheduleClient().GetHandle(t.Context(), o.queue).Delete(t.Context()))
	for _, r := range o.runs(t.Context(), c) {
		if r.open() {
			require.NoError(t, c.TerminateWorkflow(t.Context(), r.id, r.runID, "nobody is to claim"))
		}
	}
	testenv.Eventually(t, 60*time.Second, func() error {
		if m, _ := w.metrics(); m.has("outbox_pending_events") || m.has("outbox_topics_sampled") {
			return errors.New("the last sample still shows")
		}
		return nil
	})
	m, _ := w.metrics()
	require.True(t, m.has("outbox_events_published_total"), "counters stay")
}

func TestWorker_SaysWhenItsDatabaseIsAway(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	line := newProxy(t, hostOf(t, o.url))
	w := o.work("DATABASE_URL=" + line.inFrontOf(t, o.url))
	testenv.Eventually(t, 20*time.Second, func() error {
		if m, _ := w.metrics(); m[`outbox_dependency_up{dependency="database"}`] != 1 {
			return errNotYet
		}
		return nil
	})
	line.set(refused)
	testenv.Eventually(t, 40*time.Second, func() error {
		m, _ := w.metrics()
		if m[`outbox_dependency_up{dependency="database"}`] != 0 || m[`outbox_database_errors_total{operation="connect"}`] == 0 {
			return errNotYet
		}
		return nil
	})
	m, _ := w.metrics()
	require.Equal(t, 1.0, m[`outbox_dependency_up{dependency="temporal"}`])
}

func TestWorker_SaysItsVersionAndThatOfGo(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), filepath.Join(programs, "worker"), "--version").CombinedOutput()
	require.NoError(t, err)
	require.Regexp(t, `^worker version \S+ \(.*go1\.\d+`, string(out))
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	w := o.work()
	require.Regexp(t, `msg=publishing .*version=\S+ .*go=go1\.`, w.text())
	m, _ := w.metrics()
	require.True(t, m.has("outbox_build_info", `go_version="go1.`, "version="))
}
