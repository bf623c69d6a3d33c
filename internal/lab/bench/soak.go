package bench

import (
	"context"
	"time"

	"github.com/temporal-outbox/relay/workflows"
)

// Soak publishes at a steady rate while runs of the relay follow each other, and
// reports what was lost and where publishing stood still.
func Soak(ctx context.Context, cfg SoakConfig) (SoakReport, error) {
	cfg = cfg.withDefaults()
	r, err := newRig(ctx, cfg.Environ, cfg.WorkerEnv, cfg.Progress)
	if err != nil {
		return SoakReport{}, err
	}
	defer r.close()
	b, err := r.newBed(ctx, "soak", 1, "")
	if err != nil {
		return SoakReport{}, err
	}
	defer b.close()
	p, err := newProxy(ctx, r.environ.Get("AWS_ENDPOINT_URL"))
	if err != nil {
		return SoakReport{}, err
	}
	defer p.close()
	// The namespace was tried out with a schedule that starts a run each hour.
	if err := r.starter(ctx, r.environ, "schedule", "--every", workflows.ScheduleEvery.String()); err != nil {
		return SoakReport{}, err
	}
	if err := b.startWorker(ctx, "AWS_ENDPOINT_URL="+p.URL); err != nil {
		return SoakReport{}, err
	}
	if err := b.resume(ctx); err != nil {
		return SoakReport{}, err
	}
	began := time.Now()
	if err := b.trigger(ctx); err != nil {
		return SoakReport{}, err
	}
	receiving := r.receive(ctx, b.queues[0])
	events, err := b.soak(ctx, p, cfg)
	acknowledged, again := p.count()
	receiving.stop(acknowledged)
	if err != nil {
		return SoakReport{}, err
	}
	runs, err := r.runs(ctx, began)
	if err != nil {
		return SoakReport{}, err
	}
	if err := b.stop(ctx); err != nil {
		return SoakReport{}, err
	}
	report := judge(cfg, events, runs)
	report.PublishedAgain = again
	report.Received, report.ReceivedAgain = len(receiving.seen), receiving.again
	report.MissingAtConsumer = max(0, report.Committed-report.Received)
	if receiving.failed > 0 {
		r.note("%d of the consumer's requests failed, the last with: %v", receiving.failed, receiving.err)
	}
	report.Notes = r.notes
	return report, nil
}

// soak commits events for the configured time and waits for the last.
func (b *bed) soak(ctx context.Context, p *proxy, cfg SoakConfig) ([]published, error) {
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
				b.say("  %d of %d acknowledged", acked, n)
			}
		}
	}()
	b.say("soak: %d events at %d/s", n, cfg.Rate)
	made, err := b.produce(ctx, 0, n, cfg.Rate)
	if err != nil {
		return nil, err
	}
	// What does not come is reported as lost.
	if err := b.await(ctx, p, 0, n, ackPatience); err != nil {
		b.note("%v", err)
	}
	events := make([]published, n)
	for i, e := range made {
		events[i] = published{committed: e.committed, acked: p.when(i)}
	}
	return events, nil
}
