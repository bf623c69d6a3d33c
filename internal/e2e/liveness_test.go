package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	grpcproxy "go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// relayShown is a part of what "status --json" says of the relay.
type relayShown struct {
	Schedule struct {
		State, Note string
		NextAction  *time.Time
	}
	Run               struct{ State, WorkflowID string }
	Workers           struct{ State string }
	Version           *struct{ Deployment, State, Current string }
	Problems, Unknown []string
}

// relay asks the status command.
func (o *outbox) relay() relayShown {
	return commandJSON[struct {
		Topics []struct{ Topic string }
		Relay  relayShown
	}](o, "status").Relay
}

// showsProblems waits until status has these problems and no others, each known by a part
// of its text.
func (o *outbox) showsProblems(parts ...string) (shown relayShown) {
	o.t.Helper()
	testenv.Eventually(o.t, 40*time.Second, func() error {
		shown = o.relay()
		if len(shown.Unknown) > 0 || len(shown.Problems) != len(parts) {
			return fmt.Errorf("problems %q, unknown %q, want %q", shown.Problems, shown.Unknown, parts)
		}
		for _, part := range parts {
			if !slices.ContainsFunc(shown.Problems, func(text string) bool { return strings.Contains(text, part) }) {
				return fmt.Errorf("no problem says %q: %q", part, shown.Problems)
			}
		}
		return nil
	})
	return shown
}

// Everything is green for Temporal in each of these states, and events wait.
func TestStatus_SaysThatNothingRunsTheRelayAndHowItGoesOn(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	o.write("orders", "e", 3, 1)

	shown := o.showsProblems(`run "starter schedule --task-queue `+o.queue+`"`, "the schedule starts none", "no worker polls task queue "+o.queue)
	require.Equal(t, "absent", shown.Schedule.State)
	require.Equal(t, "absent", shown.Run.State)
	out := o.starter("status")
	require.Contains(t, out, "warning: there is no schedule "+o.queue)
	require.Regexp(t, `orders +│ +3`, out, "the table is there all the same")

	o.schedule()
	shown = o.showsProblems("has been waiting for a worker since", "no worker polls task queue "+o.queue)
	require.Equal(t, "stuck", shown.Run.State)
	require.Equal(t, "active", shown.Schedule.State)
	require.NotNil(t, shown.Schedule.NextAction)

	o.work()
	shown = o.showsProblems()
	require.Equal(t, "running", shown.Run.State)
	require.Equal(t, "polling", shown.Workers.State)
	require.Nil(t, shown.Version)
	out = o.starter("status")
	require.NotContains(t, out, "warning")
	require.Contains(t, out, "relay: run "+shown.Run.WorkflowID+" has been under way since")
	require.Contains(t, out, "schedule: schedule "+o.queue+" is active, its next action is at")

	schedule := c.ScheduleClient().GetHandle(t.Context(), o.queue)
	require.NoError(t, schedule.Pause(t.Context(), client.SchedulePauseOptions{Note: "ada: our deploy"}))
	shown = o.showsProblems("is paused (ada: our deploy)")
	require.Equal(t, "paused", shown.Schedule.State)
	require.Equal(t, "ada: our deploy", shown.Schedule.Note)
	require.Nil(t, shown.Schedule.NextAction)
	// One may wait behind it.
	testenv.Eventually(t, 20*time.Second, func() error {
		for _, r := range o.runs(t.Context(), c) {
			if r.open() {
				_ = c.CancelWorkflow(t.Context(), r.id, r.runID)
			}
		}
		if s := o.relay(); s.Run.State != "absent" {
			return fmt.Errorf("run %s is %s", s.Run.WorkflowID, s.Run.State)
		}
		return nil
	})
	o.showsProblems("temporal schedule toggle --unpause --schedule-id "+o.queue, "the schedule starts none")

	require.NoError(t, schedule.Unpause(t.Context(), client.ScheduleUnpauseOptions{}))
	o.showsProblems()
}

func TestStatus_OfVersionedWorkersSaysThatNoVersionIsCurrent(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.schedule()
	o.work("TEMPORAL_DEPLOYMENT_NAME="+o.queue, "TEMPORAL_WORKER_BUILD_ID=v1")
	// The command learns the deployment from the workers.
	promote := "starter promote --deployment " + o.queue + " --build-id v1"
	shown := o.showsProblems("has been waiting for a worker since", "has no current version, so no workflow runs: run \""+promote+"\"")
	require.Equal(t, "absent", shown.Version.State)

	out, status := o.check([]string{"TEMPORAL_DEPLOYMENT_NAME=" + o.queue, "TEMPORAL_WORKER_BUILD_ID=v1"})
	require.Zero(t, status, out)
	require.Regexp(t, `^warning .*`+promote, line(t, out, "version"))
	o.starter("promote", "--deployment", o.queue, "--build-id", "v1")
	shown = o.showsProblems()
	require.Equal(t, "v1", shown.Version.Current)
	out, _ = o.check([]string{"TEMPORAL_DEPLOYMENT_NAME=" + o.queue, "TEMPORAL_WORKER_BUILD_ID=v2"})
	require.Regexp(t, `^ok .*version v1 of deployment`, line(t, out, "version"))
}

func TestCheck_WarnsThatNothingRunsTheRelayAndFailsNotForIt(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	c := testenv.Temporal(t)
	out, status := o.check(nil)
	require.Zero(t, status, "it is run before the first deployment")
	require.Regexp(t, `^warning .*there is no schedule .*starter schedule`, line(t, out, "schedule"))
	require.Regexp(t, `^warning .*no run of Relay`, line(t, out, "relay"))
	require.Regexp(t, `^warning .*no worker polls`, line(t, out, "workers"))
	require.NotContains(t, out, " version ")

	o.schedule()
	o.work()
	o.showsProblems()
	out, status = o.check(nil)
	require.Zero(t, status)
	for _, check := range []string{"schedule", "relay", "workers"} {
		require.Regexp(t, `^ok `, line(t, out, check))
	}
	require.NoError(t, c.ScheduleClient().GetHandle(t.Context(), o.queue).Pause(t.Context(), client.SchedulePauseOptions{Note: "ada: our deploy"}))
	out, status = o.check(nil)
	require.Zero(t, status)
	require.Regexp(t, `^warning .*paused \(ada: our deploy\).*toggle --unpause`, line(t, out, "schedule"))

	out, status = o.check([]string{"TEMPORAL_ADDRESS=127.0.0.1:1"})
	require.Equal(t, 1, status)
	require.Regexp(t, `^failed `, line(t, out, "temporal"))
	require.Regexp(t, `^unknown .*not checked: see temporal`, line(t, out, "schedule"))
}

func TestStatus_WithoutTemporalIsShownWithinSecondsAndSaysWhatIsNotKnown(t *testing.T) {
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.write("orders", "e", 3, 1)
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	for name, address := range map[string]string{"refused": "127.0.0.1:1", "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			env := append(append([]string{}, o.env...), "TEMPORAL_ADDRESS="+address)
			began := time.Now()
			r := o.commandIn(env, "status")
			require.Zero(t, r.status, r.err)
			require.Less(t, time.Since(began), 10*time.Second)
			require.Contains(t, r.out, "not known whether the relay runs: connect to Temporal at")
			require.Regexp(t, `orders +│ +3`, r.out)
			require.NotContains(t, r.out, "warning")
			r = o.commandIn(env, "status", "--json")
			require.Zero(t, r.status)
			require.Contains(t, r.out, `"problems":[],"unknown":["connect to Temporal`)
		})
	}
}

// asked is Temporal with a proxy in front that counts the questions about schedules, and
// may refuse them.
type asked struct {
	address string
	times   atomic.Int64
	refused atomic.Bool
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	a := &asked{}
	conn, err := grpc.NewClient(os.Getenv("TEMPORAL_ADDRESS"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	passing, err := grpcproxy.NewWorkflowServiceProxyServer(grpcproxy.WorkflowServiceProxyOptions{Client: workflowservice.NewWorkflowServiceClient(conn)})
	require.NoError(t, err)
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if _, schedule := r.(*workflowservice.DescribeScheduleRequest); schedule {
			a.times.Add(1)
			if a.refused.Load() {
				return nil, status.Error(codes.PermissionDenied, "not by this key")
			}
		}
		return handle(ctx, r)
	}))
	workflowservice.RegisterWorkflowServiceServer(s, passing)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	a.address = l.Addr().String()
	return a
}

func TestStatus_WithoutRightsInTemporalSaysThatItIsNotKnown(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.schedule()
	o.work()
	o.showsProblems()
	a := newAsked(t)
	a.refused.Store(true)
	env := append(append([]string{}, o.env...), "TEMPORAL_ADDRESS="+a.address)
	r := o.commandIn(env, "status")
	require.Zero(t, r.status, r.err)
	require.Contains(t, r.out, "not known whether the relay runs: describe schedule "+o.queue)
	require.Contains(t, r.out, "not by this key")
	require.Contains(t, r.out, "relay: run "+o.queue, "it is found without the schedule")
	out, status := o.check([]string{"TEMPORAL_ADDRESS=" + a.address})
	require.Zero(t, status, out)
	require.Regexp(t, `^unknown .*not by this key`, line(t, out, "schedule"))
	require.Regexp(t, `^ok `, line(t, out, "relay"))
}

func TestStatus_ThatIsWatchedAsksTemporalNotAtEachTick(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	a := newAsked(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(o.programs, "starter"), "status", "--watch", "--every", "100ms", "--json")
	cmd.Env = append(append([]string{}, o.env...), "TEMPORAL_ADDRESS="+a.address)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for range 20 {
		require.True(t, lines.Scan())
		var seen struct{ Relay relayShown }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &seen))
		require.Equal(t, "absent", seen.Relay.Schedule.State)
	}
	require.EqualValues(t, 2, a.times.Load(), "once about each of two schedules")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	for lines.Scan() { // to its end
	}
	require.NoError(t, cmd.Wait())
}
