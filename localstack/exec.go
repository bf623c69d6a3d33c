package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/temporal-outbox/relay/internal/stack"
)

// grace is how long CMD may take to end once its stack is gone.
const grace = 10 * time.Second

func execCommand() *cobra.Command {
	var only []string
	cmd := &cobra.Command{
		Use:   "exec [--only PARTS] -- CMD...",
		Short: "start the stack, run CMD with its addresses, stop the stack, and exit with CMD's status",
		Long: `Starts the stack and runs CMD. Sets DATABASE_URL, TEMPORAL_ADDRESS, TEMPORAL_UI_URL,
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for CMD.
CMD has this command's standard input, output and error. SIGINT and SIGTERM are
passed on to CMD.

Exits with CMD's status; with 128 plus the signal's number if a signal ended CMD;
with 1 if the stack fails. (go run turns each status except 0 into 1. If you need
the number, build this command first.)`,
		Example: "  go run ./localstack exec -- go test ./...\n  go run ./localstack exec --only postgres -- sh -c 'psql $DATABASE_URL'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInStack(cmd.Context(), stack.Options{Only: parts(only)}, args)
		},
	}
	cmd.Flags().SetInterspersed(false) // CMD's flags are its own
	onlyFlag(cmd, &only)
	return cmd
}

func runInStack(ctx context.Context, opt stack.Options, args []string) error {
	asked, done := signals()
	defer done()
	s, err := startUnlessAsked(ctx, opt, asked)
	if err != nil {
		return err
	}
	defer s.Stop()

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = s.Environ()
	stack.DieWithParent(cmd, syscall.SIGKILL)
	if err := stack.StartChild(cmd); err != nil {
		fmt.Fprintf(os.Stderr, "localstack: start %s: %v\n", args[0], err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exitStatus(127) // what shells say
		}
		return exitStatus(126)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	stackGone, kill := s.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case err := <-ended:
			if died := s.Err(); died != nil {
				return died
			}
			return statusOf(cmd, err)
		case sig := <-asked:
			// A terminal has sent its Ctrl-C to CMD as well.
			if sig != syscall.SIGINT || !inForeground() {
				_ = cmd.Process.Signal(sig)
			}
		case <-stackGone:
			fmt.Fprintf(os.Stderr, "localstack: %v\nlocalstack: stopping %s\n", s.Err(), args[0])
			_ = cmd.Process.Signal(syscall.SIGTERM)
			stackGone, kill = nil, time.After(grace)
		case <-kill:
			_ = cmd.Process.Kill()
		}
	}
}

// startUnlessAsked starts the stack and gives up at the first signal.
func startUnlessAsked(ctx context.Context, opt stack.Options, asked <-chan syscall.Signal) (*stack.Stack, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	started, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case sig := <-asked:
			cancel(interruption{sig})
		case <-started:
		}
	}()
	s, err := start(ctx, opt)
	close(started)
	<-watched
	var why interruption
	if err == nil && errors.As(context.Cause(ctx), &why) {
		s.Stop() // asked just as it became ready
		return nil, why.status()
	}
	return s, err
}

// inForeground is true if this process's group, to which CMD belongs, is the one
// that the terminal's keys send signals to.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == syscall.Getpgrp()
}

// statusOf is the status that a shell would report.
func statusOf(cmd *exec.Cmd, err error) error {
	if err == nil {
		return nil
	}
	state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok || cmd.ProcessState == nil:
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	case state.Signaled():
		return exitStatus(128 + int(state.Signal()))
	default:
		return exitStatus(state.ExitStatus())
	}
}
