package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/stack"
)

// interruption is the cause of a context that a signal ended.
type interruption struct{ sig syscall.Signal }

func (i interruption) Error() string { return "interrupted: " + i.sig.String() }

// status is what a shell reports for a program that the signal ended.
func (i interruption) status() exitStatus { return exitStatus(128 + int(i.sig)) }

// signals delivers each request to end: Ctrl-C, SIGTERM, a closed terminal, and the
// death of the `go run` that started this process, because `go run` passes no signal
// on. Until the returned function is called, none of them ends this process before it
// has cleaned up.
func signals() (<-chan syscall.Signal, func()) {
	raw := make(chan os.Signal, 4)
	signal.Notify(raw, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signal.Notify(raw, syscall.SIGHUP)
	}
	out, end := make(chan syscall.Signal, 4), make(chan struct{})
	go func() {
		parent := os.Getppid()
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case sig := <-raw:
				out <- sig.(syscall.Signal) //nolint:errcheck // all signals are, on Unix
			case <-tick.C:
				if underGoRun() && os.Getppid() != parent {
					parent = os.Getppid()
					out <- syscall.SIGTERM
				}
			case <-end:
				return
			}
		}
	}()
	return out, func() { signal.Stop(raw); close(end) }
}

// underGoRun tells a program that `go run` built from an installed one, whose
// parent may go while it stays.
func underGoRun() bool {
	path, err := os.Executable()
	return err == nil && strings.Contains(path, "go-build")
}

// withStack starts a stack, calls fn with a context that a signal or the end of
// one of the stack's parts ends, and stops the stack in any case.
func withStack(ctx context.Context, opt stack.Options, fn func(context.Context, *stack.Stack) error) error {
	asked, done := signals()
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case sig := <-asked:
			cancel(interruption{sig})
		case <-ctx.Done():
		}
	}()
	s, err := start(ctx, opt)
	if err != nil {
		return err
	}
	defer s.Stop()
	go func() {
		select {
		case <-s.Done():
			cancel(s.Err())
		case <-ctx.Done():
		}
	}()
	err = fn(ctx, s)
	if died := s.Err(); died != nil {
		return died
	}
	return err
}

// start starts a stack; interrupted, it fails with the signal's exit status.
func start(ctx context.Context, opt stack.Options) (*stack.Stack, error) {
	s, err := stack.Start(ctx, opt)
	var why interruption
	if err != nil && errors.As(context.Cause(ctx), &why) {
		fmt.Fprintln(os.Stderr, "localstack: "+why.Error()+", stopped what had started")
		return nil, why.status()
	}
	return s, err
}
