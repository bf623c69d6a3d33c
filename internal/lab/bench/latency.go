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

// latency publishes at a steady rate, which may be 0, and measures from the return of each commit
// to the moment at which the queue's answer passes the proxy, both by this
// process's clock.
func (e *environment) latency(ctx context.Context, perSecond int, lasting time.Duration) (*LatencyResult, *Percentiles, error) {
	fx, err := e.newFixture(ctx, fixtureSpec{name: "latency"})
	if err != nil {
		return nil, nil, err
	}
	defer fx.close()
	p, err := newProxy(ctx, e.vars.Get("AWS_ENDPOINT_URL"))
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	if err := fx.settleDown(ctx); err != nil {
		return nil, nil, err
	}
	metrics, err := freeAddress()
	if err != nil {
		return nil, nil, err
	}
	if err := fx.startWorker(ctx, "AWS_ENDPOINT_URL="+p.URL, "OUTBOX_HTTP_ADDRESS="+metrics); err != nil {
		return nil, nil, err
	}
	if err := fx.resume(ctx); err != nil {
		return nil, nil, err
	}
	if err := fx.trigger(ctx); err != nil {
		return nil, nil, err
	}
	before := int(warmUp.Seconds() * float64(perSecond))
	if _, err := fx.produce(ctx, 0, before, perSecond); err != nil {
		return nil, nil, err
	}
	if err := fx.await(ctx, p, 0, before, ackPatience); err != nil {
		return nil, nil, err
	}
	n := int(lasting.Seconds() * float64(perSecond))
	e.say("  %d events at %d/s", n, perSecond)
	counted, err := readCounts(ctx, metrics)
	if err != nil {
		return nil, nil, err
	}
	cpu, began := readCPU(), time.Now()
	events, err := fx.produce(ctx, before, n, perSecond)
	if err == nil && perSecond == 0 {
		err = sleep(ctx, lasting)
	}
	if err != nil {
		return nil, nil, err
	}
	ended, used := time.Now(), readCPU().since(cpu)
	end, err := readCounts(ctx, metrics)
	if err != nil {
		return nil, nil, err
	}
	sent := end.since(counted)
	if err := fx.await(ctx, p, before, n, ackPatience); err != nil {
		return nil, nil, err
	}
	if err := fx.stop(ctx); err != nil {
		return nil, nil, err
	}
	work, err := e.work(ctx, began, ended)
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
	e.say("  commit to acknowledged: median %.1f ms, p99 %.1f ms", found.P50, found.P99)
	seconds := ended.Sub(began).Seconds()
	return &LatencyResult{
		Rate: perSecond, Seconds: lasting.Seconds(), Events: n, CommitMS: millis(percentile(commits, 0.5)),
		ActionsPerSecond:    round(float64(work.actions+sent.heartbeats)/seconds, 2),
		HeartbeatsPerSecond: round(float64(sent.heartbeats)/seconds, 2),
		ActivitiesPer1000:   perThousand(work.activities, n), RequestsPer1000: perThousand(sent.requests, n),
		CPUSeconds: used,
	}, &found, nil
}

// perThousand is 0 where there were no events.
func perThousand(n, events int) float64 {
	if events == 0 {
		return 0
	}
	return round(float64(n)*1000/float64(events), 1)
}
