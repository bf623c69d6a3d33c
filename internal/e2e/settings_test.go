package e2e

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// Rows that are hidden look like rows that are not there.
func TestSecurity_SwitchedOnUnderAWorkerIsNamedWhereverPeopleLook(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	as := "DATABASE_URL=" + testenv.RoleURL(t, o.db, "outbox_relay")
	w := o.work(as)
	o.schedule()
	o.write("orders", "before", 1, 1)
	requireOnce(t, q.receive(1, 30*time.Second), "before", 1)
	o.drained(10 * time.Second)

	o.exec(`ALTER TABLE outbox.pending ENABLE ROW LEVEL SECURITY`)
	o.write("orders", "after", 1, 1)
	const named = "outbox.pending from the role outbox_relay"
	require.NoError(t, w.ready(named))
	testenv.Eventually(t, 40*time.Second, func() error {
		if !strings.Contains(w.text(), named) || !strings.Contains(w.text(), "level=WARN") {
			return errors.New("the log does not say so")
		}
		return w.metric(`outbox_dependency_up{dependency="database"`, "0")
	})
	out, status := o.check([]string{as})
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*`+named+`.*DISABLE ROW LEVEL SECURITY`, line(t, out, "security"))
	require.Regexp(t, `^ok `, line(t, out, "session"))
	require.Contains(t, o.refused(as), named, "at the start")
	relay := *o
	relay.env = append(append([]string{}, o.env...), as)
	for _, command := range [][]string{{"status"}, {"where", "--topic", "orders", "--key", "key-1"}} {
		out, err := relay.tryStarter(command...)
		require.Error(t, err)
		require.Contains(t, out, named)
	}
	require.Equal(t, 1, o.pending())

	o.exec(`ALTER TABLE outbox.pending DISABLE ROW LEVEL SECURITY`)
	requireOnce(t, q.receive(1, 30*time.Second), "after", 1)
	require.NoError(t, w.ready("ready\n"))
}

func TestSecurity_EventsThatAreHiddenUnderAWorkerWait(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{shared, perTopic} {
		t.Run(mode, func(t *testing.T) {
			q := newQueue(t, testenv.Name(t))
			o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
			defer o.explain()
			as := "DATABASE_URL=" + testenv.RoleURL(t, o.db, "outbox_relay")
			o.exec(`ALTER TABLE outbox.event ENABLE ROW LEVEL SECURITY; CREATE POLICY relay ON outbox.event USING (true)`)
			w := o.work(as, mode)
			o.schedule()
			o.write("orders", "before", 1, 1)
			requireOnce(t, q.receive(1, 30*time.Second), "before", 1)
			o.drained(10 * time.Second)

			o.exec(`ALTER POLICY relay ON outbox.event USING (topic = 'of-a-tenant')`)
			o.write("orders", "after", 5, 1)
			const named = "outbox.event from the role outbox_relay"
			require.NoError(t, w.ready(named))
			testenv.Eventually(t, 40*time.Second, func() error {
				if !strings.Contains(w.text(), "find waiting lanes: row level security") && !strings.Contains(w.text(), "load events: row level security") {
					return errors.New("neither a claim nor a page has failed yet")
				}
				return nil
			})
			require.Equal(t, 5, o.pending())
			require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`))

			o.exec(`ALTER POLICY relay ON outbox.event USING (true)`)
			requireOnce(t, q.receive(5, 60*time.Second), "after", 5)
			require.Zero(t, o.count(`SELECT count(*) FROM outbox.dead_letter`))
			require.NoError(t, w.ready("ready\n"))
		})
	}
}

// explain logs, if the test has failed, where the events are and what the open runs wait for. Defer it: when
// cleanups run, the test's context is over.
func (o *outbox) explain() {
	if !o.t.Failed() {
		return
	}
	tables := o.state()
	for _, table := range []string{"pending", "dead_letter", "lane", "topic"} {
		o.t.Logf("outbox.%s:\n%s", table, tables[table])
	}
	c := testenv.Temporal(o.t)
	for _, r := range o.runs(o.t.Context(), c) {
		if !r.open() {
			continue
		}
		d, err := c.DescribeWorkflowExecution(o.t.Context(), r.id, r.runID)
		if err != nil {
			o.t.Logf("run %s: %v", r.id, err)
			continue
		}
		o.t.Logf("run %s waits for %v, and for the decision %v", r.id, d.GetPendingActivities(), d.GetPendingWorkflowTask())
	}
}

// metric returns an error unless a line of /metrics begins and ends so.
func (w *worker) metric(begin, end string) error {
	resp, err := http.Get("http://" + w.http + "/metrics") //nolint:noctx // a test
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(b)) {
		if strings.HasPrefix(l, begin) {
			if l = strings.TrimSpace(l); strings.HasSuffix(l, " "+end) {
				return nil
			}
			return errors.New(l)
		}
	}
	return errors.New("no metric begins with " + begin)
}

func TestSession_OfAnotherIsolationIsNamedAtMigrateStartAndCheck(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$`)
	const remedy = "SET default_transaction_isolation = 'read committed'"
	out, err := o.tryStarter("migrate")
	require.Error(t, err)
	require.Contains(t, out, remedy)
	require.Contains(t, o.refused(), remedy)
	out, status := o.check(nil)
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed .*serializable`, line(t, out, "session"))
	require.Contains(t, line(t, out, "session"), remedy)
	require.Regexp(t, `^ok `, line(t, out, "database"))
	require.Regexp(t, `^unknown `, line(t, out, "rights"))
	require.Regexp(t, `^unknown .*not checked: see session`, line(t, out, "trigger"))
}
