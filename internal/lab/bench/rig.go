package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-outbox/relay/internal/stack"
)

// scheduleID is what `starter schedule` calls its schedule.
const scheduleID = "outbox-relay"

// rig is what all measurements of a run share: the built programs, a Temporal
// namespace, clients.
type rig struct {
	environ  stack.Vars
	extra    []string // for the worker
	progress io.Writer

	token           string // in the names of everything that it makes
	dir             string
	sqs             *sqs.Client
	temporal        client.Client
	temporalVersion string
	notes           []string
}

func newRig(ctx context.Context, environment, extra []string, progress io.Writer) (*rig, error) {
	r := &rig{extra: extra, progress: progress, token: "bench-" + strings.ToLower(rand.Text()[:8])}
	r.environ = stack.Vars(environment).With("TEMPORAL_NAMESPACE=" + r.token)
	for _, name := range []string{"DATABASE_URL", "TEMPORAL_ADDRESS", "AWS_ENDPOINT_URL"} {
		if r.environ.Get(name) == "" {
			return nil, fmt.Errorf("%s is not set", name)
		}
	}
	var err error
	if r.dir, err = os.MkdirTemp("", "outbox-bench-"); err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) prepare(ctx context.Context) (err error) {
	r.say("building the worker and the starter")
	build := exec.CommandContext(ctx, "go", "build", "-o", r.dir+"/",
		"github.com/temporal-outbox/relay/worker", "github.com/temporal-outbox/relay/starter")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker and the starter: %w: %s", err, out)
	}
	if r.sqs, err = newSQS(ctx, r.environ); err != nil {
		return err
	}
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{EnvLookup: r.environ})
	if err != nil {
		return fmt.Errorf("read Temporal's configuration: %w", err)
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	if r.temporal, err = client.DialContext(ctx, options); err != nil {
		return fmt.Errorf("connect to Temporal at %s: %w", options.HostPort, err)
	}
	info, err := r.temporal.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask Temporal for its version: %w", err)
	}
	r.temporalVersion = info.GetServerVersion()
	return r.makeNamespace(ctx)
}

// makeNamespace registers the namespace and waits until it can be used, which
// includes the server's own workers: they run the schedules.
func (r *rig) makeNamespace(ctx context.Context) error {
	_, err := r.temporal.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: r.token, Description: "a measurement of outbox-relay",
		WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		return fmt.Errorf("register a namespace for the measurement: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err = r.starter(ctx, r.environ, "schedule", "--every", "1h", "--maintain-every", "0")
		if err == nil {
			err = r.running(ctx)
		}
		if err == nil {
			return r.pause(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the new namespace: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

var errNoRun = errors.New("the schedule has started no run yet")

func (r *rig) running(ctx context.Context) error {
	for range 20 {
		runs, err := r.runs(ctx, time.Time{})
		if err != nil {
			return err
		}
		if len(runs) > 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errNoRun
}

// starter runs the starter.
func (r *rig) starter(ctx context.Context, env stack.Vars, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(r.dir, "starter"), args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("starter %s: %w: %s", args[0], err, out)
	}
	return nil
}

// say reports progress.
func (r *rig) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, format+"\n", args...)
}

// note keeps what readers of the figures should know.
func (r *rig) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.notes = append(r.notes, text)
	r.say("note: %s", text)
}

// noteOnce is note for what may come up again and again.
func (r *rig) noteOnce(text string) {
	if !slices.Contains(r.notes, text) {
		r.note("%s", text)
	}
}

// onServer runs a statement in the database that DATABASE_URL names.
func (r *rig) onServer(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, r.environ.Get("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// close removes what newRig made. It is best effort: a stack that was started for
// the measurement goes as a whole.
func (r *rig) close() {
	if r.temporal != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = r.temporal.OperatorService().DeleteNamespace(ctx, &operatorservice.DeleteNamespaceRequest{Namespace: r.token})
		r.temporal.Close()
	}
	_ = os.RemoveAll(r.dir)
}
