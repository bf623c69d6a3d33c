package e2e

import (
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	sdkworker "go.temporal.io/sdk/worker"

	"github.com/temporal-outbox/relay/internal/testenv"
	"github.com/temporal-outbox/relay/workflows"
)

// readiness asks a worker's /readyz.
func (w *worker) readiness(query string) (status int, body string) {
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
		if status, body := w.readiness(""); status != http.StatusOK {
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
func (o *outbox) passGate(build string) (r workflows.GateResult, err error) {
	o.t.Helper()
	c := testenv.Temporal(o.t)
	var run client.WorkflowRun
	testenv.Eventually(o.t, 30*time.Second, func() (err error) { // until Temporal knows the version
		run, err = c.ExecuteWorkflow(o.t.Context(), client.StartWorkflowOptions{
			ID: o.queue + "-gate-" + build, TaskQueue: o.queue, WorkflowExecutionTimeout: time.Minute,
			VersioningOverride: &client.PinnedVersioningOverride{
				Version: sdkworker.WorkerDeploymentVersion{DeploymentName: o.queue, BuildID: build},
			},
		}, "Gate")
		return err
	})
	err = run.Get(o.t.Context(), &r)
	return r, err
}

// Temporal's worker controller waits for ready pods, then runs the gate, and then makes
// their version current.
func TestFirstInstall_InTheOrderOfTheWorkerControllerBecomesReadyAndPublishes(t *testing.T) {
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
	require.Contains(t, found.Findings, "ok rights: the role may do what the relay does")
	require.Equal(t, 100, o.pending(), "the gate publishes nothing")

	o.promoteByAPI("one")
	o.drained(30 * time.Second)
	requireOnce(t, q.receive(100, 30*time.Second), "e", 100)
	testenv.Eventually(t, 60*time.Second, func() error {
		_, err := o.askReady(w, "--strict")
		return err
	})
}

func TestFirstInstall_WithOneDestinationMissingBecomesReadyAndPublishesTheOthers(t *testing.T) {
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
	o := newOutbox(t, "topics:\n  orders: {sqs: "+newQueue(t, testenv.Name(t)).name+"}\n")
	o.schedule()
	c := testenv.Temporal(t)
	require.NoError(t, c.ScheduleClient().GetHandle(t.Context(), o.queue).Pause(t.Context(), client.SchedulePauseOptions{Note: "their migration"}))
	w := o.work()
	w.getsReady()
	testenv.Eventually(t, 30*time.Second, func() error { return w.ready("their migration") })
	require.NoError(t, w.metric(`outbox_relay_up{part="schedule"`, "0"))
	status, body := w.readiness("?strict")
	require.Equal(t, http.StatusServiceUnavailable, status, body)
	status, body = w.readiness("")
	require.Equal(t, http.StatusOK, status, body)
}

func TestReadiness_IsLostWhileAWorkerStops(t *testing.T) {
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	w := o.work()
	o.schedule()
	w.getsReady()
	o.inFlow("orders", many())
	seen := make(chan string, 1)
	go func() {
		for {
			status, body := w.readiness("")
			if status != http.StatusOK {
				seen <- body
				return
			}
		}
	}()
	w.stop()
	// The endpoint may be gone before it was asked again: that is not ready either.
	require.Regexp(t, "does not poll Temporal any more: it is stopping|connection refused|EOF|reset", <-seen)
}
