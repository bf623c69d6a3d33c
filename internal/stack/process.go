package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a child in a process group of its own. So the terminal's Ctrl-C reaches only
// the parent, which decides the order in which the parts stop.
type process struct {
	cmd     *exec.Cmd
	log     string
	quit    syscall.Signal
	stopped atomic.Bool
	exited  chan struct{}
	err     error // valid once exited is closed
}

// launch starts cmd with its output in the file log. quit is the signal that
// stop sends, and that the kernel sends if this process dies first.
func launch(cmd *exec.Cmd, log string, quit syscall.Signal) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	DieWithParent(cmd, quit)
	if err := StartChild(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, quit: quit, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// stop ends the process and its group, first politely, after three seconds not.
func (p *process) stop() {
	p.stopped.Store(true)
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Signal(p.quit)
		select {
		case <-p.exited:
		case <-time.After(3 * time.Second):
		}
	}
	// The group may outlive its leader: npm's and go's helpers do.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// failure adds what the process left behind to the operation that failed.
func (p *process) failure(err error) error {
	select {
	case <-p.exited:
		err = fmt.Errorf("%w: it ended (%s)", err, p.cmd.ProcessState)
	default:
	}
	return withLog(err, p.log)
}

// run runs cmd to its end with its output in the file log, and kills it when
// ctx ends.
func run(ctx context.Context, cmd *exec.Cmd, log string) error {
	p, err := launch(cmd, log, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.stop()
		return context.Cause(ctx)
	}
	if p.err != nil {
		return withLog(p.err, log)
	}
	return nil
}

// withLog appends the last lines of a log to an error. The error stays short
// enough to read on a terminal.
func withLog(err error, log string) error {
	text, readErr := os.ReadFile(log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if readErr != nil || lines[0] == "" {
		return err
	}
	const most = 15
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return fmt.Errorf("%w\n  the end of its log:\n    | %s", err, strings.Join(lines, "\n    | "))
}

// remedy tells the reader of an error what to do.
func remedy(err error, text string) error {
	return fmt.Errorf("%w\n  remedy: %s", err, text)
}

var (
	errPortTaken = errors.New("another process took the port")
	errNotReady  = errors.New("it did not get ready")
)

func isPortTaken(err error) bool { return errors.Is(err, errPortTaken) }

// portTaken recognises a process that lost the race for its port.
func (p *process) portTaken() bool {
	text, err := os.ReadFile(p.log)
	return err == nil && strings.Contains(string(text), "ddress already in use")
}

// StartChild starts cmd from a thread that lives as long as this process. Linux
// sends the parent-death signal when the *thread* that forked ends, which for
// Go's own threads can be long before the process does.
func StartChild(cmd *exec.Cmd) error {
	result := make(chan error)
	forker() <- func() { result <- cmd.Start() }
	return <-result
}

var forker = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})
