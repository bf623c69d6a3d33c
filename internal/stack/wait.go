package stack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// freePort asks the kernel for a port that no process uses at this moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil //nolint:errcheck // a TCP listener has a TCP address
}

// withPorts calls start with free ports. If another process takes one of them first, it
// tries again, five times at most.
func (s *Stack) withPorts(n int, start func(ports []int) (*service, error)) (svc *service, err error) {
	for range 5 {
		ports := make([]int, n)
		for i := range ports {
			if ports[i], err = s.freePort(); err != nil {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
		}
		svc, err = start(ports)
		if err == nil || !isPortTaken(err) {
			return svc, err
		}
	}
	return nil, err
}

// ready calls probe until it succeeds, the process ends, or limit passes.
// proc is nil for a part that was not started here.
func ready(ctx context.Context, proc *process, limit time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	exited := make(<-chan struct{})
	if proc != nil {
		exited = proc.exited
	}
	deadline, _ := ctx.Deadline()
	var last error
	for {
		err := try(ctx, exited, probe)
		select {
		case <-exited:
			if proc.portTaken() {
				return fmt.Errorf("%w: %w", errPortTaken, proc.failure(errNotReady))
			}
			return proc.failure(errNotReady)
		default:
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() == nil && time.Now().Before(deadline):
			last = err // the last one before the limit says more than the limit does
		}
		select {
		case <-exited:
		case <-ctx.Done():
			err := context.Cause(ctx)
			if last != nil {
				err = fmt.Errorf("%w: %w", err, last)
			}
			if proc != nil {
				err = proc.failure(err)
			}
			return err
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// try gives a probe three seconds, and less if the process ends meanwhile: another process
// that took its port may accept connections and never answer.
func try(ctx context.Context, exited <-chan struct{}, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-exited:
			cancel()
		case <-done:
		}
	}()
	return probe(ctx)
}

// firstLine reads what a process says first.
func firstLine(ctx context.Context, r io.Reader, limit time.Duration) (string, error) {
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(r).ReadString('\n')
		answers <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(limit):
		return "", fmt.Errorf("no answer within %s", limit)
	}
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
