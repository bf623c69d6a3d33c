package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/consume"
	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/lab/chaos/workers"
)

// Run injects faults for a while, waits until nothing is left to publish, and checks the
// promises. Its error says that the run could not be made. The result of a run, good or
// bad, is in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	cfg = cfg.withDefaults()
	if !slices.Contains([]Batches{Shared, PerTopics, Mixed}, cfg.Batches) {
		return nil, fmt.Errorf("batches are %q: they must be %s, %s or %s", cfg.Batches, Shared, PerTopics, Mixed)
	}
	fx, err := newFixture(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer fx.close()
	fx.say("seed %d, %s, %d topics, %d workers, batches %s, about %d events/s; the plan:", cfg.Seed, cfg.Length, cfg.Topics, cfg.Workers, cfg.Batches, cfg.Rate)
	for _, step := range cfg.Plan {
		fx.say("  %s", step)
	}
	if err := fx.startWorkers(ctx); err != nil {
		return nil, err
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			for _, p := range fx.workers.Stop() {
				fx.problem("%s", p)
			}
		}
	}
	defer stop()
	consumers := consume.Start(ctx, fx.sqs, fx.queuesToDrain(), fx.observed.received)
	defer consumers.Stop()

	producers, err := fx.producersPool(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the producers' pool: %w", err)
	}
	defer producers.Close()
	l, err := load.Start(ctx, load.Config{
		Pool: producers, Topics: cfg.loaded(), Rare: cfg.rare(), Seed: cfg.Seed, Rate: cfg.Rate, Burst: cfg.Burst,
		Keep: fx.observed.written, Failed: fx.failed,
	})
	if err != nil {
		return nil, err
	}
	if err := awaitFlow(ctx, consumers); err != nil {
		l.Stop()
		return nil, err
	}
	fx.began = time.Now()
	watching, watched := context.WithCancel(ctx)
	defer watched()
	fx.background.Go(func() { fx.watchPauses(watching) })
	faults := fx.injectAll(ctx, l, consumers)
	l.Stop()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	fx.say("the load and the faults have ended; waiting until nothing is left")
	drained := fx.drain(ctx, consumers)
	watched()
	fx.background.Wait()
	stop()
	consumers.Stop()
	facts := check.Facts{Began: fx.began, Queues: fx.queuesToCheck(), Faults: faults, Evidence: fx.evidence(ctx)}
	facts.Faults = append(facts.Faults, fx.processes...)
	facts.Refused = refused(fx.failures, faults)
	if facts.Remaining, err = fx.remaining(ctx); err != nil {
		return nil, err
	}
	if err := fx.recorded(ctx, &facts); err != nil {
		return nil, err
	}
	done, err := fx.operations(ctx)
	if err != nil {
		return nil, err
	}
	facts.Problems, facts.LoneHolds = fx.problems, fx.loneHolds
	return fx.report(facts, done, drained)
}

// awaitFlow waits until something arrives. The plan's clock begins with that: on a busy
// machine workers take seconds to begin, and a short plan would be over before.
func awaitFlow(ctx context.Context, consumers *consume.Consumers) error {
	for deadline := time.Now().Add(time.Minute); consumers.Count() == 0; {
		if time.Now().After(deadline) {
			return errors.New("nothing has arrived for a minute, and nothing was made to fail yet")
		}
		if !wait(ctx, 20*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// producersPool has room for all writers: a high rate needs more of them.
func (fx *fixture) producersPool(ctx context.Context) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(fx.proxied())
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 60
	return pgxpool.NewWithConfig(ctx, cfg)
}

func (fx *fixture) startWorkers(ctx context.Context) error {
	cfg := workers.Config{
		Program: fx.dir + "/worker", Dir: fx.dir, Workers: fx.cfg.Workers,
		Environ: fx.env.With("DATABASE_URL="+fx.proxied(), "AWS_ENDPOINT_URL="+fx.proxy.URL,
			"TEMPORAL_DEPLOYMENT_NAME=", "TEMPORAL_WORKER_BUILD_ID=").With(fx.cfg.WorkerEnv...),
		Own: func(worker int) []string {
			return []string{"OUTBOX_BATCHES=" + string(fx.cfg.Batches.of(worker, fx.cfg.Workers))}
		},
		Ended: func(process string, at time.Time) {
			fx.fault(check.Fault{Kind: string(plan.Kill), Start: at, End: at, Role: check.Death, Process: process})
		},
		Stood: func(process string, from, to time.Time) {
			fx.fault(check.Fault{Kind: string(plan.Stall), Start: from, End: to, Role: check.Standstill, Process: process})
		},
	}
	if fx.cfg.Pinned {
		cfg.Deployment = fx.token
	}
	fx.workers = workers.Start(ctx, cfg)
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := fx.workers.Await(ready)
	if err == nil && fx.cfg.Pinned {
		err = fx.starter(ctx, "promote", "--deployment", fx.token, "--build-id", fx.workers.Version())
	}
	if err == nil {
		err = fx.starter(ctx, "schedule", "--every", runEvery.String(), "--run-for", fx.cfg.runFor().String(), "--maintain-every", "2s",
			"--keep-days", keepDays)
	}
	if err != nil {
		fx.workers.Stop()
	}
	return err
}

// injectAll injects the constant faults and those of the plan, and returns the latter when
// the time of the run is over.
func (fx *fixture) injectAll(ctx context.Context, l *load.Load, consumers *consume.Consumers) []check.Fault {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, rule := range fx.cfg.ConstantFaults {
		defer fx.proxy.Begin(rule)()
	}
	fx.background.Go(func() { fx.holdSnapshot(ctx) })
	fx.background.Go(func() {
		for wait(ctx, 10*time.Second) {
			fx.say("%d events committed, %d messages received", l.Committed(), consumers.Count())
		}
	})
	faults := fx.perform(ctx, fx.cfg.Plan)
	wait(ctx, time.Until(fx.began.Add(fx.cfg.Length)))
	return faults
}

// calmRate is how many events a second the relay must publish at the least when nothing
// fails any more, on a machine of two cores that the harness uses as well.
const calmRate = 250

// shownLeft is how many lines a look shows of what is left.
const shownLeft = 40

// drain waits until nothing is left to publish nor to receive, for Config.Drain and the time
// that calmRate allows for a backlog. It resumes paused topics and redrives dead letters.
func (fx *fixture) drain(ctx context.Context, consumers *consume.Consumers) time.Duration {
	began := time.Now()
	deadline := began.Add(fx.cfg.Drain)
	var backlog int
	if err := fx.db.QueryRow(ctx, `SELECT count(*) FROM outbox.pending`).Scan(&backlog); err != nil {
		fx.say("count the pending events: %v", err)
	}
	deadline = deadline.Add(time.Duration(backlog) * time.Second / calmRate)
	fx.say("%d events are pending; the drain may take %s", backlog, deadline.Sub(began).Round(time.Second))
	for n := 0; ; n++ {
		looked := time.Now()
		left, err := fx.remaining(ctx)
		rest := max(250*time.Millisecond, time.Since(looked)) // it reads much while there is a backlog
		switch {
		case err != nil:
			fx.say("%v", err)
		case len(left) == 0:
			took := time.Since(began)
			// The last messages, and any that should not come, are still to be received.
			for consumers.Idle() < 3*time.Second && wait(ctx, 100*time.Millisecond) {
			}
			return took
		case n%40 == 0:
			for i, l := range left {
				if i == shownLeft {
					fx.say("left: %d more lines", len(left)-i)
					break
				}
				fx.say("left, %s: %s", l.What, l.Text)
			}
			if n > 0 {
				fx.explain(ctx)
			}
		}
		if len(left) > 0 && n%8 == 0 {
			fx.tidyUp(ctx)
		}
		if time.Now().After(deadline) || !wait(ctx, rest) {
			return time.Since(began)
		}
	}
}
