package drain_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/temporal-outbox/relay/internal/drain"
	"github.com/temporal-outbox/relay/internal/timing"
)

// server speaks Temporal's protocol. Its polls wait until the test gives them a task.
type server struct {
	workflowservice.UnimplementedWorkflowServiceServer
	tasks  chan string
	polls  chan struct{} // a value for each poll that arrives
	ended  chan struct{} // a value for each poll that the worker has ended
	sticky chan bool     // whether the next decision is to wait for the worker, for each that is answered
}

func (s *server) PollActivityTaskQueue(ctx context.Context, _ *workflowservice.PollActivityTaskQueueRequest) (*workflowservice.PollActivityTaskQueueResponse, error) {
	token, err := s.poll(ctx)
	return &workflowservice.PollActivityTaskQueueResponse{TaskToken: token}, err
}

func (s *server) PollWorkflowTaskQueue(ctx context.Context, _ *workflowservice.PollWorkflowTaskQueueRequest) (*workflowservice.PollWorkflowTaskQueueResponse, error) {
	token, err := s.poll(ctx)
	return &workflowservice.PollWorkflowTaskQueueResponse{TaskToken: token}, err
}

// poll waits for a task.
func (s *server) poll(ctx context.Context) (token []byte, err error) {
	s.polls <- struct{}{}
	select {
	case token := <-s.tasks:
		return []byte(token), nil
	case <-ctx.Done():
		s.ended <- struct{}{}
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *server) RespondWorkflowTaskCompleted(_ context.Context, r *workflowservice.RespondWorkflowTaskCompletedRequest) (*workflowservice.RespondWorkflowTaskCompletedResponse, error) {
	s.sticky <- r.GetStickyAttributes() != nil
	return &workflowservice.RespondWorkflowTaskCompletedResponse{}, nil
}

func (s *server) ShutdownWorker(context.Context, *workflowservice.ShutdownWorkerRequest) (*workflowservice.ShutdownWorkerResponse, error) {
	return &workflowservice.ShutdownWorkerResponse{}, nil
}

// poll is the end of one.
type poll struct {
	task string
	err  error
}

func connect(t *testing.T) (s *server, polls *drain.Polls, client workflowservice.WorkflowServiceClient, start func(ctx context.Context) chan poll) {
	t.Helper()
	s = &server{tasks: make(chan string), polls: make(chan struct{}, 10), ended: make(chan struct{}, 10), sticky: make(chan bool, 10)}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(g, s)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	polls = drain.New()
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainUnaryInterceptor(polls.Intercept))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	client = workflowservice.NewWorkflowServiceClient(conn)
	return s, polls, client, func(ctx context.Context) chan poll {
		done := make(chan poll, 1)
		go func() {
			r, err := client.PollActivityTaskQueue(ctx, &workflowservice.PollActivityTaskQueueRequest{})
			done <- poll{string(r.GetTaskToken()), err}
		}()
		return done
	}
}

func TestDrain_GivesTheWorkerTasksThatStillCome(t *testing.T) {
	s, polls, _, start := connect(t)
	first, second := start(t.Context()), start(t.Context())
	<-s.polls
	<-s.polls
	drained := make(chan struct{})
	go func() { polls.Drain(t.Context()); close(drained) }()
	s.tasks <- "one"
	s.tasks <- "two"
	got := []string{(<-first).task, (<-second).task}
	require.ElementsMatch(t, []string{"one", "two"}, got)
	<-drained
}

// Temporal keeps the decisions of a run for the worker that has it in its cache, for a second.
func TestDrain_LeavesNoDecisionWaitingForTheWorker(t *testing.T) {
	s, polls, client, _ := connect(t)
	decide := func() {
		_, err := client.RespondWorkflowTaskCompleted(t.Context(), &workflowservice.RespondWorkflowTaskCompletedRequest{
			StickyAttributes: &taskqueuepb.StickyExecutionAttributes{WorkerTaskQueue: &taskqueuepb.TaskQueue{Name: "mine"}},
		})
		require.NoError(t, err)
	}
	decide()
	require.True(t, <-s.sticky)
	sticky := func() chan poll {
		done := make(chan poll, 1)
		go func() {
			r, err := client.PollWorkflowTaskQueue(t.Context(), &workflowservice.PollWorkflowTaskQueueRequest{
				TaskQueue: &taskqueuepb.TaskQueue{Name: "mine", Kind: enumspb.TASK_QUEUE_KIND_STICKY},
			})
			done <- poll{string(r.GetTaskToken()), err}
		}()
		return done
	}
	first := sticky()
	<-s.polls
	drained := make(chan struct{})
	go func() { polls.Drain(t.Context()); close(drained) }()
	s.tasks <- "one"
	require.Equal(t, poll{task: "one"}, <-first)
	// Drain has no other poll to wait for now. Decisions that wait for the worker still come.
	<-drained
	second := sticky()
	decide()
	require.False(t, <-s.sticky)
	_, err := client.ShutdownWorker(t.Context(), &workflowservice.ShutdownWorkerRequest{})
	require.NoError(t, err)
	require.Equal(t, poll{}, <-second)
	require.Empty(t, s.polls)
}

func TestDrain_EndsPollsThatBringNothingWithoutAnError(t *testing.T) {
	s, polls, _, start := connect(t)
	idle := start(t.Context())
	<-s.polls
	began := time.Now()
	polls.Drain(t.Context())
	require.GreaterOrEqual(t, time.Since(began), timing.DrainQuiet+timing.DrainSettle)
	// An error would be a warning in the log, and a pause.
	require.Equal(t, poll{}, <-idle)
	<-s.ended
}

func TestDrain_WithoutOpenPollsWaitsOnlyForTasksThatHaveCome(t *testing.T) {
	_, polls, _, _ := connect(t)
	began := time.Now()
	polls.Drain(t.Context())
	require.GreaterOrEqual(t, time.Since(began), timing.DrainSettle)
	require.Less(t, time.Since(began), timing.DrainQuiet+timing.DrainSettle)
}

func TestDrain_EndsThoughTasksComeToOtherPollsForEver(t *testing.T) {
	s, polls, client, start := connect(t)
	idle := start(t.Context())
	<-s.polls
	ctx, stop := context.WithCancel(t.Context())
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		for ctx.Err() == nil { // answers make tasks
			_, _ = client.RespondActivityTaskCompleted(ctx, &workflowservice.RespondActivityTaskCompletedRequest{})
		}
	}()
	began := time.Now()
	polls.Drain(t.Context())
	require.Greater(t, time.Since(began), timing.DrainQuiet+timing.DrainSettle, "an answer makes a task")
	require.Less(t, time.Since(began), timing.DrainMost+time.Second)
	require.Equal(t, poll{}, <-idle)
	stop()
	<-answering
}

func TestPolls_AfterDrainWaitForTheEndOfTheWorker(t *testing.T) {
	s, polls, client, start := connect(t)
	polls.Drain(t.Context())
	ctx, stop := context.WithCancel(t.Context())
	cancelled, told := start(ctx), start(t.Context())
	stop()
	require.Equal(t, poll{}, <-cancelled)
	_, err := client.ShutdownWorker(t.Context(), &workflowservice.ShutdownWorkerRequest{})
	require.NoError(t, err)
	require.Equal(t, poll{}, <-told)
	require.Empty(t, s.polls, "no poll reached Temporal")
}

func TestPolls_OfAWorkerThatWorksEndAsTemporalEndsThem(t *testing.T) {
	s, polls, _, start := connect(t)
	ctx, stop := context.WithCancel(t.Context())
	given := start(ctx)
	<-s.polls
	s.tasks <- "one"
	require.Equal(t, poll{task: "one"}, <-given)
	cancelled := start(ctx)
	<-s.polls
	stop()
	require.Equal(t, codes.Canceled, status.Code((<-cancelled).err))
	<-s.ended
	polls.Drain(t.Context())
}
