package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// before is the version that is upgraded from: the last one before events were told apart
// by their time as well, of schema version 6.
const before = "a5d3e7c53be2f10d00bca155357c6956f3d12806"

// builds has the folders of other versions, by revision.
var builds = struct {
	sync.Mutex
	folders map[string]string
}{folders: map[string]string{}}

// build returns the folder of the worker and the starter of another version. It builds them from the
// repository's history, once for all tests.
func build(t *testing.T, revision string) (folder string) {
	t.Helper()
	shallow, err := exec.CommandContext(t.Context(), "git", "rev-parse", "--is-shallow-repository").Output()
	if err != nil || strings.TrimSpace(string(shallow)) == "true" {
		t.Skipf("this copy of the repository has no history: the upgrade from %s is not tested (%v)", revision, err)
	}
	top, err := exec.CommandContext(t.Context(), "git", "rev-parse", "--show-toplevel").Output()
	if err == nil {
		err = exec.CommandContext(t.Context(), "git", "cat-file", "-e", revision+"^{commit}").Run()
	}
	if err != nil {
		testenv.Missing(t, "the history does not have commit %s: %v", revision, err)
	}
	builds.Lock()
	defer builds.Unlock()
	if dir, ok := builds.folders[revision]; ok {
		return dir
	}
	dir := filepath.Join(programs, revision)
	archive := filepath.Join(dir, "source.tar")
	source := filepath.Join(dir, "source")
	require.NoError(t, os.MkdirAll(source, 0o700))
	for _, c := range []struct {
		in   string
		args []string
	}{
		{strings.TrimSpace(string(top)), []string{"git", "archive", "--output", archive, revision}},
		{source, []string{"tar", "-xf", archive}},
		{source, []string{"go", "build", "-o", dir, "./worker", "./starter"}},
	} {
		cmd := exec.CommandContext(t.Context(), c.args[0], c.args[1:]...)
		cmd.Dir = c.in
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", c.args, out)
	}
	builds.folders[revision] = dir
	return dir
}

// A database and workflows of the version before go on: migrate first, with its workers
// still at work, and then replace the workers.
func TestUpgrade_FromTheVersionBeforeLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	const n = 200
	name := testenv.Name(t)
	orders, broken, letters, paused := newQueue(t, name+"-o.fifo"), newQueue(t, name+"-b"), newQueue(t, name+"-l"), newQueue(t, name+"-p")
	o := newOutbox(t, fmt.Sprintf("topics:\n  orders: {sqs: %s}\n  broken: {sqs: %s}\n  letters: {sqs: %s}\n  paused: {sqs: %s}\n",
		orders.name, broken.name, letters.name, paused.name))
	c := testenv.Temporal(t)
	o.programs = build(t, before)
	o.exec(`DROP SCHEMA outbox CASCADE`)
	o.starter("migrate")
	old := o.work()
	o.schedule()
	require.Equal(t, 6, o.count(`SELECT version FROM outbox.schema_version`))

	// Dead letters, a recovery, an operation under way, and events that wait.
	letters.remove()
	o.write("letters", "l", 20, 5)
	o.recovering(c, "letters")
	o.starter("recover", "letters", "--park", "--yes", "--by", "ada", "--reason", "a test")
	require.Equal(t, 20, o.count(`SELECT count(*) FROM outbox.dead_letter WHERE topic = 'letters'`))
	o.write("orders", "e", n, 10)
	o.drainedTopic("orders", 30*time.Second)
	broken.remove()
	o.write("broken", "b", 50, 5)
	o.recovering(c, "broken")
	o.write("paused", "p", 1, 1)
	o.drainedTopic("paused", 30*time.Second)
	o.starter("pause", "paused", "--by", "ada", "--reason", "a test")
	o.write("paused", "q", 30, 5)
	replay := o.begin(nil, "replay", "orders", "--all", "--rate", "5", "--by", "ada", "--reason", "a test", "--yes", "--json")
	testenv.Eventually(t, 30*time.Second, func() error {
		if done := o.count(`SELECT coalesce(max(done), 0) FROM outbox.operation WHERE kind = 'replay'`); done < 10 {
			return fmt.Errorf("%d events are replayed", done)
		}
		return nil
	})

	// Producers write all the while.
	ctx, stop := context.WithCancel(t.Context())
	var producer sync.WaitGroup
	written := 0
	producer.Go(func() {
		for ; ctx.Err() == nil; written++ {
			_, err := o.db.Exec(context.WithoutCancel(ctx), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'key-' || $1::int % 10, 'Tested', 'w-' || $1)`, written)
			if err != nil {
				t.Errorf("event %d: %v", written, err)
				return
			}
		}
	})
	o.programs = programs
	o.starter("migrate")
	require.Greater(t, o.count(`SELECT version FROM outbox.schema_version`), 6)
	first := o.count(`SELECT max(id) FROM outbox.event`)
	testenv.Eventually(t, 20*time.Second, func() error { // the old worker goes on with the new tables
		if o.count(fmt.Sprintf(`SELECT count(*) FROM outbox.event e WHERE topic = 'orders' AND id > %d
		    AND NOT EXISTS (SELECT FROM outbox.pending p WHERE p.id = e.id AND p.replay = 0)`, first)) == 0 {
			return fmt.Errorf("no event from after the migration is published")
		}
		return nil
	})
	o.work()
	old.stop()
	stop()
	producer.Wait()

	back := newQueue(t, broken.name)
	recovered := o.ended(c, "broken")
	require.False(t, recovered.Lost)
	requireOnce(t, back.receive(50, 60*time.Second), "b", 50)
	o.starter("resume", "paused", "--by", "ada", "--reason", "a test")
	again := newQueue(t, letters.name)
	done := commandJSON[operated](o, "dead", "redrive", "letters", "--all", "--by", "ada", "--reason", "a test", "--yes")
	require.EqualValues(t, 20, done.Done)
	requireOnce(t, again.receive(20, 30*time.Second), "l", 20)
	require.Zero(t, replay.ends().status)
	require.Equal(t, 1, o.count(fmt.Sprintf(`SELECT count(*) FROM outbox.operation WHERE kind = 'replay' AND outcome = 'done' AND done = %d`, n)))
	o.drained(60 * time.Second)
	require.Len(t, paused.receive(31, 30*time.Second), 31)

	counts := bodies(orders.receive(n+written, 60*time.Second))
	require.Len(t, counts, n+written)
	for body, times := range counts {
		want := 1
		if strings.HasPrefix(body, "e-") {
			want = 2 // and its replay
		}
		require.Equal(t, want, times, body)
	}
}
