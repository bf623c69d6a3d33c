package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/telemetry"
	"github.com/temporal-outbox/relay/workflows"
)

const (
	// startTimeout bounds the checks at start.
	startTimeout = 20 * time.Second
	// stopTimeout is what running activities have after SIGTERM. It outlasts a
	// request to AWS (15 s), and is under Kubernetes' grace period of 30 s.
	stopTimeout = 25 * time.Second
)

// relay is a worker's connections.
type relay struct {
	settings
	log       *slog.Logger
	store     *postgres.Store
	publisher *publish.Publisher
	temporal  client.Client
	metrics   *telemetry.Metrics
}

// run serves until ctx ends. It does not begin before everything answers.
func run(ctx context.Context, s settings, logger *slog.Logger) error {
	r, err := connect(ctx, s, logger)
	if err != nil {
		return err
	}
	defer r.close()

	acts, err := activities.New(activities.Config{
		Store: r.store, Publisher: r.publisher, Lease: workflows.Lease, BatchFor: workflows.BatchFor,
		RecoveryPause: workflows.RecoveryPause, HandoverPause: workflows.HandoverPause, Topics: s.policies,
		Metrics: r.metrics,
	})
	if err != nil {
		return err
	}
	w := worker.New(r.temporal, s.TaskQueue, r.workerOptions())
	workflows.Register(w, acts)
	stopServing, err := r.serve(ctx)
	if err != nil {
		return err
	}
	defer stopServing()
	if err := w.Start(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	version := telemetry.ReadBuild()
	logger.Info("publishing", "topics", len(s.topics), "taskQueue", s.TaskQueue,
		"deployment", s.Deployment, "build", s.BuildID, "version", version.Version, "revision", version.Revision, "go", version.Go)
	go r.warnWhileNotCurrent(ctx)
	go r.look(ctx)

	<-ctx.Done()
	logger.Info("stopping: batches under way end between two requests")
	w.Stop()
	// A claim may have been answered to a workflow that finds no worker any more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := r.store.ReleaseUnbegun(ctx); err != nil {
		logger.Warn("some lanes stay leased for a few seconds", "error", err)
	}
	logger.Info("stopped")
	return nil
}

func (r *relay) workerOptions() worker.Options {
	o := worker.Options{
		WorkerStopTimeout: stopTimeout,
		// How long a workflow task waits for the worker that has the run in its cache,
		// before any other may take it: the pause of the relay when a worker is
		// stopped. The SDK's default is 5 s.
		StickyScheduleToStartTimeout: time.Second,
		// The SDK sends heartbeats at 0.8 of their timeout, 8 s, if not told otherwise,
		// and only a heartbeat learns that an activity was cancelled or paused.
		MaxHeartbeatThrottleInterval: 2 * time.Second,
		// Each batch holds few goroutines and at most a page in memory.
		MaxConcurrentActivityExecutionSize: 100,
	}
	if r.Deployment != "" {
		o.DeploymentOptions = worker.DeploymentOptions{
			UseVersioning:             true,
			Version:                   worker.WorkerDeploymentVersion{DeploymentName: r.Deployment, BuildID: r.BuildID},
			DefaultVersioningBehavior: workflow.VersioningBehaviorPinned,
		}
	}
	return o
}

// connect makes all connections and tries them, side by side, so that one start
// shows everything that is wrong. A destination that does not answer is only
// warned of: it harms the topics routed to it, and no others.
func connect(ctx context.Context, s settings, logger *slog.Logger) (*relay, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	r := &relay{settings: s, log: logger}
	var err error
	if r.metrics, err = telemetry.New(telemetry.Config{Topics: slices.Sorted(maps.Keys(s.topics))}); err != nil {
		return nil, err
	}
	var database, temporal, aws error
	var wg sync.WaitGroup
	wg.Go(func() { database = r.connectDatabase(ctx) })
	wg.Go(func() { temporal = r.connectTemporal(ctx) })
	wg.Go(func() { aws = r.connectAWS(ctx) })
	wg.Wait()
	if err := errors.Join(database, temporal, aws); err != nil {
		r.close()
		return nil, err
	}
	if err := r.store.EnsureLanes(ctx, r.publisher.Topics()); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *relay) connectDatabase(ctx context.Context) (err error) {
	r.store, err = postgres.Open(ctx, postgres.Config{
		URL: r.DatabaseURL, MaxConns: r.Connections,
		ClaimLease: workflows.ClaimLease, Lease: workflows.Lease, Fault: r.metrics.DatabaseError,
	})
	if err == nil {
		err = r.store.Check(ctx)
	}
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	return nil
}

func (r *relay) connectTemporal(ctx context.Context) error {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("read Temporal's configuration: %w", err)
	}
	o.Logger = log.NewStructuredLogger(r.log)
	o.MetricsHandler = r.metrics.Temporal()
	r.temporal, err = client.DialContext(ctx, o)
	if err != nil {
		return fmt.Errorf("connect to Temporal at %q: %w: check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or temporal.toml", o.HostPort, err)
	}
	return nil
}

func (r *relay) connectAWS(ctx context.Context) error {
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("read AWS's configuration: %w", err)
	}
	if cfg.Region == "" {
		return errors.New("AWS has no region: set AWS_REGION")
	}
	r.publisher, err = publish.New(publish.Config{Topics: r.topics, AWS: cfg})
	if err != nil {
		return fmt.Errorf("OUTBOX_CONFIG: %w", err)
	}
	for topic, err := range r.unreachable(ctx) {
		r.log.Warn("topic cannot be published now; its events wait", "topic", topic, "error", err)
	}
	return nil
}

func (r *relay) close() {
	if r.temporal != nil {
		r.temporal.Close()
	}
	if r.store != nil {
		r.store.Close()
	}
}
