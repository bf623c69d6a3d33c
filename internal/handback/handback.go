// Package handback returns tasks to Temporal that a worker has received and does not
// do, because it stops.
//
// A worker of the SDK that stops cancels its polls, and drops a task that arrives at that
// moment. Temporal has recorded that the task is started, and waits for its timeout: ten
// seconds for a workflow task, the heartbeat timeout for an activity. This is no rare race:
// a batch ends because its worker stops, its end makes a workflow task, and the polls of
// that same worker are the nearest to receive it.
//
// So polls are not cancelled on the wire before the worker has ended, and each task that
// nobody here will answer is answered with a failure that Temporal retries at once.
//
// From Temporal 1.31 on, a server may offer to end the polls of a worker that stops
// (frontend.enableCancelWorkerPollsOnShutdown). Version 1.32.0 then ends polls to which it is
// giving a task, and the task is lost in the same way. So this offer is hidden from the SDK.
package handback

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-outbox/relay/internal/timing"
)

// Type is the type of the failure that an activity's attempt ends with which was handed
// back. The next attempt begins at once.
const Type = "HandedBack"

const reason = "the worker that received this task stops; the task goes to another one"

// Tasks knows each task that a client's workers have received and not answered. Use one for
// each connection to Temporal. The zero value is not ready; use New.
//
// Call Stopping, then stop the workers, then End.
type Tasks struct {
	namespace string
	identity  string
	log       *slog.Logger

	under    sync.WaitGroup  // polls on the wire, and tasks on their way back
	polls    context.Context // of polls on the wire
	endPolls context.CancelFunc
	backs    context.Context // of tasks on their way back
	endBacks context.CancelFunc

	mu       sync.Mutex
	stopping bool          // and orderly is false
	open     int           // polls on the wire
	shutDown chan struct{} // closed when Temporal was told that a worker stops
	told     sync.Once
	held     map[string]task // received and not answered, by token
	returned int
	last     time.Time // when the last one was handed back
}

// task is one that Temporal has given to this process.
type task struct {
	token    []byte
	workflow bool // a workflow task, or an activity's
	conn     *grpc.ClientConn
}

// New returns Tasks for a connection. Temporal shows the identity as the worker that handed a
// task back; "" is the SDK's default identity.
func New(namespace, identity string, log *slog.Logger) *Tasks {
	if identity == "" {
		host, _ := os.Hostname()
		identity = fmt.Sprintf("%d@%s@", os.Getpid(), host)
	}
	t := &Tasks{
		namespace: namespace, identity: identity, log: log,
		shutDown: make(chan struct{}), held: map[string]task{},
	}
	t.polls, t.endPolls = context.WithCancel(context.Background())
	t.backs, t.endBacks = context.WithCancel(context.Background())
	return t
}

// Intercept is an interceptor for all calls of a connection to Temporal. It must be the
// innermost one: others see an answered poll or none.
func (t *Tasks) Intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	call := func(ctx context.Context) error { return invoke(ctx, method, req, reply, conn, opts...) }
	switch reply := reply.(type) {
	case *workflowservice.PollWorkflowTaskQueueResponse:
		return t.poll(ctx, reply, func() []task {
			if reply.GetQuery() != nil { // answered to the one who asks, or not at all
				return nil
			}
			return []task{{reply.GetTaskToken(), true, conn}}
		}, call)
	case *workflowservice.PollActivityTaskQueueResponse:
		return t.poll(ctx, reply, func() []task { return []task{{reply.GetTaskToken(), false, conn}} }, call)
	}
	if shutdown, ok := req.(*workflowservice.ShutdownWorkerRequest); ok {
		shutdown.TaskQueue = "" // whose polls Temporal would end. The sticky queue is still told.
	}
	err := call(ctx)
	base := path.Base(method)
	if answer, ok := req.(interface{ GetTaskToken() []byte }); ok && strings.HasPrefix(base, "Respond") && isFinal(err) {
		t.answered(answer.GetTaskToken())
	}
	if reply, ok := reply.(*workflowservice.DescribeNamespaceResponse); ok && err == nil {
		if offers := reply.GetNamespaceInfo().GetCapabilities(); offers != nil {
			offers.WorkerPollCompleteOnShutdown = false
		}
	}
	if base == "ShutdownWorker" {
		t.told.Do(func() { close(t.shutDown) })
	}
	if reply, ok := reply.(*workflowservice.RespondWorkflowTaskCompletedResponse); ok && err == nil {
		t.takeMore(reply, conn)
	}
	return err
}

// isFinal reports whether an answer that ended so needs no other one.
func isFinal(err error) bool {
	switch serviceerror.ToStatus(err).Code() {
	case codes.OK, codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied:
		return true
	default:
		return false
	}
}

// poll polls. If the worker gives the poll up, it goes on alone, and the task that it may
// bring is handed back. The reply belongs to the poll until poll returns no error.
func (t *Tasks) poll(ctx context.Context, reply proto.Message, tasks func() []task, call func(context.Context) error) error {
	if !t.begin() {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-t.shutDown:
			return nil // no task
		}
	}
	calling, cancel := t.detached(ctx)
	done := make(chan error, 1)
	var abandoned bool // guarded by t.mu
	go func() {
		defer t.under.Done()
		defer cancel()
		err := call(calling)
		t.closed()
		if err != nil {
			done <- err
			return
		}
		arrived := tasks()
		if t.takes(arrived, &abandoned) {
			done <- nil
			return
		}
		t.handBack(arrived)
		proto.Reset(reply)
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		t.mu.Lock()
		abandoned = true
		t.mu.Unlock()
		select {
		case err := <-done: // it came first
			return err
		default:
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// detached returns a context for a poll that outlives the one of the worker. It has its
// values, which authenticate the call, and its deadline, before which Temporal answers.
func (t *Tasks) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(t.polls, cancel)
	timed, end := own, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		timed, end = context.WithDeadline(own, deadline)
	}
	return timed, func() { stop(); end(); cancel() }
}

// begin counts a poll, unless the worker stops.
func (t *Tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping {
		return false
	}
	t.under.Add(1)
	t.open++
	return true
}

func (t *Tasks) closed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
}

// takes reports whether the worker gets the tasks that a poll has brought.
func (t *Tasks) takes(arrived []task, abandoned *bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping || *abandoned {
		return false
	}
	t.hold(arrived)
	return true
}

// hold is called with t.mu locked.
func (t *Tasks) hold(arrived []task) {
	for _, a := range arrived {
		if len(a.token) > 0 {
			t.held[string(a.token)] = a
		}
	}
}

// takeMore takes the tasks that come with the answer to a workflow task, beside polls. A
// worker that stops would drop them.
func (t *Tasks) takeMore(reply *workflowservice.RespondWorkflowTaskCompletedResponse, conn *grpc.ClientConn) {
	var arrived []task
	if next := reply.GetWorkflowTask(); next.GetQuery() == nil {
		arrived = append(arrived, task{next.GetTaskToken(), true, conn})
	}
	for _, a := range reply.GetActivityTasks() {
		arrived = append(arrived, task{a.GetTaskToken(), false, conn})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopping {
		t.hold(arrived)
		return
	}
	reply.WorkflowTask, reply.ActivityTasks = nil, nil
	t.under.Go(func() { t.handBack(arrived) })
}

func (t *Tasks) answered(token []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.held, string(token))
}

// handBack answers tasks with failures that Temporal retries at once.
func (t *Tasks) handBack(tasks []task) {
	for _, a := range tasks {
		if len(a.token) == 0 {
			continue
		}
		err := t.fail(a)
		t.mu.Lock()
		switch {
		case err == nil:
			t.returned++
			t.last = time.Now()
		case !isFinal(err): // or else another answer was faster, or the task is over
			t.hold([]task{a}) // End tries once more
		}
		t.mu.Unlock()
	}
}

func (t *Tasks) fail(a task) error {
	ctx, cancel := context.WithTimeout(t.backs, timing.HandBackTry)
	defer cancel()
	service := workflowservice.NewWorkflowServiceClient(a.conn)
	failure := &failurepb.Failure{Message: reason, Source: "outbox-relay"}
	if a.workflow {
		_, err := service.RespondWorkflowTaskFailed(ctx, &workflowservice.RespondWorkflowTaskFailedRequest{
			TaskToken: a.token, Namespace: t.namespace, Identity: t.identity, Failure: failure,
			// With this cause the attempt does not count. The next attempt is the first one then,
			// and the SDK reports only of a first attempt why it failed.
			Cause: enumspb.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND,
		})
		return err
	}
	failure.FailureInfo = &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{
		Type: Type, NextRetryDelay: durationpb.New(time.Millisecond),
		Category: enumspb.APPLICATION_ERROR_CATEGORY_BENIGN,
	}}
	_, err := service.RespondActivityTaskFailed(ctx, &workflowservice.RespondActivityTaskFailedRequest{
		TaskToken: a.token, Namespace: t.namespace, Identity: t.identity, Failure: failure,
	})
	return err
}

// Stopping makes every task that arrives from now on go back at once. It waits until the
// workers have answered the workflow tasks that they have, or ctx ends: a worker that is told
// to stop drops those that it has not begun.
func (t *Tasks) Stopping(ctx context.Context) {
	t.mu.Lock()
	t.stopping = true
	t.mu.Unlock()
	ticker := time.NewTicker(timing.HandBackLook)
	defer ticker.Stop()
	for t.decides() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// decides reports whether Stopping waits for a workflow task.
func (t *Tasks) decides() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.held {
		if a.workflow {
			return true
		}
	}
	return false
}

// End hands back every task that the workers have not answered, and ends the polls. Call it
// when the workers have ended. The polls stay a moment, because Temporal may be about to give
// them tasks that the end of activities has made. End returns how many tasks were handed back,
// and when ctx ends at the latest.
func (t *Tasks) End(ctx context.Context) int {
	defer context.AfterFunc(ctx, t.endBacks)()
	t.mu.Lock()
	for token, a := range t.held {
		delete(t.held, token)
		t.under.Go(func() { t.handBack([]task{a}) })
	}
	t.last = time.Now()
	t.mu.Unlock()
	ticker := time.NewTicker(timing.HandBackLook)
	defer ticker.Stop()
	for t.mayReceive() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	t.endPolls()
	t.under.Wait()
	t.endBacks()
	t.mu.Lock()
	defer t.mu.Unlock()
	if left := len(t.held); left > 0 {
		t.log.Warn("tasks could not be handed back: Temporal retries them after their timeouts", "tasks", left)
	}
	return t.returned
}

// mayReceive reports whether a poll may be about to bring a task.
func (t *Tasks) mayReceive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open > 0 && time.Since(t.last) < timing.HandBackQuiet
}
