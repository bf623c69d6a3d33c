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

// bed is what a run happens in: a database, topics and queues, a task queue, the
// proxies, and clients that go past them.
type bed struct {
	cfg   Config
	token string // in the names of everything that it makes
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

	proxy   *faults.Proxy
	pg      *tcp.Proxy
	cluster *stack.Cluster
	workers *workers.Pool
	records *recorder
	servers sync.Mutex // PostgreSQL's are being replaced or restarted
	cuts    sync.Mutex // the way to them is cut

	recreating sync.Mutex // a topic or a queue

	mu         sync.Mutex
	happened   map[string]int          // faults that the proxies do not count
	orphaned   map[string]string       // what was done to a topic's recovery, by topic
	struck     map[plan.Step]time.Time // when a step that lies in wait did something
	notes      []string
	problems   []string
	processes  []check.Fault  // workers that were killed or stood still
	failures   []load.Failure // of producers
	background sync.WaitGroup
}

func newBed(ctx context.Context, cfg Config) (_ *bed, err error) {
	b := &bed{cfg: cfg, token: "chaos_" + strings.ToLower(rand.Text()[:8]), life: ctx, happened: map[string]int{}, orphaned: map[string]string{}, struck: map[plan.Step]time.Time{}}
	if b.dir, err = os.MkdirTemp("", "outbox-chaos-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	b.env = stack.Vars(cfg.Stack.Environ()).With("OUTBOX_TASK_QUEUE="+b.token, "OUTBOX_CONFIG="+filepath.Join(b.dir, "outbox.yaml"))
	if b.records, err = newRecorder(b.dir, int(cfg.Length.Seconds())*cfg.Rate); err != nil {
		return nil, err
	}
	if err := b.ownCluster(ctx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{b.build, b.database, b.destinations, b.connect} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bed) build(ctx context.Context) error {
	b.say("building the worker and the starter")
	for name, path := range map[string]string{"worker": b.cfg.Program, "starter": module + "starter"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(b.dir, name), path)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", path, err, out)
		}
	}
	return nil
}

// database makes a database of its own and the proxy before it.
func (b *bed) database(ctx context.Context) error {
	base := b.env.Get("DATABASE_URL")
	conn, err := pgx.Connect(ctx, base)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+b.token)
	conn.Close(ctx)
	if err != nil {
		return fmt.Errorf("create a database: %w", err)
	}
	direct, err := onDatabase(base, b.token, "")
	if err != nil {
		return err
	}
	b.env = b.env.With("DATABASE_URL=" + direct)
	if err := b.starter(ctx, "migrate"); err != nil {
		return err
	}
	if b.db, err = pgxpool.New(ctx, direct); err != nil {
		return fmt.Errorf("open a pool: %w", err)
	}
	if err := b.keepRecord(ctx); err != nil {
		return err
	}
	b.makeOldPartitions(ctx)
	u, err := url.Parse(direct)
	if err != nil {
		return err
	}
	b.pg, err = tcp.New(ctx, u.Host)
	return err
}

// proxied is the database's URL for those who suffer.
func (b *bed) proxied() string {
	u, _ := onDatabase(b.env.Get("DATABASE_URL"), b.token, b.pg.Address()) // it was parsed before
	return u
}

func (b *bed) connect(ctx context.Context) (err error) {
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{EnvLookup: b.env})
	if err != nil {
		return fmt.Errorf("read Temporal's configuration: %w", err)
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	if b.temporal, err = client.DialContext(ctx, options); err != nil {
		return fmt.Errorf("connect to Temporal: %w", err)
	}
	b.proxy, err = faults.New(ctx, b.env.Get("AWS_ENDPOINT_URL"), b.cfg.Seed, b.records.sent)
	return err
}

// starter runs the starter.
func (b *bed) starter(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(b.dir, "starter"), args...)
	cmd.Env = b.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("starter %s: %w: %s", args[0], err, out)
	}
	return nil
}

// retried repeats what fails because a neighbour is away, for longer than any is.
func (b *bed) retried(ctx context.Context, do func(context.Context) error) error {
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

func (b *bed) say(format string, args ...any) {
	at := ""
	if !b.began.IsZero() {
		at = fmt.Sprintf("%6.1fs  ", time.Since(b.began).Seconds())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = fmt.Fprintf(b.cfg.Progress, at+format+"\n", args...)
}

// note keeps what readers of the ledger should know.
func (b *bed) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.mu.Lock()
	b.notes = append(b.notes, text)
	b.mu.Unlock()
	b.say("note: %s", text)
}

// problem keeps what makes the run worthless.
func (b *bed) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.mu.Lock()
	b.problems = append(b.problems, text)
	b.mu.Unlock()
	b.say("problem: %s", text)
}

func (b *bed) count(kind string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.happened[kind]++
}

func (b *bed) counted(kind plan.Kind) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.happened[string(kind)]
}

// strike notes that a step that lay in wait does something now: what came before has
// nothing to do with it.
func (b *bed) strike(step plan.Step) { b.strikeAt(step, time.Now()) }

func (b *bed) strikeAt(step plan.Step, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.struck[step] = at
}

// fault keeps a fault of a process for the checker.
func (b *bed) fault(f check.Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.processes = append(b.processes, f)
}

// failed keeps a producer's failure for the checker.
func (b *bed) failed(f load.Failure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = append(b.failures, f)
}

// orphan remembers why a topic may be paused with nobody to resume it.
func (b *bed) orphan(topic, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orphaned[topic] = why
}

// close ends what newBed began. What it made goes with the stack, but for the
// schedules, which would go on.
func (b *bed) close() {
	if b.temporal != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, schedule := range []string{b.token, b.token + "-maintenance"} {
			_ = b.temporal.ScheduleClient().GetHandle(ctx, schedule).Delete(ctx)
		}
		b.temporal.Close()
	}
	if b.proxy != nil {
		b.proxy.Close()
	}
	if b.pg != nil {
		b.pg.Close()
	}
	if b.db != nil {
		b.db.Close()
	}
	if b.records != nil {
		b.records.close()
	}
	_ = os.RemoveAll(b.dir)
}
