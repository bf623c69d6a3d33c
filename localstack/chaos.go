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
		Short: "inject faults everywhere around the relay, and check that it keeps its promises",
		Long: `Starts a stack of its own and publishes events while faults happen: AWS, PostgreSQL,
Temporal and the workers fail, primaries are lost, operators pause topics, redrive,
discard and replay, and retention drops partitions. The seed decides which fault
happens when. Then waits until no event is pending, drains all queues, and checks:
  - each committed or replayed event arrived, unchanged and in order, and no other;
  - each duplicate has a cause of its own;
  - no statement of a producer failed without an injected fault;
  - retention dropped no pending or dead event;
  - nothing is stuck.
With --minutes 5 or more, runs of the relay are as long as in production.

Exits with status 0 only if every check held. Progress goes to standard error.`,
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
	f.Uint64Var(&cfg.Seed, "seed", 0, "decides the faults and the events: the same seed gives the same plan (default: a random one, which is printed)")
	f.Float64Var(&minutes, "minutes", 2, "how long faults are injected; 2 has nearly every kind of fault, 5 has every kind")
	f.BoolVar(&calm, "calm", false, "inject no fault: a failed check is then a mistake of the harness")
	f.IntVar(&cfg.Workers, "workers", 0, "worker processes (default 2)")
	f.IntVar(&cfg.Topics, "topics", 0, "topics that have their part of the events; those beyond the first four are of all kinds, and have steps of their own (default 4)")
	f.StringVar((*string)(&cfg.Batches), "batches", os.Getenv("OUTBOX_BATCHES"), "of each worker: shared, topics, or mixed: workers that are started later are of both kinds, most of them shared (default OUTBOX_BATCHES, or else mixed)")
	f.IntVar(&cfg.Rate, "rate", 0, "committed events a second, approximately (default 60)")
	return cmd
}
