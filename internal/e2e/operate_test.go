package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// ran is what a command of the starter printed, and its exit status.
type ran struct {
	out, err string
	status   int
}

// command runs the starter as a script does.
func (o *outbox) command(args ...string) ran { return o.commandIn(o.env, args...) }

func (o *outbox) commandIn(env []string, args ...string) ran {
	o.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(o.t.Context(), filepath.Join(o.programs, "starter"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(o.t, err)
	}
	return ran{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// commandJSON runs a command with --json that has to succeed.
func commandJSON[T any](o *outbox, args ...string) (v T) {
	o.t.Helper()
	r := o.command(append(args, "--json")...)
	require.Zero(o.t, r.status, "%v: %s%s", args, r.out, r.err)
	require.NoError(o.t, json.Unmarshal([]byte(r.out), &v), r.out)
	return v
}

type operated struct {
	Kind, WorkflowID, Outcome string
	Matched, Done, Operation  int64
	DryRun, Joined            bool
}

// buried is an outbox whose FIFO queue was missing: n events of the topic orders are
// dead letters, and the queue is back.
func buried(t *testing.T, n, keys int) (*outbox, queue, *worker) {
	t.Helper()
	q := newQueue(t, testenv.Name(t)+".fifo")
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+", onPoison: block}\n")
	w := o.work()
	o.schedule()
	q.remove()
	o.write("orders", "e", n, keys)
	o.recovering(testenv.Temporal(t), "orders")
	var parked struct{ Dead int }
	for parked.Dead < n {
		p := commandJSON[struct{ Dead int }](o, "recover", "orders", "--park", "--yes", "--by", "ada", "--reason", "their queue is gone")
		parked.Dead += p.Dead
		if parked.Dead < n {
			o.recovering(testenv.Temporal(t), "orders") // other batches of the topic
		}
	}
	require.Zero(t, o.pending())
	return o, newQueue(t, q.name), w
}

func TestRedrive_DeliversADeadLetterWithTheCommandLineAlone(t *testing.T) {
	t.Parallel()
	const n, keys = 100, 10
	o, q, _ := buried(t, n, keys)

	counts := commandJSON[struct {
		Counts []struct {
			Code         string
			Events, Keys int
		}
	}](o, "dead", "list")
	require.Len(t, counts.Counts, 2, "what was refused, and what was blocked behind it: %v", counts)
	require.Equal(t, n, counts.Counts[0].Events+counts.Counts[1].Events)
	letters := commandJSON[struct {
		DeadLetters []struct{ EventID, Key, Code, WorkflowID string }
	}](o, "dead", "list", "orders", "--key", "key-3", "--code", "NonExistentQueue")
	require.Len(t, letters.DeadLetters, 1)
	letter := letters.DeadLetters[0]
	require.Equal(t, o.recoveryID("orders"), letter.WorkflowID)
	shown := o.command("dead", "show", letter.EventID)
	require.Contains(t, shown.out, "why        NonExistentQueue: ")
	require.NotContains(t, shown.out, "\ne-", "no payload that was not asked for")
	require.Contains(t, o.command("dead", "show", letter.EventID, "--payload").out, "\ne-")
	require.Contains(t, o.command("where", letter.EventID).out, "dead since ")
	require.Contains(t, o.command("where", "--topic", "orders", "--key", "key-3").out, "NonExistentQueue")

	dry := commandJSON[operated](o, "dead", "redrive", "orders", "--all", "--dry-run")
	require.EqualValues(t, n, dry.Matched)
	require.Equal(t, n, o.count(`SELECT count(*) FROM outbox.dead_letter`), "nothing was changed")
	gone := commandJSON[operated](o, "dead", "discard", "orders", "--key", "key-3", "--by", "ada", "--reason", "test data", "--yes")
	require.EqualValues(t, n/keys, gone.Done)
	require.Contains(t, o.command("where", letter.EventID).out, "discarded by ada: test data")
	// Somebody's terminal died before it had started this one.
	o.exec(`INSERT INTO outbox.operation (at, kind, topic, by, reason, workflow_id) VALUES (now() - interval '1 day', 'redrive', 'orders', 'x', 'y', 'none')`)
	done := commandJSON[operated](o, "dead", "redrive", "orders", "--all", "--by", "ada", "--reason", "the queue is back", "--yes")
	require.EqualValues(t, n-n/keys, done.Done)
	require.Equal(t, "done", done.Outcome)
	require.False(t, done.Joined)
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE by = 'x' AND outcome LIKE 'abandoned%'`))
	o.drained(30 * time.Second)
	got := q.receive(n-n/keys, 30*time.Second)
	require.Len(t, got, n-n/keys)
	ascending(t, got, "e")

	letters = commandJSON[struct {
		DeadLetters []struct{ EventID, Key, Code, WorkflowID string }
	}](o, "dead", "list", "orders")
	require.Empty(t, letters.DeadLetters)
	again := commandJSON[operated](o, "replay", "orders", "--key", "key-4", "--by", "bob", "--reason", "they lost it", "--yes")
	require.EqualValues(t, n/keys, again.Done)
	got = q.receive(n/keys, 30*time.Second)
	require.Len(t, got, n/keys)
	ascending(t, got, "e")

	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE kind = 'replay' AND by = 'bob' AND reason = 'they lost it'
	    AND outcome = 'done' AND selection = '{"key": "key-4"}' AND done = 10`), "who, when, why, what")
	d, err := testenv.Temporal(t).DescribeWorkflow(t.Context(), again.WorkflowID, "")
	require.NoError(t, err)
	memo := map[string]string{}
	for name, value := range d.Memo.GetFields() {
		memo[name] = string(value.GetData())
		require.NotContains(t, memo[name], "key-4", "a key is in %s: it may say more than a memo should", name)
	}
	require.Contains(t, memo, "reason")
	require.Equal(t, "10", memo["matched"])
	require.Equal(t, `["key"]`, memo["selectedBy"])
	o.found(testenv.Temporal(t), 3, `WorkflowType = "Operation" AND OutboxTopic = "orders"`)
}

// ascending checks that each key's messages came in the order of writing.
func ascending(t *testing.T, messages []types.Message, prefix string) {
	t.Helper()
	last := map[string]int{}
	for _, m := range messages {
		key, n := m.Attributes["MessageGroupId"], numberOf(t, *m.Body, prefix)
		require.Greater(t, n, last[key], "key %s", key)
		last[key] = n
	}
}

// Who looks for an event must not go after a relay that is well: its lane is an operation's.
func TestWhere_SaysThatAnOperationHasReservedTheLane(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.write("orders", "e", 1, 1)
	o.exec(`INSERT INTO outbox.lane (topic, lane) SELECT topic, lane FROM outbox.pending`)
	require.Contains(t, o.command("where", "--topic", "orders", "--key", "key-0").out, "lane       free: the next claim takes it")
	o.exec(`INSERT INTO outbox.operation (kind, topic, by, reason, workflow_id) VALUES ('redrive', 'orders', 'ada', 'x', 'outbox-redrive/orders/1'), ('redrive', 'audit', 'ada', 'x', 'outbox-redrive/audit/2')`)
	o.exec(`UPDATE outbox.lane SET reserved_until = '2126-01-31T15:00:00Z'`)
	var id string
	require.NoError(t, o.db.QueryRow(t.Context(), `SELECT event_id::text FROM outbox.event`).Scan(&id))
	for _, args := range [][]string{{"where", "--topic", "orders", "--key", "key-0"}, {"where", id}} {
		r := o.command(args...)
		require.Contains(t, r.out, "reserved   by an operation: no claim takes the lane before 2126-01-31 15:00:00 UTC\n           outbox-redrive/orders/1")
		require.NotContains(t, r.out, "free")
		require.NotContains(t, r.out, "audit", "the other topic's operation has nothing to do with it")
	}
	o.exec(`UPDATE outbox.lane SET reserved_until = now() - interval '1 second'`)
	require.Contains(t, o.command("where", id).out, "free: the next claim takes it", "a reservation ends by itself")
}

// What makes no sense, or cannot be done, is said clearly, has its status, and changes
// nothing.
func TestStarter_RefusesImpossibleCommandsAndChangesNothing(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.work()
	id := "0198f2a1-7c3b-7def-8123-456789abcdef"
	why := []string{"--reason", "x", "--by", "ada", "--yes"}
	with := func(args ...string) []string { return append(args, why...) }
	o.exec(`INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id, key)
	        VALUES ('orders', 1, 1, now(), 1, 'Poison', 'x', 1, 'w', 'k'), ('orders', 1, 2, now(), 1, 'Other', 'x', 1, 'w', 'k')`)
	before := o.state()
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"stauts"}, 2, `unknown command "stauts"`},
		{[]string{"status", "--jsno"}, 2, "unknown flag: --jsno"},
		{[]string{"status", "--watch", "--every", "1ms"}, 2, "at least 100ms"},
		{[]string{"migrate", "now"}, 2, `unknown command "now"`},
		{[]string{"schedule", "now"}, 2, `unknown command "now"`},
		{[]string{"promote"}, 2, "--deployment and --build-id"},
		{[]string{"where"}, 2, "give an event id, or both --topic and --key"},
		{[]string{"where", "4711"}, 2, `parse event id "4711"`},
		{[]string{"where", id}, 3, "there is no such event"},
		{[]string{"where", "--topic", "odrers", "--key", "k"}, 2, `unknown topic "odrers": known topics are orders`},
		{[]string{"where", "--topic", "orders", "--key", "nobody"}, 3, "there is no such event"},
		{[]string{"dead", "list", "odrers"}, 2, `unknown topic "odrers"`},
		{[]string{"dead", "list", "orders", "--code", "Nothing"}, 3, "no dead letters match"},
		{[]string{"dead", "list", "--code", "Poison"}, 2, "a filter needs a topic"},
		{[]string{"dead", "list", "orders", "--since", "yesterday"}, 2, `--since is "yesterday"`},
		{[]string{"dead", "list", "orders", "--since", "1h", "--until", "2h"}, 2, "nothing can match"},
		{[]string{"dead", "show", "x"}, 2, `parse event id "x"`},
		{[]string{"dead", "show", id}, 3, "is not a dead letter"},
		{with("dead", "redrive"), 2, "accepts 1 arg(s), received 0"},
		{with("dead", "redrive", "odrers", "--all"), 2, `unknown topic "odrers"`},
		{with("dead", "redrive", "orders", "--event-id", "4711"), 2, "--event-id: parse event id"},
		{with("dead", "redrive", "orders", "--key", "nobody"), 3, "no dead letters of orders match"},
		{with("dead", "redrive", "orders", "--code", "Other"), 2, "would arrive before an earlier dead letter of their key, which is not selected"},
		{with("dead", "redrive", "orders", "--all", "--rate", "-1"), 2, "--rate is -1"},
		{with("dead", "redrive", "orders", "--all", "--rate", "NaN"), 2, "--rate is NaN"},
		{with("dead", "discard", "orders", "--all", "--rate", "Inf"), 2, "--rate is +Inf"},
		{with("replay", "orders", "--all", "--rate", "nan"), 2, "--rate is NaN"},
		{with("replay", "orders", "--all", "--rate", "-Inf"), 2, "--rate is -Inf"},
		{[]string{"dead", "redrive", "orders", "--all", "--reason", "x"}, 2, "add --yes"},
		{with("dead", "redrive", "orders"), 2, "or --all"},
		{with("dead", "redrive", "orders", "--all", "--wait", "0s"), 2, "--wait is 0s"},
		{with("replay", "orders", "--all", "--wait", "1s", "--no-wait"), 2, "--wait or --no-wait"},
		{with("dead", "discard", "orders", "--all", "--no-wait"), 2, "unknown flag: --no-wait"},
		{with("dead", "discard", "orders"), 2, "or --all"},
		{with("dead", "discard", "odrers", "--all"), 2, `unknown topic "odrers"`},
		{with("dead", "discard", "orders", "--event-id", "4711"), 2, "--event-id: parse event id"},
		{with("dead", "discard", "orders", "--event-id", "", "--key", ""), 2, "is empty: leave it out to select all"},
		{[]string{"dead", "discard", "orders", "--all", "--yes"}, 2, "--reason is empty"},
		{with("dead", "discard", "orders", "--code", "Nothing"), 3, "no dead letters of orders match"},
		{with("replay", "orders"), 2, "or --all"},
		{with("replay", "orders", "--all", "--key", "k"), 2, "or --all"},
		{with("replay", "orders", "--all"), 3, "no events of orders match"},
		{with("replay", "orders", "--event-id", "4711"), 2, "--event-id: parse event id"},
		{with("replay", "odrers", "--all"), 2, `unknown topic "odrers"`},
		{[]string{"recover", "orders", "--reason", "x"}, 2, "--now or --park"},
		{[]string{"recover", "orders", "--now"}, 2, "--reason is empty"},
		{[]string{"recover", "orders", "--park", "--yes"}, 2, "--reason is empty"},
		{[]string{"recover", "orders", "--now", "--dry-run", "--reason", "x"}, 2, "--now changes no event"},
		{[]string{"recover", "orders", "--park", "--dry-run"}, 3, "orders has no recovery under way"},
		{[]string{"recover", "odrers", "--park", "--dry-run"}, 2, `unknown topic "odrers"`},
		{[]string{"recover", "odrers", "--now", "--reason", "x"}, 2, `unknown topic "odrers"`},
		{[]string{"recover", "orders", "--now", "--reason", "x"}, 3, "orders has no recovery under way"},
		{[]string{"recover", "orders", "--park", "--reason", "x", "--yes"}, 3, "orders has no recovery under way"},
		{[]string{"resume", "odrers"}, 2, `unknown topic "odrers"`},
		{[]string{"resume"}, 2, "accepts 1 arg(s), received 0"},
		{[]string{"pause", "odrers", "--reason", "x"}, 2, `unknown topic "odrers"`},
		{[]string{"pause", "orders"}, 2, "--reason is empty"},
	} {
		r := o.command(c.args...)
		require.Equal(t, c.status, r.status, "%v: %s", c.args, r.err)
		require.Contains(t, r.err, c.says, "%v", c.args)
		require.Empty(t, r.out, "%v", c.args)
	}
	require.Equal(t, before, o.state(), "nothing changed")
}

// state is everything that commands could change, to the last column.
func (o *outbox) state() map[string]string {
	o.t.Helper()
	tables := map[string]string{}
	for _, table := range []string{"event", "pending", "lane", "topic", "dead_letter", "refusal", "operation", "discarded"} {
		var rows string
		require.NoError(o.t, o.db.QueryRow(o.t.Context(),
			`SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM outbox.`+table+` t`).Scan(&rows))
		tables[table] = rows
	}
	return tables
}

func TestStarter_WithoutDatabaseOrTemporalSaysSoAndDoesNothing(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.exec(`INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1)`)
	o.exec(`INSERT INTO outbox.dead_letter (topic, lane, id, created_at, bytes, code, message, attempts, workflow_id)
	        VALUES ('orders', 1, 1, now(), 1, 'Poison', 'x', 1, 'w')`)
	before := o.state()
	noDatabase := append(append([]string{}, o.env...), "DATABASE_URL=postgres://nobody:secret@127.0.0.1:1/none?connect_timeout=2")
	noTemporal := append(append([]string{}, o.env...), "TEMPORAL_ADDRESS=127.0.0.1:1")
	id := "0198f2a1-7c3b-7def-8123-456789abcdef"
	for _, args := range [][]string{
		{"migrate"},
		{"status"},
		{"status", "--watch"},
		{"where", id},
		{"where", "--topic", "orders", "--key", "k"},
		{"dead", "list"},
		{"dead", "show", id},
		{"pause", "orders", "--reason", "x"},
		{"resume", "orders"},
		{"dead", "redrive", "orders", "--all", "--reason", "x", "--yes"},
		{"dead", "discard", "orders", "--all", "--reason", "x", "--yes"},
		{"replay", "orders", "--all", "--reason", "x", "--yes"},
		{"recover", "orders", "--now", "--reason", "x"},
	} {
		r := o.commandIn(noDatabase, args...)
		require.Equal(t, 1, r.status, "%v: %s", args, r.err)
		require.Contains(t, r.err, "connect to the database", "%v", args)
		require.NotContains(t, r.err, "secret", "%v", args)
	}
	for _, args := range [][]string{
		{"dead", "redrive", "orders", "--all", "--reason", "x", "--yes"},
		{"dead", "discard", "orders", "--all", "--reason", "x", "--yes"},
		{"replay", "orders", "--all", "--reason", "x", "--yes"},
		{"recover", "orders", "--now", "--reason", "x"},
		{"recover", "orders", "--park", "--reason", "x", "--yes"},
		{"recover", "orders", "--park", "--dry-run"},
		{"schedule"},
		{"promote", "--deployment", "d", "--build-id", "b"},
	} {
		r := o.commandIn(noTemporal, args...)
		require.Equal(t, 1, r.status, "%v: %s", args, r.err)
		require.Contains(t, r.err, "connect to Temporal at \"127.0.0.1:1\"", "%v", args)
	}
	require.Equal(t, before, o.state(), "nothing changed")
	r := o.commandIn(append(append([]string{}, o.env...), "DATABASE_URL="), "status")
	require.Equal(t, 2, r.status)
	require.Contains(t, r.err, "DATABASE_URL is not set")
}

func TestRecover_NowEndsTheBackoffOnceTheDestinationIsBack(t *testing.T) {
	o, q, c, _, _ := brokenOrders(t)
	testenv.Eventually(t, 60*time.Second, func() error { // until it would take long to wait
		d, err := c.DescribeWorkflowExecution(t.Context(), o.recoveryID("orders"), "")
		if err != nil {
			return err
		}
		for _, a := range d.PendingActivities {
			if a.GetAttempt() >= 5 && a.GetScheduledTime() != nil {
				return nil
			}
		}
		return errors.New("it has not tried five times yet")
	})
	back := newQueue(t, q.name)
	out := o.starter("recover", "orders", "--now", "--by", "ada", "--reason", "the queue is back")
	require.Contains(t, out, "orders: tries now")
	began := time.Now()
	o.ended(c, "orders")
	require.Less(t, time.Since(began), 8*time.Second, "the sixth attempt was due after 16 s")
	o.drained(30 * time.Second)
	requireOnce(t, back.receive(100, 30*time.Second), "e", 100)
	require.Equal(t, 1, o.count(`SELECT count(*) FROM outbox.operation WHERE kind = 'recover-now' AND by = 'ada'
	    AND finished_at >= at AND outcome = 'tries now' AND workflow_id = '`+o.recoveryID("orders")+`'`))
}

// scale multiplies how much is redriven and replayed: 10 for what the documents say.
func scale() int {
	if os.Getenv("OUTBOX_TEST_FULL") != "" {
		return 10
	}
	return 1
}

func TestRedriveAndReplay_SurviveAnyKillAndEndCompleteAndInOrder(t *testing.T) {
	t.Parallel()
	dead, events, keys := 1000*scale(), 10_000*scale(), 500
	o, q, w := buried(t, dead, keys)

	began := time.Now()
	w = o.interrupted(w, dead, "dead", "redrive", "orders", "--all", "--rate", fmt.Sprint(dead/4))
	o.drained(time.Minute)
	t.Logf("%d dead letters redriven in %v", dead, time.Since(began))
	got := q.receive(dead, 3*time.Minute)
	require.Len(t, got, dead)
	ascending(t, got, "e")

	o.write("orders", "f", events-dead, keys)
	o.drained(3 * time.Minute)
	require.Len(t, q.receive(events-dead, 5*time.Minute), events-dead)
	began = time.Now()
	o.interrupted(w, events, "replay", "orders", "--all", "--rate", fmt.Sprint(events/8))
	o.drained(3 * time.Minute)
	t.Logf("%d published events replayed in %v", events, time.Since(began))
	got = q.receive(events, 10*time.Minute)
	require.Len(t, got, events)
	last := map[string]string{}
	for _, m := range got {
		key := m.Attributes["MessageGroupId"]
		at := fmt.Sprintf("%.1s%09d", *m.Body, numberOf(t, (*m.Body), (*m.Body)[:1]))
		require.Greater(t, at, last[key], "key %s", key)
		last[key] = at
	}
}

// interrupted gives a command, kills it and the worker on the way, and gives it again.
func (o *outbox) interrupted(w *worker, n int, args ...string) *worker {
	o.t.Helper()
	args = append(args, "--by", "ada", "--reason", "a test", "--yes", "--wait", "5m")
	cmd := exec.CommandContext(o.t.Context(), filepath.Join(o.programs, "starter"), args...)
	cmd.Env = o.env
	require.NoError(o.t, cmd.Start())
	testenv.Eventually(o.t, 30*time.Second, func() error {
		if done := o.count(`SELECT coalesce(max(done), 0) FROM outbox.operation WHERE finished_at IS NULL`); done < n/10 {
			return fmt.Errorf("%d events are moved", done)
		}
		return nil
	})
	require.NoError(o.t, cmd.Process.Kill())
	_ = cmd.Wait()
	w.kill()
	left := o.count(`SELECT max(done) FROM outbox.operation WHERE finished_at IS NULL`)
	require.Less(o.t, left, n, "it was interrupted")
	w = o.work()
	r := o.command(append(args, "--json")...)
	require.Zero(o.t, r.status, r.err)
	var again operated
	require.NoError(o.t, json.Unmarshal([]byte(r.out), &again))
	require.True(o.t, again.Joined, "it was under way")
	require.EqualValues(o.t, n, again.Done)
	require.Contains(o.t, r.err, " of ", "progress")
	return w
}
