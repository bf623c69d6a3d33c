// Command interop runs a command against LocalStack itself, so that what passes
// on the everyday emulator is also seen to pass on a second one.
//
//	go run ./internal/lab/interop -- go test ./internal/publish/
//
// It exports AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY, plus INTEROP=localstack for tests that measure the
// emulator itself, runs the command, stops LocalStack and exits with the
// command's status: 128 and the signal's number if a signal ended the command,
// 1 if LocalStack cannot be started.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/temporal-outbox/relay/internal/lab/interop/community"
)

// grace is how long the command has to end after it was asked to.
const grace = 30 * time.Second

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: interop [--] CMD...")
		os.Exit(2)
	}
	status, err := run(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "interop: %v\n", err)
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	emulator, err := community.Start(ctx, community.Options{})
	if err != nil {
		return 1, err
	}
	defer emulator.Stop()
	fmt.Fprintf(os.Stderr, "interop: LocalStack %s at %s, ready in %.1f s\n",
		community.Version, emulator.Endpoint, time.Since(began).Seconds())

	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // running it is what this is for
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	cmd.Env = append(os.Environ(), emulator.Env()...)
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, fmt.Errorf("run %s: %w", args[0], err)
	}
	return 0, nil
}
