package chaos

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/lab/chaos/workers"
	"github.com/temporal-outbox/relay/internal/stack"
	"github.com/temporal-outbox/relay/internal/stack/tcp"
	"github.com/temporal-outbox/relay/localstack/topology"
)

const module = "github.com/temporal-outbox/relay/"

// fixture is the environment of a run: a database, topics and queues, a task queue, the
// proxies, and clients that go past them.
type fixture struct {
	cfg   Config
	token string // a part of the name of everything that it creates
	dir   string
	env   stack.Vars // of those who go past the proxies
	began time.Time
	life  context.Context // of the whole run, drain included

	db       *pgxpool.Pool // past the proxy
	temporal client.Client
	aws      aws.Config
	sqs      *sqs.Client
	topology topology.Topology
	made     *topology.Resources

	proxy    *faults.Proxy
	pg       *tcp.Proxy
	cluster  *stack.Cluster
	workers  *workers.Pool
	observed *observations
	servers  sync.Mutex // PostgreSQL's are being replaced or restarted
	cuts     sync.Mutex // the way to them is cut

	recreating sync.Mutex // a topic or a queue
	promoting  sync.Mutex // a version of the workers

	mu             sync.Mutex
	happened       map[string]int          // faults that the proxies do not count
	expectedPauses map[string]string       // what was done to a topic's recovery, by topic
	starts         map[plan.Step]time.Time // when a step that lies in wait did something
	notes          []string
	problems       []string
	loneHolds      []check.LoneHold
	processes      []check.Fault  // workers that were killed or stood still
	failures       []load.Failure // of producers
	background     sync.WaitGroup
}

func newFixture(ctx context.Context, cfg Config) (_ *fixture, err error) {
	fx := &fixture{cfg: cfg, token: "chaos_" + strings.ToLower(rand.Text()[:8]), life: ctx, happened: map[string]int{}, expectedPauses: map[string]string{}, starts: map[plan.Step]time.Time{}}
	if fx.dir, err = os.MkdirTemp("", "outbox-chaos-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			fx.close()
		}
	}()
	fx.env = stack.Vars(cfg.Stack.Environ()).With("OUTBOX_TASK_QUEUE="+fx.token, "OUTBOX_CONFIG="+filepath.Join(fx.dir, "outbox.yaml"))
	if fx.observed, err = newObservations(fx.dir, int(cfg.Length.Seconds())*cfg.Rate); err != nil {
		return nil, err
	}
	if err := fx.ownCluster(ctx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{fx.build, fx.database, fx.destinations, fx.connect} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return fx, nil
}

func (fx *fixture) build(ctx context.Context) error {
	fx.say("building the worker and the starter")
	for name, path := range map[string]string{"worker": fx.cfg.Program, "starter": module + "starter"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(fx.dir, name), path)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", path, err, out)
		}
	}
	return nil
}

// database makes a database of its own and the proxy before it.
func (fx *fixture) database(ctx context.Context) error {
	base := fx.env.Get("DATABASE_URL")
	conn, err := pgx.Connect(ctx, base)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+fx.token)
	conn.Close(ctx)
	if err != nil {
		return fmt.Errorf("create a database: %w", err)
	}
	direct, err := onDatabase(base, fx.token, "")
	if err != nil {
		return err
	}
	fx.env = fx.env.With("DATABASE_URL=" + direct)
	if err := fx.starter(ctx, "migrate"); err != nil {
		return err
	}
	if fx.db, err = pgxpool.New(ctx, direct); err != nil {
		return fmt.Errorf("open a pool: %w", err)
	}
	if err := fx.createAudit(ctx); err != nil {
		return err
	}
	fx.makeOldPartitions(ctx)
	u, err := url.Parse(direct)
	if err != nil {
		return err
	}
	fx.pg, err = tcp.New(ctx, u.Host)
	return err
}

// proxied is the database's URL through the proxy, for workers and producers.
func (fx *fixture) proxied() string {
	u, _ := onDatabase(fx.env.Get("DATABASE_URL"), fx.token, fx.pg.Address()) // it was parsed before
	return u
}

func (fx *fixture) connect(ctx context.Context) (err error) {
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{EnvLookup: fx.env})
	if err != nil {
		return fmt.Errorf("read Temporal's configuration: %w", err)
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	if fx.temporal, err = client.DialContext(ctx, options); err != nil {
		return fmt.Errorf("connect to Temporal: %w", err)
	}
	fx.proxy, err = faults.New(ctx, fx.env.Get("AWS_ENDPOINT_URL"), fx.cfg.Seed, fx.observed.sent)
	return err
}

// starter runs the starter.
func (fx *fixture) starter(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(fx.dir, "starter"), args...)
	cmd.Env = fx.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("starter %s: %w: %s", args[0], err, out)
	}
	return nil
}

// retried repeats a call that fails while PostgreSQL or Temporal is away, for longer than
// any outage.
func (fx *fixture) retried(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, plan.LongestOutage+time.Minute)
	defer cancel()
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (fx *fixture) say(format string, args ...any) {
	at := ""
	if !fx.began.IsZero() {
		at = fmt.Sprintf("%6.1fs  ", time.Since(fx.began).Seconds())
	}
	fx.mu.Lock()
	defer fx.mu.Unlock()
	_, _ = fmt.Fprintf(fx.cfg.Progress, at+format+"\n", args...)
}

// note keeps a remark for the readers of the report.
func (fx *fixture) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fx.mu.Lock()
	fx.notes = append(fx.notes, text)
	fx.mu.Unlock()
	fx.say("note: %s", text)
}

// problem keeps a failure that makes the run worthless.
func (fx *fixture) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fx.mu.Lock()
	fx.problems = append(fx.problems, text)
	fx.mu.Unlock()
	fx.say("problem: %s", text)
}

func (fx *fixture) count(kind string) {
	fx.mu.Lock()
	defer fx.mu.Unlock()
	fx.happened[kind]++
}

func (fx *fixture) counted(kind plan.Kind) int {
	fx.mu.Lock()
	defer fx.mu.Unlock()
	return fx.happened[string(kind)]
}

// noteStart notes that a step which waited for its moment does something now: earlier
// events have nothing to do with it.
func (fx *fixture) noteStart(step plan.Step) { fx.noteStartAt(step, time.Now()) }

func (fx *fixture) noteStartAt(step plan.Step, at time.Time) {
	fx.mu.Lock()
	defer fx.mu.Unlock()
	fx.starts[step] = at
}

// fault keeps a fault of a process for the checker.
func (fx *fixture) fault(f check.Fault) {
	fx.mu.Lock()
	defer fx.mu.Unlock()
	fx.processes = append(fx.processes, f)
}

// failed keeps a producer's failure for the checker.
func (fx *fixture) failed(f load.Failure) {
	fx.mu.Lock()
	defer fx.mu.Unlock()
	fx.failures = append(fx.failures, f)
}

// expectPause remembers why a topic may be paused while no recovery resumes it.
func (fx *fixture) expectPause(topic, why string) {
	fx.mu.Lock()
	defer fx.mu.Unlock()
	fx.expectedPauses[topic] = why
}

// close ends everything that newFixture began, and deletes the schedules, which would go
// on. The rest ends with the stack.
func (fx *fixture) close() {
	if fx.temporal != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, schedule := range []string{fx.token, fx.token + "-maintenance"} {
			_ = fx.temporal.ScheduleClient().GetHandle(ctx, schedule).Delete(ctx)
		}
		fx.temporal.Close()
	}
	if fx.proxy != nil {
		fx.proxy.Close()
	}
	if fx.pg != nil {
		fx.pg.Close()
	}
	if fx.db != nil {
		fx.db.Close()
	}
	if fx.observed != nil {
		fx.observed.close()
	}
	_ = os.RemoveAll(fx.dir)
}
