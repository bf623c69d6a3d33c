package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/consume"
	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/lab/chaos/workers"
)

// Run lets things go wrong for a while, waits until nothing is left to publish, and
// judges. Its error says that the run could not be made; what the run showed is in
// the ledger.
func Run(ctx context.Context, cfg Config) (*Ledger, error) {
	cfg = cfg.withDefaults()
	b, err := newBed(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer b.close()
	b.say("seed %d, %s, %d workers, about %d events/s; the plan:", cfg.Seed, cfg.Length, cfg.Workers, cfg.Rate)
	for _, step := range cfg.Plan {
		b.say("  %s", step)
	}
	if err := b.startWorkers(ctx); err != nil {
		return nil, err
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			for _, p := range b.workers.Stop() {
				b.problem("%s", p)
			}
		}
	}
	defer stop()
	consumers := consume.Start(ctx, b.sqs, b.queuesToDrain(), b.records.received)
	defer consumers.Stop()

	producers, err := b.producersPool(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the producers' pool: %w", err)
	}
	defer producers.Close()
	l, err := load.Start(ctx, load.Config{
		Pool: producers, Topics: topics.All, Rare: cfg.rare(), Seed: cfg.Seed, Rate: cfg.Rate, Burst: cfg.Burst,
		Keep: b.records.written, Failed: b.failed,
	})
	if err != nil {
		return nil, err
	}
	if err := awaitFlow(ctx, consumers); err != nil {
		l.Stop()
		return nil, err
	}
	b.began = time.Now()
	watching, watched := context.WithCancel(ctx)
	defer watched()
	b.background.Go(func() { b.watchPauses(watching) })
	faults := b.storm(ctx, l, consumers)
	l.Stop()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	b.say("no more events and no more faults; waiting for what is left")
	drained := b.drain(ctx, consumers)
	watched()
	b.background.Wait()
	stop()
	consumers.Stop()
	facts := check.Facts{Began: b.began, Queues: b.queuesToCheck(), Faults: faults, Evidence: b.evidence(ctx)}
	facts.Faults = append(facts.Faults, b.processes...)
	facts.Refused = refused(b.failures, faults)
	if facts.Leftovers, err = b.leftovers(ctx); err != nil {
		return nil, err
	}
	if err := b.recorded(ctx, &facts); err != nil {
		return nil, err
	}
	done, err := b.operations(ctx)
	if err != nil {
		return nil, err
	}
	facts.Problems = b.problems
	return b.ledger(facts, done, drained)
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
func (b *bed) producersPool(ctx context.Context) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(b.proxied())
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 60
	return pgxpool.NewWithConfig(ctx, cfg)
}

func (b *bed) startWorkers(ctx context.Context) error {
	cfg := workers.Config{
		Program: b.dir + "/worker", Dir: b.dir, Workers: b.cfg.Workers,
		Environ: b.env.With("DATABASE_URL="+b.proxied(), "AWS_ENDPOINT_URL="+b.proxy.URL,
			"TEMPORAL_DEPLOYMENT_NAME=", "TEMPORAL_WORKER_BUILD_ID=").With(b.cfg.WorkerEnv...),
		Ended: func(process string, at time.Time) {
			b.fault(check.Fault{Kind: string(plan.Kill), Start: at, End: at, Role: check.Death, Process: process})
		},
		Stood: func(process string, from, to time.Time) {
			b.fault(check.Fault{Kind: string(plan.Stall), Start: from, End: to, Role: check.Standstill, Process: process})
		},
	}
	if b.cfg.Pinned {
		cfg.Deployment = b.token
	}
	b.workers = workers.Start(ctx, cfg)
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := b.workers.Await(ready)
	if err == nil && b.cfg.Pinned {
		err = b.starter(ctx, "promote", "--deployment", b.token, "--build-id", b.workers.Version())
	}
	if err == nil {
		err = b.starter(ctx, "schedule", "--every", runEvery.String(), "--run-for", b.cfg.runFor().String(), "--maintain-every", "2s",
			"--keep-days", keepDays)
	}
	if err != nil {
		b.workers.Stop()
	}
	return err
}

// storm is the time in which things go wrong.
func (b *bed) storm(ctx context.Context, l *load.Load, consumers *consume.Consumers) []check.Fault {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, rule := range b.cfg.Weather {
		defer b.proxy.Begin(rule)()
	}
	b.background.Go(func() { b.holdSnapshot(ctx) })
	b.background.Go(func() {
		for wait(ctx, 10*time.Second) {
			b.say("%d events committed, %d messages received", l.Committed(), consumers.Count())
		}
	})
	faults := b.perform(ctx, b.cfg.Plan)
	wait(ctx, time.Until(b.began.Add(b.cfg.Length)))
	return faults
}

// calmRate is how many events a second the relay must publish at the least when nothing
// fails any more, on a machine of two cores that the harness uses as well.
const calmRate = 250

// drain waits until nothing is left to publish nor to receive, for Config.Drain and the time
// that calmRate allows for a backlog. Operators take part: what is paused is resumed, and
// what is dead redriven.
func (b *bed) drain(ctx context.Context, consumers *consume.Consumers) time.Duration {
	began := time.Now()
	deadline := began.Add(b.cfg.Drain)
	var backlog int
	if err := b.db.QueryRow(ctx, `SELECT count(*) FROM outbox.pending`).Scan(&backlog); err != nil {
		b.say("count what is pending: %v", err)
	}
	deadline = deadline.Add(time.Duration(backlog) * time.Second / calmRate)
	b.say("%d events are pending; until %s after the load nothing may be left", backlog, deadline.Sub(began).Round(time.Second))
	for n := 0; ; n++ {
		looked := time.Now()
		left, err := b.leftovers(ctx)
		rest := max(250*time.Millisecond, time.Since(looked)) // it reads much while there is a backlog
		switch {
		case err != nil:
			b.say("%v", err)
		case len(left) == 0:
			took := time.Since(began)
			// What was published last is still to be received, and what should not come too.
			for consumers.Idle() < 3*time.Second && wait(ctx, 100*time.Millisecond) {
			}
			return took
		case n%40 == 0:
			for _, l := range left {
				b.say("left, %s: %s", l.What, l.Text)
			}
			if n > 0 {
				b.explain(ctx)
			}
		}
		if len(left) > 0 && n%8 == 0 {
			b.tidyUp(ctx)
		}
		if time.Now().After(deadline) || !wait(ctx, rest) {
			return time.Since(began)
		}
	}
}
