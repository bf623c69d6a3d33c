package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/liveness"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/telemetry"
)

// readyTimeout bounds one answer of /readyz.
const readyTimeout = 5 * time.Second

// ready returns why this process cannot do its work now, or nil. It looks at nothing that
// all workers share beyond the database and Temporal: a topic whose destination is missing
// harms no other topic, and a deployment makes a version current only when its workers are
// ready.
func (r *relay) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return errors.Join(r.store.Check(ctx), r.store.State(ctx), r.temporalAnswers(ctx), r.polls.problem())
}

func (r *relay) temporalAnswers(ctx context.Context) error {
	if _, err := r.temporal.CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
		return fmt.Errorf("Temporal does not answer: %w", err) //nolint:staticcheck // a name
	}
	return nil
}

// polling says whether this worker asks Temporal for work. The zero value does not yet.
type polling struct{ state atomic.Pointer[string] }

func (p *polling) begins()         { p.state.Store(new(string)) }
func (p *polling) ends(why string) { p.state.Store(&why) }

// problem is why this worker gets no work from Temporal, or nil.
func (p *polling) problem() error {
	switch why := p.state.Load(); {
	case why == nil:
		return errors.New("this worker does not poll Temporal yet")
	case *why != "":
		return fmt.Errorf("this worker does not poll Temporal any more: %s", *why)
	}
	return nil
}

// surroundings is how everything is that a worker needs and does not decide by itself: its
// destinations, the schedule, the current version. It looks at them apart from probes, and
// reports them in /readyz, in metrics and in the log. The zero value reports nothing.
type surroundings struct {
	mu           sync.Mutex
	destinations map[string]error
	relay        []string
}

// problems are those of the last look, sorted.
func (s *surroundings) problems() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range slices.Sorted(maps.Keys(s.destinations)) {
		all = append(all, fmt.Sprintf("topic %s: %v", topic, s.destinations[topic]))
	}
	return append(all, s.relay...)
}

// relayHasProblems says that something does not run, as seen last.
func (s *surroundings) relayHasProblems() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.relay) > 0
}

// lookAtDestinations resolves all destinations.
func (s *surroundings) lookAtDestinations(ctx context.Context, p *publish.Publisher, m *telemetry.Metrics) {
	bad := unreachable(ctx, p)
	if ctx.Err() != nil {
		return
	}
	for _, topic := range p.Topics() {
		m.Destination(topic, bad[topic] == nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.destinations = bad
}

// lookAtRelay asks Temporal whether anything runs the relay.
func (s *surroundings) lookAtRelay(ctx context.Context, r *relay) {
	state, err := liveness.Look(ctx, r.temporal, r.TaskQueue, r.Deployment)
	if ctx.Err() != nil || err != nil { // that Temporal does not answer is said elsewhere
		return
	}
	up := map[string]bool{}
	for _, f := range state.Findings() {
		if !f.Unknown {
			up[f.Of] = !f.Bad
		}
	}
	r.metrics.Relay(up)
	problems := state.Problems()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(s.relay, p) {
			r.log.Warn("the relay does not run as it should", "problem", p)
		}
	}
	s.relay = problems
}

// unreachable resolves all destinations and returns the topics of those that it did not
// find.
func unreachable(ctx context.Context, p *publish.Publisher) map[string]error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	bad := make(map[string]error)
	for _, topic := range p.Topics() {
		wg.Go(func() {
			if _, err := p.Resolve(ctx, topic); err != nil {
				mu.Lock()
				defer mu.Unlock()
				bad[topic] = err
			}
		})
	}
	wg.Wait()
	return bad
}

// answerReady serves /readyz: 200 while this process can do its work, and its body reports
// everything else that is not well. With ?strict, a report is a failure too, and everything
// is looked at anew.
func (r *relay) answerReady(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	strict := req.URL.Query().Has("strict")
	if strict {
		looking, cancel := context.WithTimeout(ctx, readyTimeout)
		r.around.lookAtDestinations(looking, r.publisher, r.metrics)
		r.around.lookAtRelay(looking, r)
		cancel()
	}
	problem := r.ready(ctx)
	reported := r.around.problems()
	var text strings.Builder
	status := http.StatusOK
	switch {
	case problem != nil:
		status = http.StatusServiceUnavailable
		fmt.Fprintln(&text, problem)
	case strict && len(reported) > 0:
		status = http.StatusServiceUnavailable
	default:
		fmt.Fprintln(&text, "ready")
	}
	for _, line := range reported {
		fmt.Fprintln(&text, "reported: "+line)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text.String())
}

// readyCommand asks a worker on this machine: a health check for containers that
// have no shell.
func readyCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "ready",
		Short: "Ask the worker at OUTBOX_HTTP_ADDRESS whether it can do its work",
		Long: `Asks the worker at OUTBOX_HTTP_ADDRESS whether it can do its work, as /readyz does:
database and Temporal answer, and it polls. It also prints what else is not well:
destinations that were not found, a schedule that is paused, no current version.
With --strict these end with status 1 too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings()
			if err != nil {
				return err
			}
			return askReady(cmd.Context(), cmd.OutOrStdout(), s.HTTPAddress, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "fail also if a destination, the schedule or the current version is missing")
	return cmd
}

func askReady(ctx context.Context, out io.Writer, address string, strict bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("OUTBOX_HTTP_ADDRESS is %q: set it to where the worker serves, such as :8080", address)
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	url := "http://" + net.JoinHostPort(host, port) + "/readyz"
	if strict {
		url += "?strict"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*readyTimeout+time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
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
	_, err = fmt.Fprintln(out, strings.TrimSpace(string(text)))
	return err
}

// stopOnFatal ends polling when the SDK gives up, and hands the error on. Temporal's worker
// would otherwise stop without a word, and the process live on.
func (r *relay) stopOnFatal(fatal chan<- error, log *slog.Logger) func(error) {
	return func(err error) {
		log.Error("Temporal refuses this worker for good", "error", err)
		r.polls.ends(err.Error())
		select {
		case fatal <- err:
		default:
		}
	}
}
