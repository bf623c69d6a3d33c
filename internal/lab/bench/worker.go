package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// worker is the built worker as a process of its own.
type worker struct {
	cmd     *exec.Cmd
	metrics string // the address of its metrics, if it serves any
	number  int    // in the sink's acknowledgements, of those that addWorker launched
	ready   chan struct{}
	exited  chan struct{}

	mu   sync.Mutex
	last []string // lines that it logged
}

// keptLines is how much of the worker's log an error quotes.
const keptLines = 15

// startWorker starts the worker and waits until it says that it publishes. No run
// is under way yet; environment.trigger starts one.
func (fx *fixture) startWorker(ctx context.Context, more ...string) (err error) {
	w, err := fx.launch(more...)
	if err != nil {
		return err
	}
	if err := w.publishes(ctx); err != nil {
		return err
	}
	fx.worker = w
	return nil
}

// launch starts a worker and does not wait for it. It must be stopped, or waited for with
// publishes.
func (fx *fixture) launch(more ...string) (*worker, error) {
	w := &worker{
		cmd:   exec.Command(filepath.Join(fx.dir, "worker")),
		ready: make(chan struct{}), exited: make(chan struct{}),
	}
	env := fx.env.With(fx.extra...).With(more...)
	w.cmd.Env, w.metrics = env, env.Get("OUTBOX_HTTP_ADDRESS")
	log, err := w.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	stack.DieWithParent(w.cmd, syscall.SIGKILL)
	if err := stack.StartChild(w.cmd); err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	go func() {
		defer close(w.exited)
		w.read(bufio.NewScanner(log))
		_ = w.cmd.Wait()
	}()
	return w, nil
}

// publishes waits until the worker says that it publishes. If it does not, it is killed.
func (w *worker) publishes(ctx context.Context) (err error) {
	select {
	case <-w.ready:
		return nil
	case <-w.exited:
		err = fmt.Errorf("the worker ended: %s", w.words())
	case <-time.After(30 * time.Second):
		err = fmt.Errorf("the worker does not get ready: %s", w.words())
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	w.kill()
	return err
}

// kill ends the worker at once.
func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	<-w.exited
}

// peakMiB is the most memory that the worker has had so far, 0 where there is no /proc.
func (w *worker) peakMiB() float64 {
	kib, _, _ := strings.Cut(strings.TrimSpace(field(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid), "VmHWM")), " ")
	n, _ := strconv.ParseFloat(kib, 64)
	return round(n/1024, 1)
}

func (w *worker) read(lines *bufio.Scanner) {
	ready := sync.OnceFunc(func() { close(w.ready) })
	for lines.Scan() {
		w.mu.Lock()
		if w.last = append(w.last, lines.Text()); len(w.last) > keptLines {
			w.last = w.last[1:]
		}
		w.mu.Unlock()
		if strings.Contains(lines.Text(), "msg=publishing") {
			ready()
		}
	}
}

func (w *worker) words() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.last, "\n")
}

// alive is nil as long as the worker runs.
func (w *worker) alive() error {
	select {
	case <-w.exited:
		return fmt.Errorf("the worker ended: %s", w.words())
	default:
		return nil
	}
}

// stop ends all workers the polite way, and then what runs.
func (fx *fixture) stop(ctx context.Context) error {
	workers := fx.workers()
	fx.worker, fx.others = nil, nil
	return errors.Join(terminate(workers...), fx.pause(ctx))
}

// workers are those that were started and not stopped.
func (fx *fixture) workers() []*worker {
	all := slices.Clone(fx.others)
	if fx.worker != nil {
		all = append(all, fx.worker)
	}
	return all
}

// terminate asks workers to end, and waits for them.
func terminate(workers ...*worker) (err error) {
	for _, w := range workers {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
	}
	late := time.After(40 * time.Second)
	for _, w := range workers {
		select {
		case <-w.exited:
		case <-late:
			w.kill()
			err = errors.New("a worker did not stop by itself")
		}
	}
	return err
}
