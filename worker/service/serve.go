package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// serve answers /healthz (the process lives), /readyz (it can do its work) and
// /metrics.
func (r *relay) serve(ctx context.Context) (stop func(), err error) {
	if r.HTTPAddress == "" {
		return func() {}, nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", r.answerReady)
	mux.Handle("GET /metrics", r.metrics.Handler())
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.HTTPAddress)
	if err != nil {
		return nil, fmt.Errorf("OUTBOX_HTTP_ADDRESS: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error("HTTP endpoint ended", "error", err)
		}
	}()
	r.log.Info("serving health and metrics", "address", listener.Addr().String())
	return func() { _ = server.Close() }, nil
}

const (
	// lookEvery is how often the metrics are told whether database and Temporal answer, and
	// how often destinations are looked up that were not found.
	lookEvery = 15 * time.Second
	// destinationsEvery is how often all destinations are looked up: a request each, for
	// every worker. A destination that goes away while its topic has events is noticed by
	// them.
	destinationsEvery = 5 * time.Minute
	// lookAtRelayEvery is how often Temporal is asked whether anything runs the relay, unless
	// it does not: then every lookEvery. That takes some requests, and every worker asks.
	lookAtRelayEvery = time.Minute
)

// lookAround looks at destinations, schedule and current version until ctx ends.
func (r *relay) lookAround(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	select { // until Temporal knows this worker
	case <-ctx.Done():
		return
	case <-time.After(lookEvery / 3):
	}
	for asked := (time.Time{}); ; {
		if time.Since(asked) >= lookAtRelayEvery || r.around.relayHasProblems() {
			asked = time.Now()
			looking, cancel := context.WithTimeout(ctx, lookEvery)
			r.around.lookAtRelay(looking, r)
			cancel()
		}
		looking, cancel := context.WithTimeout(ctx, lookEvery)
		r.around.lookAtDestinations(looking, r, false)
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look tells the metrics whether what this worker needs answers and lets it work, until
// ctx ends. Prometheus asking for metrics is no reason to ask the database.
func (r *relay) look(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for last := error(nil); ; {
		asking, cancel := context.WithTimeout(ctx, lookEvery/3)
		database, temporal := r.database(asking), r.temporalAnswers(asking)
		cancel()
		if ctx.Err() == nil {
			r.metrics.Dependency("database", database == nil)
			r.metrics.Dependency("temporal", temporal == nil && r.polls.problem() == nil)
			if database != nil && (last == nil || last.Error() != database.Error()) {
				r.log.Warn("not ready", "error", database)
			}
			last = database
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// database returns why the database does not let this worker publish, or nil.
func (r *relay) database(ctx context.Context) error {
	if err := r.store.Reach(ctx); err != nil {
		return err
	}
	return errors.Join(r.store.Security(ctx), r.store.State(ctx))
}
