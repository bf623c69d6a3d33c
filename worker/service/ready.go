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
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/temporal-outbox/relay/internal/liveness"
	"github.com/temporal-outbox/relay/internal/printable"
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

// refusedFor is how long polls may fail before a worker is not ready: Temporal's services are
// restarted, and connections break.
const refusedFor = 10 * time.Second

// polling watches whether Temporal gives this worker work when it asks. A long poll that ends
// with nothing is an answer; one that is refused, as for an API key that has expired, is not.
// The zero value does not poll yet.
type polling struct {
	mu    sync.Mutex
	began bool
	ended string // why it polls no more
	kinds map[string]*polls
}

// polls are those for tasks of one kind.
type polls struct {
	answered bool      // once
	failing  time.Time // since the first failure after the last answer; zero: not failing
	err      error     // the last
}

func (p *polling) begins() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began = true
}

func (p *polling) ends(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = why
}

// watch is an interceptor of all calls to Temporal.
func (p *polling) watch(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, o...)
	if strings.HasSuffix(method, "/PollWorkflowTaskQueue") || strings.HasSuffix(method, "/PollActivityTaskQueue") {
		if ctx.Err() == nil || err == nil { // it was not this worker that ended it
			p.note(method[strings.LastIndex(method, "/")+1:], err)
		}
	}
	return err
}

func (p *polling) note(kind string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kinds[kind]
	if k == nil {
		k = &polls{}
		if p.kinds == nil {
			p.kinds = map[string]*polls{}
		}
		p.kinds[kind] = k
	}
	if err == nil {
		*k = polls{answered: true}
		return
	}
	if k.err = err; k.failing.IsZero() {
		k.failing = time.Now()
	}
}

// problem is why this worker gets no work from Temporal, or nil.
func (p *polling) problem() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended != "":
		return fmt.Errorf("this worker no longer polls Temporal: %s", p.ended)
	case !p.began:
		return errors.New("this worker does not poll Temporal yet")
	}
	for _, kind := range slices.Sorted(maps.Keys(p.kinds)) {
		k := p.kinds[kind]
		if !k.failing.IsZero() && (!k.answered || time.Since(k.failing) > refusedFor) {
			return fmt.Errorf("Temporal gives this worker no work (%s): %w", kind, k.err) //nolint:staticcheck // a name
		}
	}
	return nil
}

// surroundings is how everything is that a worker needs and does not decide by itself: its
// destinations, the schedule, the current version. It looks at them apart from probes, and
// reports them in /readyz, in metrics and in the log. The zero value reports nothing.
type surroundings struct {
	mu           sync.Mutex
	destinations map[string]error // of topics whose destination was not found
	relay        []string
	relayErr     error     // why Temporal did not tell
	all          time.Time // when all destinations were looked up
}

// problems are those of the last look, sorted.
func (s *surroundings) problems() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range slices.Sorted(maps.Keys(s.destinations)) {
		all = append(all, fmt.Sprintf("topic %s: %v", topic, s.destinations[topic]))
	}
	if s.relayErr != nil {
		return append(all, fmt.Sprintf("it is not known whether the relay runs: %v", s.relayErr))
	}
	return append(all, s.relay...)
}

// lookAtDestinations looks up the destinations that were not found; and all of them if that
// was not done for destinationsEvery, or if everything is wanted.
func (s *surroundings) lookAtDestinations(ctx context.Context, r *relay, everything bool) {
	s.mu.Lock()
	known, first := s.destinations, s.all.IsZero()
	everything = everything || time.Since(s.all) >= destinationsEvery
	s.mu.Unlock()
	topics := slices.Sorted(maps.Keys(known))
	if everything {
		topics = r.publisher.Topics()
	}
	bad := unreachable(ctx, topics, lookAtOnce, r.publisher.Look)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // the caller has gone
	}
	for _, topic := range topics {
		r.metrics.Destination(topic, bad[topic] == nil)
		if bad[topic] != nil && known[topic] == nil && !first { // the start has warned
			r.log.Warn("a destination was not found; its topic's events wait", "topic", topic, "error", bad[topic])
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if everything {
		s.all = time.Now()
	}
	s.destinations = bad
}

// lookAtRelay asks Temporal whether anything runs the relay.
func (s *surroundings) lookAtRelay(ctx context.Context, r *relay) {
	state, err := liveness.Look(ctx, r.temporal, r.TaskQueue, r.Deployment)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	up := map[string]bool{}
	var problems []string
	if err == nil {
		state = state.ForWorker(r.Deployment)
		problems = state.Problems()
		for _, f := range state.Findings() {
			if !f.Unknown {
				up[f.Of] = !f.Bad
			}
		}
	}
	r.metrics.Relay(up)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(s.relay, p) {
			r.log.Warn("the relay does not run as it should", "problem", p)
		}
	}
	s.relay, s.relayErr = problems, err
}

// relayHasProblems says that something does not run, as seen last.
func (s *surroundings) relayHasProblems() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.relay) > 0 || s.relayErr != nil
}

// lookAtOnce is how many destinations a worker that runs looks up at once. At the start it is
// lookAtStart, or destinations that hang would keep the others waiting and the worker from
// starting. With thousands at once, all look-ups would time out.
const (
	lookAtOnce  = 16
	lookAtStart = 512
)

// unreachable asks for each topic, for so many at once, and returns the errors.
func unreachable(ctx context.Context, topics []string, atOnce int, look func(context.Context, string) error) map[string]error {
	var mu sync.Mutex
	var all errgroup.Group
	all.SetLimit(atOnce)
	bad := make(map[string]error)
	for _, topic := range topics {
		all.Go(func() error {
			if err := look(ctx, topic); err != nil {
				mu.Lock()
				defer mu.Unlock()
				bad[topic] = err
			}
			return nil
		})
	}
	_ = all.Wait()
	return bad
}

// answerReady serves /readyz: 200 while this process can do its work, and its body reports
// everything else that is not well. With ?strict, a report is a failure too, and everything
// is looked at anew.
func (r *relay) answerReady(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	strict := req.URL.Query().Has("strict")
	if strict {
		var both sync.WaitGroup
		looking, cancel := context.WithTimeout(ctx, readyTimeout)
		both.Go(func() { r.around.lookAtDestinations(looking, r, true) })
		both.Go(func() { r.around.lookAtRelay(looking, r) })
		both.Wait()
		cancel()
	}
	status, body := readiness(r.ready(ctx), r.around.problems(), strict)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// readiness is the answer of /readyz. People read it on terminals, and topics and errors are
// texts of others.
func readiness(problem error, reported []string, strict bool) (status int, body string) {
	var text strings.Builder
	status = http.StatusOK
	switch {
	case problem != nil:
		status = http.StatusServiceUnavailable
		fmt.Fprintln(&text, printable.Text(problem.Error()))
	case strict && len(reported) > 0:
		status = http.StatusServiceUnavailable
	default:
		fmt.Fprintln(&text, "ready")
	}
	for _, line := range reported {
		fmt.Fprintln(&text, "reported: "+printable.Line(line))
	}
	return status, text.String()
}

// readyCommand asks a worker on this machine: a health check for containers that
// have no shell.
func readyCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "ready",
		Short: "Ask the worker at OUTBOX_HTTP_ADDRESS whether it can do its work",
		Long: `Asks the worker at OUTBOX_HTTP_ADDRESS for /readyz: the database and Temporal answer,
and the worker polls. If not, the exit status is 1. The command also prints other
problems: a destination that was not found, a paused schedule, no current version.
With --strict, these make the exit status 1 too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings()
			if err != nil {
				return err
			}
			return askReady(cmd.Context(), cmd.OutOrStdout(), s.HTTPAddress, strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "also fail if a destination, the schedule or the current version is missing")
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
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	text := printable.Text(strings.TrimSpace(string(body)))
	if resp.StatusCode != http.StatusOK {
		return errors.New(text)
	}
	_, err = fmt.Fprintln(out, text)
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
