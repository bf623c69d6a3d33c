package handback_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/temporal-outbox/relay/internal/handback"
	"github.com/temporal-outbox/relay/internal/timing"
)

// server speaks Temporal's protocol. Its polls wait until the test gives them a task: the
// moments that matter here last microseconds on a real server.
type server struct {
	workflowservice.UnimplementedWorkflowServiceServer
	workflowTasks chan string
	activityTasks chan string
	eager         string
	answer        error
	hangs         chan struct{} // if not nil, no task can be handed back before it is closed
	shutdown      *workflowservice.ShutdownWorkerRequest

	mu     sync.Mutex
	failed map[string]enumspb.WorkflowTaskFailedCause // workflow tasks by token
	ended  map[string]string                          // types of activities' failures by token
}

func (s *server) PollWorkflowTaskQueue(ctx context.Context, _ *workflowservice.PollWorkflowTaskQueueRequest) (*workflowservice.PollWorkflowTaskQueueResponse, error) {
	select {
	case token := <-s.workflowTasks:
		return &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte(token)}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *server) PollActivityTaskQueue(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	select {
	case token := <-s.activityTasks:
		return &workflowservice.PollActivityTaskQueueResponse{TaskToken: []byte(token)}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *server) RespondWorkflowTaskCompleted(context.Context, *workflowservice.RespondWorkflowTaskCompletedRequest) (*workflowservice.RespondWorkflowTaskCompletedResponse, error) {
	r := &workflowservice.RespondWorkflowTaskCompletedResponse{}
	if s.eager != "" {
		r.ActivityTasks = []*workflowservice.PollActivityTaskQueueResponse{{TaskToken: []byte(s.eager)}}
	}
	return r, s.answer
}

func (s *server) RespondActivityTaskCompleted(context.Context, *workflowservice.RespondActivityTaskCompletedRequest) (*workflowservice.RespondActivityTaskCompletedResponse, error) {
	return &workflowservice.RespondActivityTaskCompletedResponse{}, s.answer
}

func (s *server) RespondWorkflowTaskFailed(ctx context.Context, r *workflowservice.RespondWorkflowTaskFailedRequest) (*workflowservice.RespondWorkflowTaskFailedResponse, error) {
	if s.hangs != nil {
		select {
		case <-s.hangs:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[string(r.TaskToken)] = r.Cause
	return &workflowservice.RespondWorkflowTaskFailedResponse{}, nil
}

func (s *server) RespondActivityTaskFailed(_ context.Context, r *workflowservice.RespondActivityTaskFailedRequest) (*workflowservice.RespondActivityTaskFailedResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended[string(r.TaskToken)] = r.GetFailure().GetApplicationFailureInfo().GetType()
	return &workflowservice.RespondActivityTaskFailedResponse{}, nil
}

func (s *server) ShutdownWorker(_ context.Context, r *workflowservice.ShutdownWorkerRequest) (*workflowservice.ShutdownWorkerResponse, error) {
	s.shutdown = r
	return &workflowservice.ShutdownWorkerResponse{}, nil
}

func (s *server) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{NamespaceInfo: &namespacepb.NamespaceInfo{
		Capabilities: &namespacepb.NamespaceInfo_Capabilities{WorkerPollCompleteOnShutdown: true},
	}}, nil
}

func (s *server) workflowTasksBack() map[string]enumspb.WorkflowTaskFailedCause {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *server) activitiesBack() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// connect returns a server, and a client whose calls go through Tasks.
func connect(t *testing.T) (*server, *handback.Tasks, workflowservice.WorkflowServiceClient) {
	t.Helper()
	s := &server{
		workflowTasks: make(chan string), activityTasks: make(chan string),
		failed: map[string]enumspb.WorkflowTaskFailedCause{}, ended: map[string]string{},
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(g, s)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	tasks := handback.New("default", "", slog.New(slog.DiscardHandler))
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainUnaryInterceptor(tasks.Intercept))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return s, tasks, workflowservice.NewWorkflowServiceClient(conn)
}

func TestTasks_HandsBackTheTaskOfAPollThatTheWorkerGaveUp(t *testing.T) {
	s, tasks, client := connect(t)
	ctx, giveUp := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() {
		_, err := client.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{})
		ended <- err
	}()
	go func() {
		_, err := client.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{})
		ended <- err
	}()
	// A task that arrives belongs to the worker, and shows that polls get through.
	s.workflowTasks <- "mine"
	require.NoError(t, <-ended)
	_, err := client.RespondWorkflowTaskCompleted(t.Context(), &workflowservice.RespondWorkflowTaskCompletedRequest{TaskToken: []byte("mine")})
	require.NoError(t, err)
	go func() {
		_, err := client.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{})
		ended <- err
	}()
	tasks.Stopping(t.Context())
	giveUp()
	require.Equal(t, codes.Canceled, status.Code(<-ended))
	require.Equal(t, codes.Canceled, status.Code(<-ended))
	s.activityTasks <- "activity"
	returned := make(chan int)
	go func() { returned <- tasks.End(t.Context()) }()
	select {
	case s.workflowTasks <- "decision":
		require.Equal(t, 2, <-returned)
		// The attempt does not count, so that the next one reports why it fails.
		require.Equal(t, map[string]enumspb.WorkflowTaskFailedCause{"decision": enumspb.WORKFLOW_TASK_FAILED_CAUSE_FAILOVER_CLOSE_COMMAND}, s.workflowTasksBack())
	case n := <-returned: // the poll had not begun when Stopping did
		require.Equal(t, 1, n)
	}
	require.Equal(t, map[string]string{"activity": handback.Type}, s.activitiesBack())
}

func TestTasks_HandsBackWhatTheWorkerHasNotAnswered(t *testing.T) {
	for _, c := range []struct {
		why    string
		answer error
		back   map[string]string
	}{
		{"answered", nil, map[string]string{"dropped": handback.Type}},
		{"over", status.Error(codes.NotFound, "over"), map[string]string{"dropped": handback.Type}},
		{"no answer got through", status.Error(codes.Unavailable, "away"), map[string]string{"dropped": handback.Type, "done": handback.Type}},
	} {
		s, tasks, client := connect(t)
		for _, token := range []string{"done", "dropped"} {
			go func() { s.activityTasks <- token }()
			_, err := client.PollActivityTaskQueue(t.Context(), &workflowservice.PollActivityTaskQueueRequest{})
			require.NoError(t, err)
		}
		s.answer = c.answer
		_, err := client.RespondActivityTaskCompleted(t.Context(), &workflowservice.RespondActivityTaskCompletedRequest{TaskToken: []byte("done")})
		require.Equal(t, status.Code(c.answer), status.Code(err))
		tasks.Stopping(t.Context())
		require.Equal(t, len(c.back), tasks.End(t.Context()), c.why)
		require.Equal(t, c.back, s.activitiesBack(), c.why)
	}
}

func TestTasks_WaitsForTheWorkflowTasksThatTheWorkerHas(t *testing.T) {
	s, tasks, client := connect(t)
	go func() { s.workflowTasks <- "decision" }()
	_, err := client.PollWorkflowTaskQueue(t.Context(), &workflowservice.PollWorkflowTaskQueueRequest{})
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 10*timing.HandBackLook)
	defer cancel()
	tasks.Stopping(short)
	require.Error(t, short.Err(), "it did not wait")
	s.eager = "eager"
	reply, err := client.RespondWorkflowTaskCompleted(t.Context(), &workflowservice.RespondWorkflowTaskCompletedRequest{TaskToken: []byte("decision")})
	require.NoError(t, err)
	// A worker that stops would drop an activity that comes with the answer.
	require.Empty(t, reply.GetActivityTasks())
	tasks.Stopping(t.Context())
	require.Equal(t, 1, tasks.End(t.Context()))
	require.Equal(t, map[string]string{"eager": handback.Type}, s.activitiesBack())
	require.Empty(t, s.workflowTasksBack())
}

func TestTasks_AfterStoppingPollsAskTemporalNoMore(t *testing.T) {
	_, tasks, client := connect(t)
	tasks.Stopping(t.Context())
	ended := make(chan error)
	go func() {
		_, err := client.PollActivityTaskQueue(t.Context(), &workflowservice.PollActivityTaskQueueRequest{})
		ended <- err
	}()
	_, err := client.ShutdownWorker(t.Context(), &workflowservice.ShutdownWorkerRequest{})
	require.NoError(t, err)
	require.NoError(t, <-ended)
	require.Zero(t, tasks.End(t.Context()))
}

// Temporal 1.32.0 loses tasks when it ends the polls of a worker that stops.
func TestTasks_KeepsTemporalFromEndingPolls(t *testing.T) {
	s, _, client := connect(t)
	namespace, err := client.DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{})
	require.NoError(t, err)
	require.False(t, namespace.GetNamespaceInfo().GetCapabilities().GetWorkerPollCompleteOnShutdown())
	_, err = client.ShutdownWorker(t.Context(), &workflowservice.ShutdownWorkerRequest{TaskQueue: "q", StickyTaskQueue: "sticky", WorkerInstanceKey: "w"})
	require.NoError(t, err)
	require.Empty(t, s.shutdown.GetTaskQueue())
	require.Equal(t, "sticky", s.shutdown.GetStickyTaskQueue())
}

func TestTasks_EndsInTimeWhenTemporalHangs(t *testing.T) {
	s, tasks, client := connect(t)
	s.hangs = make(chan struct{})
	defer close(s.hangs)
	go func() { s.workflowTasks <- "decision" }()
	_, err := client.PollWorkflowTaskQueue(t.Context(), &workflowservice.PollWorkflowTaskQueueRequest{})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	tasks.Stopping(ctx)
	began := time.Now()
	require.Zero(t, tasks.End(ctx))
	require.Less(t, time.Since(began), timing.HandBackTry)
}
