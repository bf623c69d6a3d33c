package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/temporal-outbox/relay/internal/lab/bench"
	"github.com/temporal-outbox/relay/internal/stack"
)

func benchCommand() *cobra.Command {
	var cfg bench.Config
	var only []string
	var asJSON bool
	var table string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure throughput, latency and their cost, and compare them with the limit of this machine",
		Long: `Measures the relay with the real worker and schedule on the local stack. Each row of the
table of goals is measured beside its ceiling in the same run:
  topic1, fill  one topic at 100 events/s, and one that waits for fuller requests
  topics20      20 topics at 20 events/s each: from the commit to the destination's answer
  topics50      50 topics at 20 events/s each, and the processor time beside bare requests
  topics200     200 topics, an event each 5 s
  topics1000    1,000 topics, an event each 5 s; 20 of them busy at 50/s
  drain         how fast a backlog is published, beside the bare AWS SDK and a tuned
                home-made poller on the same emulator
  sink          the same with the benchmark's own destination
  delay-sqs, delay-sns, delay-fifo
                the drain into a destination that answers after 15 ms
  payload8, payload64, payload200, payload200x4
                the drain of events of 8, 64 and 200 KiB, and the worker's memory
  hotkey        a key of a FIFO queue that gets more events than it can publish
  kill          SIGKILL of one of two workers: the longest gaps
  replace       four workers stop while two start: the longest gap
  held, held200 the drain beside an open reader, and an open writer of another table,
                with one topic and with 200
  backlog       the first event after the destination is back
Other measurements:
  topics        the drain over many topics
  snapshot      the drain while a transaction holds a snapshot
  fifo          one key of a FIFO queue
  receipts      the drain of a topic that keeps receipts
  writer        how long claims and loads take after many events were published while
                another transaction was open
  latency       the time from a commit to the destination's answer, one topic

Takes about 25 minutes, and some hours with --full and several --runs. Choose with
--only. Progress goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range only {
				cfg.Only = append(cfg.Only, bench.Part(name))
			}
			return withStack(cmd.Context(), stack.Options{}, func(ctx context.Context, s *stack.Stack) error {
				cfg.Environ, cfg.Progress = s.Environ(), os.Stderr
				report, err := bench.Run(ctx, cfg)
				if ctx.Err() != nil || err != nil && len(report.Rows) == 0 {
					return asked(ctx, err)
				}
				if printErr := printReport(cmd.OutOrStdout(), report, asJSON, table); printErr != nil {
					return errors.Join(err, printErr)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	f.StringVar(&table, "table", "", "with --json, also write the table for people to this file")
	f.StringSliceVar(&only, "only", nil, "measure only these, such as topics20,drain,latency (default all)")
	f.IntVar(&cfg.Runs, "runs", 0, "how often each row is measured; the report has medians and ranges (default 1)")
	f.BoolVar(&cfg.Full, "full", false, "measure for longer, with more events")
	f.IntVar(&cfg.Pending, "pending", 0, "pending events of the row backlog (default 100000, 3000000 with --full)")
	f.IntVar(&cfg.Events, "events", 0, "events in the backlog of a drain (default 100000)")
	f.IntVar(&cfg.Meanwhile, "meanwhile", 0, "events that are published while a transaction is open (default 100000, 1000000 with --full)")
	f.IntVar(&cfg.Rate, "rate", 0, "events a second while latency is measured (default 100)")
	f.DurationVar(&cfg.RateFor, "rate-for", 0, "how long latency is measured (default 20s)")
	f.StringArrayVar(&cfg.WorkerEnv, "worker-env", nil, "KEY=VALUE for the worker's environment")
	return cmd
}

func soakCommand() *cobra.Command {
	var cfg bench.SoakConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "publish at a steady rate and look for gaps where runs follow each other",
		Long: `Publishes at a steady rate on the local stack and ends with status 1 if an event
was lost, if nothing was acknowledged for half a second while an event waited, or
if a run of the relay failed, timed out or was terminated.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStack(cmd.Context(), stack.Options{}, func(ctx context.Context, s *stack.Stack) error {
				cfg.Environ, cfg.Progress = s.Environ(), os.Stderr
				report, err := bench.Soak(ctx, cfg)
				if err != nil {
					return asked(ctx, err)
				}
				if asJSON {
					err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
				} else {
					report.Print(cmd.OutOrStdout())
				}
				if err == nil && !report.OK() {
					return exitStatus(1)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	f.IntVar(&cfg.Rate, "rate", 0, "events a second (default 200)")
	f.DurationVar(&cfg.For, "for", 0, "how long to publish (default 10m)")
	f.StringArrayVar(&cfg.WorkerEnv, "worker-env", nil, "KEY=VALUE for the worker's environment")
	return cmd
}

func costCommand() *cobra.Command {
	var cfg bench.CostConfig
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "count Temporal's actions and AWS requests at several rates and lingers",
		Long: `Publishes at steady rates on the local stack, with and without the starter's --linger.
Counts Temporal's actions (with heartbeats) and the requests to the destination:
Temporal Cloud and AWS bill for them. Takes about fifteen minutes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStack(cmd.Context(), stack.Options{}, func(ctx context.Context, s *stack.Stack) error {
				cfg.Environ, cfg.Progress = s.Environ(), os.Stderr
				report, err := bench.Cost(ctx, cfg)
				if err != nil {
					return asked(ctx, err)
				}
				if asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
				}
				report.Print(cmd.OutOrStdout())
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print one JSON object")
	f.IntSliceVar(&cfg.Rates, "rates", nil, "events a second (default 0,1,10,100,500)")
	f.DurationSliceVar(&cfg.Lingers, "lingers", nil, "how long events may wait for a page to fill (default 0s,100ms,1s)")
	f.DurationVar(&cfg.For, "for", 0, "how long to count at each rate and linger (default 30s)")
	return cmd
}

// printReport prints a report as JSON or as a table, and writes the table to a file too if it is
// named.
func printReport(out io.Writer, report bench.Report, asJSON bool, table string) error {
	if !asJSON {
		report.Print(out)
		return nil
	}
	if table != "" {
		var text bytes.Buffer
		report.Print(&text)
		if err := os.WriteFile(table, text.Bytes(), 0o644); err != nil { //nolint:gosec // others may read it
			return err
		}
	}
	return json.NewEncoder(out).Encode(report)
}

// asked turns an error that a signal caused into that signal's exit status.
func asked(ctx context.Context, err error) error {
	var why interruption
	if errors.As(context.Cause(ctx), &why) {
		return why.status()
	}
	return err
}
