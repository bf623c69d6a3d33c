package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/stack"
)

func upCommand() *cobra.Command {
	var only []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "start the stack, print its addresses, and keep it until you press Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStack(cmd.Context(), stack.Options{Only: parts(only)}, up)
		},
	}
	onlyFlag(cmd, &only)
	return cmd
}

// up prints export lines to standard output, and the text for people to standard
// error, so that `up >env.sh` makes a file to source.
func up(ctx context.Context, s *stack.Stack) error {
	for _, kv := range s.Env() {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Printf("export %s=%s\n", name, shellQuote(value))
	}
	fmt.Fprintln(os.Stderr, "\nready:")
	for _, line := range s.About() {
		fmt.Fprintln(os.Stderr, "  "+line)
	}
	fmt.Fprintln(os.Stderr, "\nPaste the export lines into each shell that uses the stack. Ctrl-C stops the stack and removes its data.")
	<-ctx.Done()
	var why interruption
	if errors.As(context.Cause(ctx), &why) {
		return nil // this is how it is meant to end
	}
	return context.Cause(ctx)
}

// shellQuote leaves plain words readable and quotes the rest.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+,=", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func onlyFlag(cmd *cobra.Command, only *[]string) {
	cmd.Flags().StringSliceVar(only, "only", nil, "start only these parts: postgres, temporal, aws (default all)")
}

func parts(names []string) []stack.Part {
	var parts []stack.Part
	for _, name := range names {
		parts = append(parts, stack.Part(name))
	}
	return parts
}
