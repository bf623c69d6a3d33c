package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// programs is the folder of the built worker and starter.
var programs string

// parallel is how many tests run beside each other, unless the command line says it. Most of them wait
// for leases, pauses and polls.
const parallel = "4"

// A test calls t.Parallel, unless it bounds how long something takes, how fast it goes or how much memory
// it needs, or changes what the process has. go test runs those that do not call it first, each alone.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		flag.Parse()
		isSet := false
		flag.Visit(func(f *flag.Flag) { isSet = isSet || f.Name == "test.parallel" })
		if !isSet {
			if err := flag.Set("test.parallel", parallel); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		dir, err := os.MkdirTemp("", "e2e")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		programs = dir
		build := exec.Command("go", "build", "-o", dir, "../../worker", "../../starter")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// outbox is one outbox with its own database, task queue and schedule.
type outbox struct {
	t     *testing.T
	db    *pgxpool.Pool
	url   string
	queue string // task queue, and the schedule's id
	env   []string
	// programs is the folder of its worker and starter: the global one, unless a test
	// runs those of another version.
	programs string
}

// newOutbox migrates a database and routes topics; config is OUTBOX_CONFIG's
// text.
func newOutbox(t *testing.T, config string) *outbox {
	t.Helper()
	testenv.Temporal(t) // skips where there is none
	return newOutboxAt(t, testenv.DatabaseURL(t), config)
}

// newOutboxAt is newOutbox in a database that is migrated already.
func newOutboxAt(t *testing.T, url, config string) *outbox {
	t.Helper()
	o := &outbox{t: t, url: url, queue: testenv.TaskQueue(t), programs: programs}
	var err error
	o.db, err = pgxpool.New(t.Context(), o.url)
	require.NoError(t, err)
	t.Cleanup(o.db.Close)
	file := filepath.Join(t.TempDir(), "outbox.yaml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	o.env = append(os.Environ(), "DATABASE_URL="+o.url, "OUTBOX_CONFIG="+file, "OUTBOX_TASK_QUEUE="+o.queue,
		"TEMPORAL_DEPLOYMENT_NAME=", "TEMPORAL_WORKER_BUILD_ID=")
	return o
}

// starter runs the starter and returns what it prints.
func (o *outbox) starter(args ...string) string {
	o.t.Helper()
	out, err := o.tryStarter(args...)
	require.NoError(o.t, err, out)
	return out
}

func (o *outbox) tryStarter(args ...string) (string, error) {
	cmd := exec.CommandContext(o.t.Context(), filepath.Join(o.programs, "starter"), args...)
	cmd.Env = o.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// schedule starts the relay's runs, and stops them when the test ends.
func (o *outbox) schedule(args ...string) {
	o.t.Helper()
	o.starter(append([]string{"schedule", "--maintain-every", "0"}, args...)...)
	o.unschedule(o.queue)
	o.unschedule(o.queue + "-maintenance")
}

// unschedule deletes a schedule when the test ends, and ends all runs.
func (o *outbox) unschedule(id string) {
	c := testenv.Temporal(o.t)
	o.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.ScheduleClient().GetHandle(ctx, id).Delete(ctx)
		for _, run := range o.runs(ctx, c) {
			if run.open() {
				_ = c.TerminateWorkflow(ctx, run.id, run.runID, "the test is over")
			}
		}
	})
}

// worker is a worker process.
type worker struct {
	t    *testing.T
	cmd  *exec.Cmd
	http string
	done chan struct{}
	err  error

	mu  sync.Mutex
	log bytes.Buffer
}

func (w *worker) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *worker) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// work starts a worker and waits until it publishes.
func (o *outbox) work(env ...string) *worker {
	o.t.Helper()
	w := o.startWorker(env...)
	testenv.Eventually(o.t, 30*time.Second, func() error {
		select {
		case <-w.done:
			o.t.Fatalf("the worker ended: %v\n%s", w.err, w.text())
		default:
		}
		if !strings.Contains(w.text(), "msg=publishing") {
			return errors.New("the worker is not publishing yet")
		}
		return nil
	})
	return w
}

func (o *outbox) startWorker(env ...string) *worker {
	o.t.Helper()
	w := &worker{t: o.t, http: freeAddress(o.t), done: make(chan struct{})}
	w.cmd = exec.Command(filepath.Join(o.programs, "worker"))
	w.cmd.Env = slices.Concat(o.env, []string{"OUTBOX_HTTP_ADDRESS=" + w.http}, env)
	w.cmd.Stdout, w.cmd.Stderr = w, w
	require.NoError(o.t, w.cmd.Start())
	go func() {
		w.err = w.cmd.Wait()
		close(w.done)
	}()
	o.t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.done
		if o.t.Failed() {
			o.t.Logf("worker %d:\n%s", w.cmd.Process.Pid, w.text())
		}
	})
	return w
}

// firstPort and lastPort are outside of the range from which systems take ports by themselves.
const firstPort, lastPort = 20000, 30000

var nextPort atomic.Int64

func init() { nextPort.Store(rand.Int64N(lastPort - firstPort)) }

// freeAddress is an address for a process to listen on. Nothing else takes it until the process begins.
func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		address := fmt.Sprint("127.0.0.1:", firstPort+nextPort.Add(1)%(lastPort-firstPort))
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, l.Close())
		return address
	}
}

// stop sends SIGTERM and waits for a clean end.
func (w *worker) stop() {
	w.t.Helper()
	require.NoError(w.t, w.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-w.done:
		require.NoError(w.t, w.err, w.text())
	case <-time.After(40 * time.Second):
		w.t.Fatalf("the worker did not stop:\n%s", w.text())
	}
}

// kill sends SIGKILL.
func (w *worker) kill() {
	w.t.Helper()
	require.NoError(w.t, w.cmd.Process.Kill())
	<-w.done
}

func (o *outbox) exec(sql string, args ...any) {
	o.t.Helper()
	_, err := o.db.Exec(o.t.Context(), sql, args...)
	require.NoError(o.t, err)
}

func (o *outbox) count(sql string) (n int) {
	o.t.Helper()
	require.NoError(o.t, o.db.QueryRow(o.t.Context(), sql).Scan(&n))
	return n
}

func (o *outbox) pending() int { return o.count(`SELECT count(*) FROM outbox.pending`) }

// drained waits until nothing is pending.
func (o *outbox) drained(within time.Duration) {
	o.t.Helper()
	testenv.Eventually(o.t, within, func() error {
		if n := o.pending(); n > 0 {
			return fmt.Errorf("%d events are pending", n)
		}
		return nil
	})
}

// write inserts n events with payloads "prefix-1" and so on, spread over keys.
func (o *outbox) write(topic, prefix string, n, keys int) {
	o.t.Helper()
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT $1, 'key-' || i % $4, 'Tested', $2 || '-' || i FROM generate_series(1, $3::int) i`, topic, prefix, n, keys)
}
