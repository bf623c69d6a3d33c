package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// runQuietly runs a program and shows its output only if it fails.
func runQuietly(ctx context.Context, program string, args ...string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), args[0], err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// runShop runs the shop in the foreground. When ctx ends it is asked to stop.
func runShop(ctx context.Context, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	stack.DieWithParent(cmd, syscall.SIGKILL)
	if err := stack.StartChild(cmd); err != nil {
		return fmt.Errorf("start the shop: %w", err)
	}
	var err error
	ended := make(chan struct{})
	go func() {
		err = cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return statusOf(cmd, err) // it has explained itself
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-ended:
	case <-time.After(grace):
		_ = cmd.Process.Kill()
		<-ended
	}
	return context.Cause(ctx)
}

// workerStop is how long the worker may take to finish its batches and stop.
const workerStop = 15 * time.Second

var errWorkerEnded = errors.New("the worker ended by itself")

// workerProcess is the real worker, with its output in a file.
type workerProcess struct {
	cmd     *exec.Cmd
	log     string
	stopped atomic.Bool
	ended   chan struct{}
}

func startWorker(program, log string) (*workerProcess, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the worker's log: %w", err)
	}
	defer out.Close()
	w := &workerProcess{cmd: exec.Command(program), log: log, ended: make(chan struct{})}
	w.cmd.Stdout, w.cmd.Stderr = out, out
	// The worker has a process group of its own. So the terminal's Ctrl-C does not reach
	// it, and it still publishes while the shop stops.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stack.DieWithParent(w.cmd, syscall.SIGTERM)
	if err := stack.StartChild(w.cmd); err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	go func() {
		_ = w.cmd.Wait()
		close(w.ended)
	}()
	return w, nil
}

// failure says how the worker ended; nil if it was asked to. ended is closed.
func (w *workerProcess) failure() error {
	if w.stopped.Load() {
		return nil
	}
	text, _ := os.ReadFile(w.log)
	return fmt.Errorf("%w (%s); the end of its log %s:\n%s",
		errWorkerEnded, w.cmd.ProcessState, w.log, lastLines(string(text)))
}

func (w *workerProcess) stop() {
	w.stopped.Store(true)
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-w.ended:
	case <-time.After(workerStop):
		_ = w.cmd.Process.Kill()
		<-w.ended
	}
}

// lastLines is the end of a log, set apart from what stands around it.
func lastLines(text string) string {
	const most = 20
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return "    | " + strings.Join(lines, "\n    | ")
}
