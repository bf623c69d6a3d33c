package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	temporalproxy "go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// readiness asks a worker's /readyz.
func (w *worker) readiness(query string) (code int, body string) {
	w.t.Helper()
	resp, err := http.Get("http://" + w.http + "/readyz" + query) //nolint:noctx // a test
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return resp.StatusCode, string(b)
}

// getsReady waits until /readyz answers 200.
func (w *worker) getsReady() {
	w.t.Helper()
	testenv.Eventually(w.t, 30*time.Second, func() error {
		if code, body := w.readiness(""); code != http.StatusOK {
			return errors.New(body)
		}
		return nil
	})
}

// askReady runs "worker ready" beside a worker.
func (o *outbox) askReady(w *worker, args ...string) (string, error) {
	cmd := exec.CommandContext(o.t.Context(), filepath.Join(o.programs, "worker"), append([]string{"ready"}, args...)...)
	cmd.Env = append(append([]string{}, o.env...), "OUTBOX_HTTP_ADDRESS="+w.http)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// passGate runs the gate on a version, as the worker controller does before traffic moves.
func (o *outbox) passGate(build string, input ...any) (r workflows.GateResult, err error) {
	o.t.Helper()
	c := testenv.Temporal(o.t)
	var run client.WorkflowRun
	testenv.Eventually(o.t, 30*time.Second, func() (err error) { // until Temporal knows the version
		run, err = c.ExecuteWorkflow(o.t.Context(), client.StartWorkflowOptions{
			ID: o.queue + "-gate-" + build, TaskQueue: o.queue, WorkflowExecutionTimeout: time.Minute,
			VersioningOverride: &client.PinnedVersioningOverride{
				Version: sdkworker.WorkerDeploymentVersion{DeploymentName: o.queue, BuildID: build},
			},
		}, "Gate", input...)
		return err
	})
	err = run.Get(o.t.Context(), &r)
	return r, err
}

// Temporal's worker controller waits for ready pods, then runs the gate, and then makes
// their version current.
func TestFirstInstall_InTheWorkerControllersOrderBecomesReadyAndPublishes(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.schedule()
	o.write("orders", "e", 100, 10)
	w := o.startWorker(o.version("one")...)
	w.getsReady()
	testenv.Eventually(t, 30*time.Second, func() error { return w.ready("has no current version") })
	out, err := o.askReady(w)
	require.NoError(t, err, out)
	out, err = o.askReady(w, "--strict")
	require.Error(t, err)
	require.Contains(t, out, "starter promote --deployment "+o.queue)
	found, err := o.passGate("one")
	require.NoError(t, err)
	require.Greater(t, found.Checked, 5)
	require.Equal(t, 100, o.pending(), "the gate publishes nothing")

	o.promoteByAPI("one")
	o.drained(30 * time.Second)
	requireOnce(t, q.receive(100, 30*time.Second), "e", 100)
	testenv.Eventually(t, 60*time.Second, func() error {
		_, err := o.askReady(w, "--strict")
		return err
	})
}

func TestFirstInstall_WithoutOneDestinationBecomesReadyAndPublishesTheRest(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  broken: {sqs: there-is-no-such-queue}\n  orders: {sqs: "+q.name+"}\n")
	o.schedule()
	w := o.startWorker(o.version("one")...)
	w.getsReady()
	testenv.Eventually(t, 30*time.Second, func() error { return w.ready("reported: topic broken: ") })
	_, err := o.passGate("one")
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, workflows.TypeGateFailed, failure.Type())
	require.Contains(t, failure.Message(), "broken: destination")
	require.NotContains(t, failure.Message(), "orders")
	found, err := o.passGate("one", workflows.GateInput{Destinations: "warn"})
	require.NoError(t, err)
	require.Contains(t, strings.Join(found.Findings, "\n"), "broken: destination")

	o.promoteByAPI("one")
	o.write("orders", "e", 100, 10)
	o.drainedTopic("orders", 30*time.Second)
	requireOnce(t, q.receive(100, 30*time.Second), "e", 100)
	out, err := o.askReady(w, "--strict")
	require.Error(t, err)
	require.Contains(t, out, "topic broken")
	require.NoError(t, w.metric(`outbox_destination_up{topic="broken"`, "0"))
	require.NoError(t, w.metric(`outbox_destination_up{topic="orders"`, "1"))
}

func TestReadiness_ReportsAPausedScheduleAndStaysReady(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: "+newQueue(t, testenv.Name(t)).name+"}\n")
	o.schedule()
	c := testenv.Temporal(t)
	require.NoError(t, c.ScheduleClient().GetHandle(t.Context(), o.queue).Pause(t.Context(), client.SchedulePauseOptions{Note: "their migration"}))
	w := o.work()
	w.getsReady()
	testenv.Eventually(t, 30*time.Second, func() error { return w.ready("their migration") })
	require.NoError(t, w.metric(`outbox_relay_up{part="schedule"`, "0"))
	code, body := w.readiness("?strict")
	require.Equal(t, http.StatusServiceUnavailable, code, body)
	code, body = w.readiness("")
	require.Equal(t, http.StatusOK, code, body)
}

func TestReadiness_IsLostWhileAWorkerStops(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work()
	o.schedule()
	w.getsReady()
	o.inFlow("orders", many())
	seen := make(chan string, 1)
	go func() {
		for {
			code, body := w.readiness("")
			if code != http.StatusOK {
				seen <- body
				return
			}
		}
	}()
	w.stop()
	// The endpoint may be gone before it was asked again: that is not ready either.
	require.Regexp(t, "no longer polls Temporal: it is stopping|connection refused|EOF|reset", <-seen)
}

func TestReadiness_ReportsAQueueThatIsDeletedUnderAWorker(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work()
	o.schedule()
	o.write("orders", "e", 10, 3)
	o.drained(30 * time.Second)
	_, err := o.askReady(w, "--strict")
	require.NoError(t, err)
	q.remove()
	out, err := o.askReady(w, "--strict")
	require.Error(t, err)
	require.Contains(t, out, "topic orders")
	require.NoError(t, w.metric(`outbox_destination_up{topic="orders"`, "0"))
	code, body := w.readiness("")
	require.Equal(t, http.StatusOK, code, body)
	newQueue(t, q.name)
	testenv.Eventually(t, 40*time.Second, func() error { return w.metric(`outbox_destination_up{topic="orders"`, "1") })
}

func TestReadiness_OfAWorkerWithoutAVersionSaysThatItGetsNoWork(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: "+newQueue(t, testenv.Name(t)).name+"}\n")
	o.schedule()
	versioned := o.startWorker(o.version("one")...)
	o.promoteByAPI("one")
	w := o.work()
	w.getsReady()
	strict := func(of *worker) error {
		out, err := o.askReady(of, "--strict")
		if err != nil {
			return errors.New(out)
		}
		return nil
	}
	testenv.Eventually(t, 60*time.Second, func() error { return strict(versioned) })
	err := strict(w)
	require.ErrorContains(t, err, "version one of deployment "+o.queue+" is current, so this worker, which has no version, gets no work: stop it; or ")
	require.ErrorContains(t, err, "temporal worker deployment set-current-version --deployment-name "+o.queue+" --unversioned")
	code, body := w.readiness("")
	require.Equal(t, http.StatusOK, code, body)
	require.Contains(t, body, "gets no work")
	out, _ := o.check(nil)
	require.Regexp(t, `^warning .*this worker, which has no version, gets no work`, line(t, out, "version"))

	// As that command does.
	o.promoteByAPI("")
	versioned.stop()
	o.write("orders", "e", 10, 3)
	o.drained(30 * time.Second)
	testenv.Eventually(t, 60*time.Second, func() error { return strict(w) })
}

// gatekeeper is Temporal behind a gateway that answers health checks, and whatever else only
// while it lets calls pass.
func gatekeeper(t *testing.T) (address string, refuse *atomic.Bool) {
	t.Helper()
	conn, err := grpc.NewClient(os.Getenv("TEMPORAL_ADDRESS"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	service, err := temporalproxy.NewWorkflowServiceProxyServer(temporalproxy.WorkflowServiceProxyOptions{Client: workflowservice.NewWorkflowServiceClient(conn)})
	require.NoError(t, err)
	refuse = &atomic.Bool{}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if refuse.Load() && !strings.Contains(info.FullMethod, "GetSystemInfo") && !strings.Contains(info.FullMethod, "Health") {
			return nil, status.Error(codes.Unauthenticated, "API key expired")
		}
		return next(ctx, req)
	}))
	workflowservice.RegisterWorkflowServiceServer(server, service)
	answers := health.NewServer()
	answers.SetServingStatus("temporal.api.workflowservice.v1.WorkflowService", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, answers)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String(), refuse
}

func TestReadiness_IsLostWhileTemporalRefusesToGiveWork(t *testing.T) {
	t.Parallel()
	address, refuse := gatekeeper(t)
	o := newOutbox(t, "topics:\n  orders: {sqs: "+newQueue(t, testenv.Name(t)).name+"}\n")
	w := o.work("TEMPORAL_ADDRESS=" + address)
	o.schedule()
	o.write("orders", "e", 10, 3)
	o.drained(30 * time.Second)
	w.getsReady()
	refuse.Store(true)
	// Long polls that are under way end within a minute.
	testenv.Eventually(t, 100*time.Second, func() error { return w.ready("Temporal gives this worker no work") })
	code, body := w.readiness("")
	require.Equal(t, http.StatusServiceUnavailable, code, body)
	require.Contains(t, body, "it is not known whether the relay runs")
	refuse.Store(false)
	testenv.Eventually(t, 60*time.Second, func() error { return w.ready("ready\n") })

	refuse.Store(true)
	require.Contains(t, o.refused("TEMPORAL_ADDRESS="+address), "API key expired", "a new worker does not even start")
}

func TestGate_TakesAnyInput(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  broken: {sqs: there-is-no-such-queue}\n")
	o.work()
	c := testenv.Temporal(t)
	run := func(args ...any) error {
		w, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: o.queue, WorkflowExecutionTimeout: time.Minute}, "Gate", args...)
		require.NoError(t, err)
		return w.Get(t.Context(), nil)
	}
	for _, args := range [][]any{nil, {"text"}, {[]int{1}}, {7}, {true}, {map[string]int{"a": 1}}, {nil}} {
		var failure *temporal.ApplicationError
		require.ErrorAs(t, run(args...), &failure, "%v", args)
		require.Equal(t, workflows.TypeGateFailed, failure.Type(), "%v: %v", args, failure)
	}
	require.NoError(t, run(map[string]string{"destinations": "warn"}), "a missing destination harms only its topic")
}
