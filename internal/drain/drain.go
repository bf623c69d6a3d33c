// Package drain ends the polls of a worker before the worker stops, so that no task is lost
// with them.
//
// A worker of the SDK that stops cancels its polls and tells its activities to stop in the
// same moment. Temporal gives a task to such a poll before it has heard of the end of it, and
// the SDK drops the task. Temporal has recorded that the task is started, and waits for its
// timeout: ten seconds. This is no rare race. A batch ends because its worker stops, its end
// makes a workflow task, and the polls of that worker are the nearest to it.
//
// From Temporal 1.31 on, a server may end the polls of a worker that stops
// (frontend.enableCancelWorkerPollsOnShutdown; by default it does not). Version 1.32.0 loses
// tasks as well when it does so. It finds no polls after Drain.
package drain

import (
	"context"
	"path"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-outbox/relay/internal/timing"
)

// Polls are the polls of one worker. Give Intercept to the worker's connection, which no
// other worker may use. Call Drain before the worker's Stop.
type Polls struct {
	cancelled context.Context // when the polls on the wire end
	cancel    context.CancelFunc

	mu       sync.Mutex
	draining bool
	open     int       // polls on the wire
	last     time.Time // when Temporal gave a task, or was given the answer to one

	shutDown chan struct{} // closed when Temporal was told that the worker stops
	told     sync.Once
}

// New returns the polls of a worker.
func New() *Polls {
	p := &Polls{shutDown: make(chan struct{})}
	p.cancelled, p.cancel = context.WithCancel(context.Background())
	return p
}

// Intercept is an interceptor for all calls of a connection to Temporal.
func (p *Polls) Intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	call := func(ctx context.Context) error { return invoke(ctx, method, req, reply, conn, opts...) }
	switch reply := reply.(type) {
	case *workflowservice.PollWorkflowTaskQueueResponse:
		r, ok := req.(*workflowservice.PollWorkflowTaskQueueRequest)
		return p.poll(ctx, ok && r.GetTaskQueue().GetKind() == enumspb.TASK_QUEUE_KIND_STICKY, reply, call)
	case *workflowservice.PollActivityTaskQueueResponse:
		return p.poll(ctx, false, reply, call)
	}
	if r, ok := req.(*workflowservice.RespondWorkflowTaskCompletedRequest); ok && p.isDraining() {
		// The run's next decision goes to any worker at once, and waits no second for this one.
		r.StickyAttributes = nil
	}
	err := call(ctx)
	switch base := path.Base(method); {
	case strings.HasPrefix(base, "Respond"):
		p.noteAnswer()
	case base == "ShutdownWorker":
		p.told.Do(func() { close(p.shutDown) })
	}
	return err
}

// taskReply is the answer to a poll.
type taskReply interface {
	proto.Message
	GetTaskToken() []byte
}

// poll asks for a task. While the worker drains, only sticky polls do: decisions of runs that
// the worker has in its cache would wait for it. The others wait for the end of the worker.
func (p *Polls) poll(ctx context.Context, sticky bool, reply taskReply, call func(context.Context) error) error {
	if !p.begin(sticky) {
		select {
		case <-ctx.Done():
		case <-p.shutDown:
		}
		return nil
	}
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.cancelled, cancel)()
	err := call(calling)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	switch {
	case err == nil && len(reply.GetTaskToken()) > 0:
		p.last = time.Now()
		return nil
	case p.draining && ctx.Err() == nil:
		proto.Reset(reply)
		return nil // for the worker, a poll that brought no task
	default:
		return err
	}
}

// begin counts a poll, unless it must not begin.
func (p *Polls) begin(sticky bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining && (!sticky || p.cancelled.Err() != nil) {
		return false
	}
	p.open++
	return true
}

func (p *Polls) isDraining() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.draining
}

// noteAnswer notes the answer to a task: it makes the next task.
func (p *Polls) noteAnswer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
}

// Drain ends the polls. The worker does the tasks that still come. Drain waits until its polls
// have brought tasks, or no task has come for timing.DrainQuiet, and cancels the polls that are
// left. It takes timing.DrainMost at most.
func (p *Polls) Drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, timing.DrainMost-timing.DrainSettle)
	defer cancel()
	p.mu.Lock()
	p.draining, p.last = true, time.Now()
	p.mu.Unlock()
	ticker := time.NewTicker(timing.DrainLook)
	defer ticker.Stop()
	for p.mayBring() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	p.cancel()
	// Temporal hears of the end of a poll some milliseconds later. Until then the worker must
	// make no tasks by stopping what it does. It also begins what the polls have just brought.
	time.Sleep(timing.DrainSettle)
}

// mayBring reports whether a poll on the wire may be about to bring a task.
func (p *Polls) mayBring() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open > 0 && time.Since(p.last) < timing.DrainQuiet
}
