package bench

import (
	"context"
	"slices"
	"time"
)

const (
	// warmUp is published before anything is measured.
	warmUp = 2 * time.Second
	// ackPatience is how long an event of a steady flow may take.
	ackPatience = 30 * time.Second
)

// latency publishes at a steady rate and measures from the return of each commit
// to the moment at which the queue's answer passes the proxy, both by this
// process's clock.
func (r *rig) latency(ctx context.Context, perSecond int, lasting time.Duration) (*LatencyResult, *Percentiles, error) {
	b, err := r.newBed(ctx, "latency", 1, "")
	if err != nil {
		return nil, nil, err
	}
	defer b.close()
	p, err := newProxy(ctx, r.environ.Get("AWS_ENDPOINT_URL"))
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	if err := b.settleDown(ctx); err != nil {
		return nil, nil, err
	}
	if err := b.startWorker(ctx, "AWS_ENDPOINT_URL="+p.URL); err != nil {
		return nil, nil, err
	}
	if err := b.resume(ctx); err != nil {
		return nil, nil, err
	}
	if err := b.trigger(ctx); err != nil {
		return nil, nil, err
	}
	before := int(warmUp.Seconds() * float64(perSecond))
	if _, err := b.produce(ctx, 0, before, perSecond); err != nil {
		return nil, nil, err
	}
	if err := b.await(ctx, p, 0, before, ackPatience); err != nil {
		return nil, nil, err
	}
	n := int(lasting.Seconds() * float64(perSecond))
	r.say("  %d events at %d/s", n, perSecond)
	cpu, began := readCPU(), time.Now()
	events, err := b.produce(ctx, before, n, perSecond)
	if err != nil {
		return nil, nil, err
	}
	ended, used := time.Now(), readCPU().since(cpu)
	if err := b.await(ctx, p, before, n, ackPatience); err != nil {
		return nil, nil, err
	}
	if err := b.stop(ctx); err != nil {
		return nil, nil, err
	}
	work, err := r.work(ctx, began, ended)
	if err != nil {
		return nil, nil, err
	}
	var waits, commits []time.Duration
	for i, e := range events {
		waits = append(waits, p.when(before+i).Sub(e.committed))
		commits = append(commits, e.committed.Sub(e.began))
	}
	slices.Sort(commits)
	found := percentiles(waits)
	r.say("  commit to acknowledged: median %.1f ms, p99 %.1f ms", found.P50, found.P99)
	return &LatencyResult{
		Rate: perSecond, Seconds: lasting.Seconds(), Events: n, CommitMS: millis(percentile(commits, 0.5)),
		ActivitiesPer1000: round(float64(work.activities)*1000/float64(n), 1),
		RequestsPer1000:   round(float64(work.requests)*1000/float64(n), 1),
		CPUSeconds:        used,
	}, &found, nil
}
