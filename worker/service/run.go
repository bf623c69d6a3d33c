package service

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/drain"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/telemetry"
	"github.com/temporal-outbox/relay/internal/timing"
	"github.com/temporal-outbox/relay/workflows"
)

// startTimeout bounds the checks at start.
const startTimeout = 20 * time.Second

// activityPollers is how many polls for activities a worker has open. A task queue has four partitions by
// default, and until version 1.29 Temporal offers a task that finds no poll in its partition to the first
// partition only, for two seconds. Meanwhile, polls in its own partition get nothing. With two polls, the
// SDK's default, some claims and batches began two seconds late; with two for each partition, none does.
const activityPollers = 8

// relay is a worker's connections.
type relay struct {
	settings
	log       *slog.Logger
	store     *postgres.Store
	publisher *publish.Publisher
	temporal  client.Client
	namespace string // of Temporal
	traces    *telemetry.Traces
	metrics   *telemetry.Metrics
	polls     polling
	drained   *drain.Polls
	around    surroundings
}

// run serves until ctx ends. It does not begin before everything answers.
func run(ctx context.Context, s settings, logger *slog.Logger) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	r, err := connect(ctx, s, logger)
	if err != nil {
		return err
	}
	defer r.close()
	limitMemory(ctx, s.payloads, logger)

	successor := r.successor()
	acts, err := activities.New(activities.Config{
		Store: r.store, Publisher: r.publisher, Routes: r.publisher.Topics(), Topics: s.policies, Metrics: r.metrics, Running: r.running,
		Recovery:      r.recovery,
		PayloadBudget: s.payloads,
		Sharing:       r.sharing(successor.waits.Load),
	})
	if err != nil {
		return err
	}
	if s.Batches == batchesShared {
		r.metrics.Sharing(func() (int, bool) { return activities.Held(acts) })
	}
	fatal := make(chan error, 1)
	options := r.workerOptions()
	options.OnFatalError = r.stopOnFatal(fatal, logger)
	w := worker.New(r.temporal, s.TaskQueue, options)
	workflows.Register(w, acts)
	w.RegisterActivityWithOptions(r.gate, activity.RegisterOptions{Name: workflows.GateActivity})
	stopServing, err := r.serve(ctx)
	if err != nil {
		return err
	}
	defer stopServing()
	r.keepReceipts(ctx, acts)
	r.polls.begins()
	giveSharesBack := carry(ctx, acts)
	defer giveSharesBack()
	if err := w.Start(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	version := telemetry.ReadBuild()
	logger.Info("publishing", "topics", len(s.topics), "taskQueue", s.TaskQueue,
		"deployment", s.Deployment, "build", s.BuildID, "version", version.Version, "revision", version.Revision, "go", version.Go)
	go r.look(ctx)
	go r.lookAround(ctx)
	go successor.run(ctx)

	var refused error
	select {
	case <-ctx.Done():
	case err := <-fatal:
		refused = fmt.Errorf("Temporal refuses this worker: %w", err) //nolint:staticcheck // a name
		end()                                                         // what looks around ends too
	}
	r.polls.ends("it is stopping")
	logger.Info("stopping: batches under way end between two requests")
	ctx = context.WithoutCancel(ctx)
	r.drained.Drain(ctx)
	// Other workers take the shares at once, also while a batch waits for its last request.
	var sharing sync.WaitGroup
	sharing.Go(giveSharesBack)
	w.Stop()
	sharing.Wait()
	ctx, cancel := context.WithTimeout(ctx, timing.ShutdownTimeout)
	defer cancel()
	r.settleRest(ctx, acts)
	// A claim may have been answered to a workflow that finds no worker any more.
	if err := r.store.ReleaseUnbegun(ctx); err != nil {
		logger.Warn("could not release all lanes; their leases expire within seconds", "error", err)
	}
	logger.Info("stopped")
	return refused
}

// sharing is for workers that hold shares, nil for others. waits reports that Temporal gives this worker
// no tasks.
func (r *relay) sharing(waits func() bool) *activities.Sharing {
	if r.Batches != batchesShared {
		return nil
	}
	return &activities.Sharing{
		Worker: uuid.NewString(), Name: r.processName(), Shares: r.store, Reads: r.store, Sender: r.publisher, Waits: waits, Log: r.log,
	}
}

// processName names this process to people: its host and pid, and its build.
func (r *relay) processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s/%d %s", host, os.Getpid(), cmp.Or(r.BuildID, telemetry.ReadBuild().Version))
}

// carry publishes shares in the background. giveBack ends that, and returns when the shares are given
// back. ctx may end before: a worker that stops publishes until its polls have ended.
func carry(ctx context.Context, acts *activities.Activities) (giveBack func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var carrying sync.WaitGroup
	carrying.Go(func() { activities.Carry(ctx, acts) })
	return func() {
		cancel()
		carrying.Wait()
	}
}

// successor takes over runs that this worker did not begin.
func (r *relay) successor() *successor {
	s := &successor{client: r.temporal, namespace: r.namespace, taskQueue: r.TaskQueue, log: r.log}
	if r.Deployment != "" {
		s.self = &worker.WorkerDeploymentVersion{DeploymentName: r.Deployment, BuildID: r.BuildID}
	}
	return s
}

// keepReceipts notes which topics keep receipts, and makes the partitions that they need
// first. A worker that cannot do so publishes all the same.
func (r *relay) keepReceipts(ctx context.Context, acts *activities.Activities) {
	ctx, cancel := context.WithTimeout(ctx, timing.ReceiptsAtStart)
	defer cancel()
	left, err := activities.KeepReceipts(ctx, acts, workflows.DefaultAheadDays)
	if err != nil {
		r.log.Warn("receipts may be lost until Maintenance has made their partitions", "error", err)
	}
	for _, text := range left {
		r.log.Warn("receipts may be lost: " + text)
	}
}

// settleRest settles what batches could not, because the database was away when they
// ended. It leaves time to release claims.
func (r *relay) settleRest(ctx context.Context, acts *activities.Activities) {
	ctx, cancel := context.WithTimeout(ctx, timing.ShutdownTimeout-timing.SettleTry)
	defer cancel()
	if left, err := activities.SettleRest(ctx, acts); left > 0 {
		r.log.Error("accepted events stay pending, because the database does not answer; they are published again unless a retry of their batch settles them",
			"events", left, "error", err)
	}
}

// hasNoSpan reports whether an activity is not traced: claims and seats. A relay with nothing to do would
// show nothing else, and a seat contains no request.
func hasNoSpan(activityType string, args []any) bool {
	if activityType == "ClaimBatches" {
		return true
	}
	for _, arg := range args {
		if r, is := arg.(activities.PublishRequest); is && r.Batch.Shared {
			return true
		}
	}
	return false
}

func (r *relay) workerOptions() worker.Options {
	o := worker.Options{
		WorkerStopTimeout: timing.StopTimeout,
		// How long a workflow task waits for the worker that has the run in its cache,
		// before any other may take it: the pause of the relay when a worker is
		// stopped. The SDK's default is 5 s.
		StickyScheduleToStartTimeout: time.Second,
		// The SDK sends heartbeats at 0.8 of their timeout, 8 s, if not told otherwise,
		// and only a heartbeat learns that an activity was cancelled or paused.
		MaxHeartbeatThrottleInterval: timing.HeartbeatThrottle,
		// Each batch holds few goroutines, and all of them share the payload budget.
		MaxConcurrentActivityExecutionSize: 100,
		MaxConcurrentActivityTaskPollers:   activityPollers,
		Interceptors:                       r.traces.Interceptors(hasNoSpan),
	}
	if r.Deployment != "" {
		o.DeploymentOptions = worker.DeploymentOptions{
			UseVersioning:             true,
			Version:                   worker.WorkerDeploymentVersion{DeploymentName: r.Deployment, BuildID: r.BuildID},
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		}
	}
	return o
}
