package workers

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// politeEnd is longer than a worker takes to finish its batches and stop.
const politeEnd = 35 * time.Second

// process is a worker process with its output in a file.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

func launch(program, name, log string, env []string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the worker's log: %w", err)
	}
	defer out.Close()
	p := &process{name: name, cmd: exec.Command(program), log: log, exited: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, out, out
	// The terminal's Ctrl-C reaches the harness, and not the worker.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stack.DieWithParent(p.cmd, syscall.SIGKILL)
	if err := stack.StartChild(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// stop ends it, politely at first, and reports whether that was enough.
func (p *process) stop() bool {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return true
	case <-time.After(politeEnd):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return false
	}
}

// publishing reports whether it lives and has begun.
func (p *process) publishing() bool {
	select {
	case <-p.exited:
		return false
	default:
		return p.published()
	}
}

// published reports whether it has begun to publish at some time.
func (p *process) published() bool {
	text, err := os.ReadFile(p.log)
	return err == nil && strings.Contains(string(text), "msg=publishing")
}

// words are its last.
func (p *process) words() string {
	const most = 8
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
