package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// Exit statuses. Scripts rely on them.
const (
	exitFailed  = 1 // the database or Temporal did not do it, or it was not confirmed
	exitUsage   = 2 // invalid usage: nothing was changed
	exitNothing = 3 // nothing matches: nothing was changed
)

// exitError is an error with a status of its own.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func misuse(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func nothing(format string, args ...any) error {
	return &exitError{exitNothing, fmt.Errorf(format, args...)}
}

func exitStatus(err error) int {
	var e *exitError
	if errors.As(err, &e) {
		return e.status
	}
	return exitFailed
}

// arguments checks positional arguments as cobra does, and says what belongs there.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return misuse("%w: usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}
