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

	"github.com/temporal-outbox/relay/internal/lab/bench/sink"
	"github.com/temporal-outbox/relay/internal/stack"
)

// scheduleID is what `starter schedule` calls its schedule.
const scheduleID = "outbox-relay"

// environment is shared by all measurements of a run: the built programs, a Temporal
// namespace, clients.
type environment struct {
	vars     stack.Vars
	extra    []string // for the worker
	progress io.Writer

	token           string // a part of the name of everything that it creates
	dir             string
	sqs             *sqs.Client
	temporal        client.Client
	temporalVersion string
	notes           []string
	fixtures        int           // made so far
	own             *sink.Process // nil until ownSink is called
}

func newEnvironment(ctx context.Context, vars, extra []string, progress io.Writer) (*environment, error) {
	e := &environment{extra: extra, progress: progress, token: "bench-" + strings.ToLower(rand.Text()[:8])}
	e.vars = stack.Vars(vars).With("TEMPORAL_NAMESPACE=" + e.token)
	for _, name := range []string{"DATABASE_URL", "TEMPORAL_ADDRESS", "AWS_ENDPOINT_URL"} {
		if e.vars.Get(name) == "" {
			return nil, fmt.Errorf("%s is not set", name)
		}
	}
	var err error
	if e.dir, err = os.MkdirTemp("", "outbox-bench-"); err != nil {
		return nil, err
	}
	if err := e.prepare(ctx); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *environment) prepare(ctx context.Context) (err error) {
	e.say("building the worker and the starter")
	build := exec.CommandContext(ctx, "go", "build", "-o", e.dir+"/",
		"github.com/temporal-outbox/relay/worker", "github.com/temporal-outbox/relay/starter")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker and the starter: %w: %s", err, out)
	}
	if e.sqs, err = newSQS(ctx, e.vars); err != nil {
		return err
	}
	options, err := envconfig.LoadClientOptions(envconfig.LoadClientOptionsRequest{EnvLookup: e.vars})
	if err != nil {
		return fmt.Errorf("read Temporal's configuration: %w", err)
	}
	options.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	if e.temporal, err = client.DialContext(ctx, options); err != nil {
		return fmt.Errorf("connect to Temporal at %s: %w", options.HostPort, err)
	}
	info, err := e.temporal.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask Temporal for its version: %w", err)
	}
	e.temporalVersion = info.GetServerVersion()
	return e.makeNamespace(ctx)
}

// makeNamespace registers the namespace and waits until it can be used, which
// includes the server's own workers: they run the schedules.
func (e *environment) makeNamespace(ctx context.Context) error {
	_, err := e.temporal.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: e.token, Description: "a measurement of outbox-relay",
		WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		return fmt.Errorf("register a namespace for the measurement: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err = e.starter(ctx, e.vars, "schedule", "--every", "1h", "--maintain-every", "0")
		if err == nil {
			err = e.running(ctx)
		}
		if err == nil {
			return e.pause(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the new namespace: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

var errNoRun = errors.New("the schedule has started no run yet")

func (e *environment) running(ctx context.Context) error {
	for range 20 {
		runs, err := e.runs(ctx, time.Time{})
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
func (e *environment) starter(ctx context.Context, env stack.Vars, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(e.dir, "starter"), args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("starter %s: %w: %s", args[0], err, out)
	}
	return nil
}

// say reports progress.
func (e *environment) say(format string, args ...any) {
	_, _ = fmt.Fprintf(e.progress, format+"\n", args...)
}

// note keeps a remark for the readers of the figures.
func (e *environment) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.notes = append(e.notes, text)
	e.say("note: %s", text)
}

// noteOnce keeps a remark that may come up again and again, the first time.
func (e *environment) noteOnce(text string) {
	if !slices.Contains(e.notes, text) {
		e.note("%s", text)
	}
}

// onServer runs a statement in the database that DATABASE_URL names.
func (e *environment) onServer(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, e.vars.Get("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// close removes what newEnvironment made. It is best effort: a stack that was started for
// the measurement goes as a whole.
func (e *environment) close() {
	if e.temporal != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = e.temporal.OperatorService().DeleteNamespace(ctx, &operatorservice.DeleteNamespaceRequest{Namespace: e.token})
		e.temporal.Close()
	}
	if e.own != nil {
		e.own.Close()
	}
	_ = os.RemoveAll(e.dir)
}

// ownSink is the destination that this program brings along. It starts with the first call.
func (e *environment) ownSink(ctx context.Context) (_ *sink.Process, err error) {
	if e.own == nil {
		e.own, err = sink.Start(ctx)
	}
	return e.own, err
}
