package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/lab/chaos"
	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/stack"
)

func chaosCommand() *cobra.Command {
	var cfg chaos.Config
	var minutes float64
	var asJSON, calm bool
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "let everything around the relay fail, and prove that it keeps its promises",
		Long: `Starts a stack of its own and publishes through it while AWS, PostgreSQL, Temporal
and the workers fail in every way that the harness knows, primaries are lost,
operators pause topics, redrive, discard and replay, and retention drops what it
may, by a plan that follows from the seed. Then waits until nothing is left, drains
all queues, and checks that everything committed or replayed arrived, in order and
as it was written, and nothing else; that each duplicate has a cause of its own; that
no producer was refused; that retention took nothing that was needed; that nothing
is stuck. From 5 minutes on, runs of the relay are as long as in production.

Ends with status 0 only if every check held. Progress goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				cfg.Seed = rand.Uint64N(1_000_000)
			}
			cfg.Length = time.Duration(minutes * float64(time.Minute))
			if calm {
				cfg.Plan, cfg.ConstantFaults = []plan.Step{}, []faults.Rule{}
			}
			return withStack(cmd.Context(), chaos.StackOptions(os.Getenv, os.Stderr), func(ctx context.Context, s *stack.Stack) error {
				cfg.Stack, cfg.Progress, cfg.Pinned = s, os.Stderr, true
				report, err := chaos.Run(ctx, cfg)
				if err != nil {
					return asked(ctx, err)
				}
				if asJSON {
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
				} else {
					report.Print(cmd.OutOrStdout())
				}
				if err == nil && !report.OK {
					return exitStatus(1)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	f.Uint64Var(&cfg.Seed, "seed", 0, "what the plan and the events follow from (default random, and printed)")
	f.Float64Var(&minutes, "minutes", 2, "how long things go wrong; from 2 on nearly every kind of fault has its turn, from 5 on every kind")
	f.BoolVar(&calm, "calm", false, "nothing goes wrong: shows that the harness itself is sound")
	f.IntVar(&cfg.Workers, "workers", 0, "worker processes (default 2)")
	f.IntVar(&cfg.Rate, "rate", 0, "events committed a second, about (default 60)")
	return cmd
}
