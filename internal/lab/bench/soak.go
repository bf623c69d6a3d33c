package bench

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/workflows"
)

// Soak publishes at a steady rate while runs of the relay follow each other, and reports
// lost events and gaps in publishing.
func Soak(ctx context.Context, cfg SoakConfig) (SoakReport, error) {
	cfg = cfg.withDefaults()
	e, err := newEnvironment(ctx, cfg.Environ, cfg.WorkerEnv, cfg.Progress)
	if err != nil {
		return SoakReport{}, err
	}
	defer e.close()
	fx, err := e.newFixture(ctx, fixtureSpec{name: "soak"})
	if err != nil {
		return SoakReport{}, err
	}
	defer fx.close()
	p, err := newProxy(ctx, e.vars.Get("AWS_ENDPOINT_URL"))
	if err != nil {
		return SoakReport{}, err
	}
	defer p.close()
	// The namespace was tried out with a schedule that starts a run each hour.
	if err := e.starter(ctx, e.vars, "schedule", "--every", workflows.ScheduleEvery.String()); err != nil {
		return SoakReport{}, err
	}
	if err := fx.startWorker(ctx, "AWS_ENDPOINT_URL="+p.URL); err != nil {
		return SoakReport{}, err
	}
	if err := fx.resume(ctx); err != nil {
		return SoakReport{}, err
	}
	began := time.Now()
	if err := fx.trigger(ctx); err != nil {
		return SoakReport{}, err
	}
	receiving := e.receive(ctx, fx.queues[0])
	events, err := fx.soak(ctx, p, cfg)
	acknowledged, again := p.count()
	receiving.stop(acknowledged)
	if err != nil {
		return SoakReport{}, err
	}
	runs, err := e.runs(ctx, began)
	if err != nil {
		return SoakReport{}, err
	}
	if err := fx.stop(ctx); err != nil {
		return SoakReport{}, err
	}
	report := judge(cfg, events, runs)
	report.PublishedAgain = again
	report.Received, report.ReceivedAgain = len(receiving.seen), receiving.again
	report.MissingAtConsumer = max(0, report.Committed-report.Received)
	if receiving.failed > 0 {
		e.note("%d of the consumer's requests failed, the last with: %v", receiving.failed, receiving.err)
	}
	report.Notes = e.notes
	return report, nil
}

// soak commits events for the configured time and waits for the last.
func (fx *fixture) soak(ctx context.Context, p *proxy, cfg SoakConfig) ([]published, error) {
	n := int(cfg.For.Seconds() * float64(cfg.Rate))
	told := make(chan struct{})
	defer close(told)
	go func() {
		for every := time.NewTicker(30 * time.Second); ; {
			select {
			case <-told:
				every.Stop()
				return
			case <-every.C:
				acked, _ := p.count()
				fx.say("  %d of %d acknowledged", acked, n)
			}
		}
	}()
	fx.say("soak: %d events at %d/s", n, cfg.Rate)
	made, err := fx.produce(ctx, 0, n, cfg.Rate)
	if err != nil {
		return nil, err
	}
	// An event that does not come is reported as lost.
	if err := fx.await(ctx, p, 0, n, ackPatience); err != nil {
		fx.note("%v", err)
	}
	events := make([]published, n)
	for i, e := range made {
		events[i] = published{committed: e.committed, acked: p.when(i)}
	}
	return events, nil
}
