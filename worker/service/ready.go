package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
)

// ready returns why this worker cannot publish now, or nil.
func (r *relay) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	problems := []error{r.store.Check(ctx), r.store.State(ctx), r.isCurrent(ctx), r.temporalAnswers(ctx)}
	for topic, err := range r.unreachable(ctx) {
		problems = append(problems, fmt.Errorf("topic %s: %w", topic, err))
	}
	return errors.Join(problems...)
}

func (r *relay) temporalAnswers(ctx context.Context) error {
	if _, err := r.temporal.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
		return fmt.Errorf("Temporal does not answer: %w", err) //nolint:staticcheck // a name
	}
	return nil
}

// isCurrent returns an error if this worker is versioned and its deployment has
// no current version: Temporal then gives work to nobody, without a word.
func (r *relay) isCurrent(ctx context.Context) error {
	if r.Deployment == "" {
		return nil
	}
	d, err := r.temporal.WorkerDeploymentClient().GetHandle(r.Deployment).
		Describe(ctx, client.WorkerDeploymentDescribeOptions{})
	if err != nil {
		return fmt.Errorf("describe worker deployment %s: %w", r.Deployment, err)
	}
	if d.Info.RoutingConfig.CurrentVersion == nil {
		return fmt.Errorf("worker deployment %s has no current version, so no workflow runs: run %q",
			r.Deployment, "starter promote --deployment "+r.Deployment+" --build-id "+r.BuildID)
	}
	return nil
}

// warnWhileNotCurrent says so in the log as long as isCurrent does.
func (r *relay) warnWhileNotCurrent(ctx context.Context) {
	if r.Deployment == "" {
		return
	}
	for wait := 5 * time.Second; ; wait = time.Minute {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := r.isCurrent(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		r.log.Warn("not ready", "error", err)
	}
}

// unreachable resolves all destinations and returns those that did not.
func (r *relay) unreachable(ctx context.Context) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	bad := make(map[string]error)
	for _, topic := range r.publisher.Topics() {
		wg.Go(func() {
			if _, err := r.publisher.Resolve(ctx, topic); err != nil {
				mu.Lock()
				defer mu.Unlock()
				bad[topic] = err
			}
		})
	}
	wg.Wait()
	return bad
}

// readyCommand asks a worker on this machine: a health check for containers that
// have no shell.
func readyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ready",
		Short: "Ask the worker at OUTBOX_HTTP_ADDRESS whether it can publish",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings()
			if err != nil {
				return err
			}
			return askReady(cmd.Context(), s.HTTPAddress)
		},
	}
}

func askReady(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("OUTBOX_HTTP_ADDRESS is %q: set it to where the worker serves, such as :8080", address)
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", http.NoBody)
	if err != nil {
		return fmt.Errorf("ask the worker: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the worker: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	fmt.Println(strings.TrimSpace(string(text)))
	return nil
}
