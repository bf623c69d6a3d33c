package service

import (
	"cmp"
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
	"google.golang.org/grpc"

	"github.com/temporal-outbox/relay/internal/drain"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/rdsauth"
	"github.com/temporal-outbox/relay/internal/telemetry"
)

// newRelay makes a relay without connections.
func newRelay(s settings, logger *slog.Logger) (*relay, error) {
	metrics, err := telemetry.New(telemetry.Config{
		Topics: slices.Sorted(maps.Keys(s.topics)), Operations: []string{postgres.FaultConnect, postgres.FaultStatement},
	})
	return &relay{settings: s, log: logger, metrics: metrics}, err
}

// connect makes all connections and tries them, side by side, so that one start
// shows everything that is wrong. A destination that does not answer is only
// warned of: it harms the topics routed to it, and no others.
func connect(ctx context.Context, s settings, logger *slog.Logger) (*relay, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	r, err := newRelay(s, logger)
	if err != nil {
		return nil, err
	}
	var database, temporal, aws, traces error
	r.traces, traces = telemetry.StartTraces(ctx, "outbox-relay", logger)
	var wg sync.WaitGroup
	wg.Go(func() { database = r.connectDatabase(ctx) })
	wg.Go(func() { temporal = r.connectTemporal(ctx) })
	wg.Go(func() { aws = r.connectAWS(ctx) })
	wg.Wait()
	if err := errors.Join(traces, database, temporal, aws); err != nil {
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
	if err := postgres.Encrypted(r.DatabaseURL); err != nil {
		r.log.Warn("the connection to the database may be unencrypted", "error", err)
	}
	if r.store, err = r.openStore(ctx); err == nil {
		err = r.store.Check(ctx)
	}
	if err == nil {
		err = r.store.CanHold(ctx, slices.Sorted(maps.Keys(r.topics)))
	}
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	warnings := r.store.Warnings(ctx)
	// The relay publishes pending events meanwhile, and /readyz repeats the warning.
	if err := r.store.State(ctx); err != nil {
		warnings = append(warnings, postgres.Warning{Check: "state", Err: err})
	}
	for _, warning := range warnings {
		r.log.Warn("a setting of the database should be changed", "check", warning.Check, "warning", warning.Err)
	}
	return nil
}

func (r *relay) openStore(ctx context.Context) (*postgres.Store, error) {
	password, err := rdsauth.Password(ctx, r.Auth, r.DatabaseURL)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, postgres.Config{
		URL: r.DatabaseURL, Password: password, MaxConns: r.Connections, Fault: r.metrics.DatabaseError,
	})
}

func (r *relay) connectTemporal(ctx context.Context) error {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("read Temporal's configuration: %w", err)
	}
	o.Logger = log.NewStructuredLogger(r.log)
	o.MetricsHandler = r.metrics.Temporal()
	r.namespace = cmp.Or(o.Namespace, client.DefaultNamespace)
	r.drained = drain.New()
	o.ConnectionOptions.DialOptions = append(o.ConnectionOptions.DialOptions,
		grpc.WithChainUnaryInterceptor(r.polls.watch, r.drained.Intercept))
	r.temporal, err = client.DialContext(ctx, o)
	if err != nil {
		return fmt.Errorf("connect to Temporal at %q: %w: check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or temporal.toml", o.HostPort, err)
	}
	return nil
}

func (r *relay) connectAWS(ctx context.Context) error {
	if err := r.newPublisher(ctx); err != nil {
		return err
	}
	began := time.Now()
	resolve := func(ctx context.Context, topic string) error {
		if time.Since(began) > destination.LookUpTimeout {
			return nil // the worker starts, and looks it up with its first event
		}
		_, err := r.publisher.Resolve(ctx, topic)
		return err
	}
	warnOfTopics(r.log, unreachable(ctx, r.publisher.Topics(), lookAtStart, resolve))
	return nil
}

// warnedTopics is how many topics the log names that cannot be published. If AWS is away, these are all.
const warnedTopics = 20

func warnOfTopics(logger *slog.Logger, unreachable map[string]error) {
	for i, topic := range slices.Sorted(maps.Keys(unreachable)) {
		if i == warnedTopics {
			logger.Warn("more topics cannot be published now; their events wait", "topics", len(unreachable)-i)
			return
		}
		logger.Warn("topic cannot be published now; its events wait", "topic", topic, "error", unreachable[topic])
	}
}

// newPublisher makes the publisher. It sends no request.
func (r *relay) newPublisher(ctx context.Context) error {
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("read AWS's configuration: %w", err)
	}
	if cfg.Region == "" {
		return errors.New("AWS has no region: set AWS_REGION")
	}
	r.publisher, err = publish.New(publish.Config{Topics: r.topics, AWS: cfg, Traces: r.traces.Provider()})
	if err != nil {
		return fmt.Errorf("OUTBOX_CONFIG: %w", err)
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
	r.traces.Stop()
}
