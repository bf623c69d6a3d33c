package telemetry_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/testenv"
)

var errOnPurpose = errors.New("on purpose")

func publish(ctx context.Context) error {
	trace.SpanFromContext(ctx).AddEvent("seen in the activity")
	return errOnPurpose
}

// poll is an activity that may be silent.
func poll(ctx context.Context, silent bool) error {
	if !silent {
		if !trace.SpanContextFromContext(ctx).IsValid() {
			return errors.New("no span")
		}
		return nil
	}
	if trace.SpanContextFromContext(ctx).IsValid() {
		return errors.New("a span")
	}
	return nil
}

func both(ctx workflow.Context) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	for _, silent := range []bool{true, false} {
		if err := workflow.ExecuteActivity(ctx, poll, silent).Get(ctx, nil); err != nil {
			return err
		}
	}
	return workflow.ExecuteActivity(ctx, publish).Get(ctx, nil)
}

func TestTrace_IsOneForEachAttemptOfAnActivityAndNoneForWorkflows(t *testing.T) {
	c := testenv.NewCollector(t)
	traces, err := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL})
	require.NoError(t, err)
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetWorkerOptions(worker.Options{Interceptors: traces.Interceptors(func(activityType string, args []any) bool {
		return activityType == "poll" && len(args) == 1 && args[0] == true
	})})
	env.RegisterWorkflow(both)
	env.RegisterActivity(publish)
	env.RegisterActivity(poll)
	env.SetWorkflowRunTimeout(3 * time.Second) // the first attempt, one after 1 s, and none after 2 s more
	env.ExecuteWorkflow(both)
	require.Error(t, env.GetWorkflowError())
	traces.Stop()

	spans := c.Spans()
	require.GreaterOrEqual(t, len(spans), 3, "%+v", spans)
	require.Equal(t, "RunActivity:poll", spans[0].Name, "the one that is not silent")
	spans = spans[1:]
	for _, s := range spans {
		require.Equal(t, "RunActivity:publish", s.Name)
		require.Empty(t, s.Parent)
		require.Contains(t, s.Error, "on purpose")
		require.NotEmpty(t, s.Attributes["temporalWorkflowID"])
		require.NotEmpty(t, s.Attributes["temporalRunID"])
	}
	require.NotEqual(t, spans[0].TraceID, spans[1].TraceID)
	require.Contains(t, c.Text(), "seen in the activity")
}
