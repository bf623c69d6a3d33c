package bench

import (
	"context"
	"fmt"
	"time"
)

// drain inserts events while no relay runs, starts it, and waits until the last
// of them is settled. The worker process is up beforehand; the clock starts when
// the schedule is triggered.
func (fx *fixture) drain(ctx context.Context, events int) (DrainResult, error) {
	fx.say("  inserting %d events over %d topics", events, len(fx.topics))
	if err := fx.insert(ctx, events); err != nil {
		return DrainResult{}, err
	}
	if err := fx.settleDown(ctx); err != nil {
		return DrainResult{}, err
	}
	w, err := fx.watch(ctx)
	if err != nil {
		return DrainResult{}, err
	}
	defer w.close(ctx)
	metrics, err := freeAddress()
	if err != nil {
		return DrainResult{}, err
	}
	if err := fx.startWorker(ctx, "OUTBOX_HTTP_ADDRESS="+metrics); err != nil {
		return DrainResult{}, err
	}
	if err := fx.resume(ctx); err != nil {
		return DrainResult{}, err
	}
	if fx.sink != nil {
		if err := fx.sink.Reset(ctx, eventsOfSink); err != nil {
			return DrainResult{}, err
		}
	}
	wal, err := fx.wal(ctx)
	if err != nil {
		return DrainResult{}, err
	}
	cpu, began := readCPU(), time.Now()
	if err := fx.trigger(ctx); err != nil {
		return DrainResult{}, err
	}
	first, last, err := w.wait(ctx, fx.worker)
	if err != nil {
		return DrainResult{}, err
	}
	used := readCPU().since(cpu)
	walEnd, err := fx.wal(ctx)
	if err != nil {
		return DrainResult{}, err
	}
	peak := fx.worker.peakMiB()
	sent, err := readCounts(ctx, metrics)
	if err != nil {
		return DrainResult{}, err
	}
	if err := fx.stop(ctx); err != nil {
		return DrainResult{}, err
	}
	work, err := fx.work(ctx, began, last)
	if err != nil {
		return DrainResult{}, err
	}
	result := DrainResult{
		Events: events, Topics: len(fx.topics),
		Seconds: round(last.Sub(began).Seconds(), 2), EventsPerSecond: rate(events, last.Sub(began)),
		FirstSettled: round(first.Sub(began).Seconds(), 3), FlowEventsPerSecond: rate(events, last.Sub(first)),
		Activities: work.activities, ActivitiesPer1000: round(float64(work.activities)*1000/float64(events), 2),
		Batches: work.batches, Requests: sent.requests,
		EventsPerRequest: round(float64(events)/float64(max(1, sent.requests)), 2),
		CPUSeconds:       used, WALBytesPerEvent: round((walEnd-wal)/float64(events), 1), PeakMiB: peak,
	}
	if err := fx.arrived(ctx, &result); err != nil {
		return DrainResult{}, err
	}
	fx.say("  drained in %.2f s: %.0f events/s", result.Seconds, result.EventsPerSecond)
	return result, nil
}

// arrived compares the events that the sink has seen with those that were settled.
func (fx *fixture) arrived(ctx context.Context, result *DrainResult) error {
	if fx.sink == nil {
		return nil
	}
	state, err := fx.sink.State(ctx)
	if err != nil {
		return err
	}
	if state.Accepted != result.Events {
		return fmt.Errorf("%d events are settled, and %d of them have arrived", result.Events, state.Accepted)
	}
	if state.Disorder > 0 {
		return fmt.Errorf("%d events came after a later event of their key", state.Disorder)
	}
	result.InFlight, result.Repeated = state.InFlight, state.Again
	return nil
}

// wal is the position in the database's log, in bytes.
func (fx *fixture) wal(ctx context.Context) (position float64, err error) {
	err = fx.pool.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::float8`).Scan(&position)
	if err != nil {
		return 0, fmt.Errorf("read the log's position: %w", err)
	}
	return position, nil
}
