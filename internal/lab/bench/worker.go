package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// worker is the built worker as a process of its own.
type worker struct {
	cmd    *exec.Cmd
	ready  chan struct{}
	exited chan struct{}

	mu   sync.Mutex
	last []string // lines that it logged
}

// keptLines is how much of the worker's log an error quotes.
const keptLines = 15

// startWorker starts the worker and waits until it says that it publishes. No run
// is under way yet; environment.trigger starts one.
func (fx *fixture) startWorker(ctx context.Context, more ...string) error {
	w := &worker{
		cmd:   exec.Command(filepath.Join(fx.dir, "worker")),
		ready: make(chan struct{}), exited: make(chan struct{}),
	}
	w.cmd.Env = fx.env.With(fx.extra...).With(more...)
	log, err := w.cmd.StderrPipe()
	if err != nil {
		return err
	}
	stack.DieWithParent(w.cmd, syscall.SIGKILL)
	if err := stack.StartChild(w.cmd); err != nil {
		return fmt.Errorf("start the worker: %w", err)
	}
	fx.worker = w
	go func() {
		defer close(w.exited)
		w.read(bufio.NewScanner(log))
		_ = w.cmd.Wait()
	}()
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
	_ = w.cmd.Process.Kill()
	<-w.exited
	fx.worker = nil
	return err
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

// stop ends the worker the polite way, and then what runs.
func (fx *fixture) stop(ctx context.Context) error {
	w := fx.worker
	fx.worker = nil
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.exited:
	case <-time.After(40 * time.Second):
		_ = w.cmd.Process.Kill()
		<-w.exited
		return errors.Join(errors.New("the worker did not stop by itself"), fx.pause(ctx))
	}
	return fx.pause(ctx)
}
