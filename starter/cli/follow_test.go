package cli

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/workflows"
)

// answering is a workflow's run whose end is told as Temporal's answers have it.
type answering struct {
	client.WorkflowRun
	answers []error
	asked   int
}

func (a *answering) Get(_ context.Context, result any) error {
	err := a.answers[a.asked]
	a.asked++
	if r, ok := result.(*workflows.OperationResult); ok && err == nil {
		r.Done = 7
	}
	return err
}

// Temporal's client gives up after a minute; whoever follows an operation does not.
func TestTheEndOfAnOperationIsWaitedForThroughAnOutageOfTemporal(t *testing.T) {
	run := &answering{answers: []error{serviceerror.NewUnavailable("away"), nil}}
	r, err := ended(t.Context(), run)
	require.NoError(t, err)
	require.EqualValues(t, 7, r.Done)
	for _, final := range []error{
		&temporal.WorkflowExecutionError{},
		serviceerror.NewNotFound("there is no such workflow"),
		serviceerror.NewPermissionDenied("not you", ""),
	} {
		run := &answering{answers: []error{final}}
		_, err := ended(t.Context(), run)
		require.ErrorIs(t, err, final, "it will not be different the next time")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = ended(ctx, &answering{answers: []error{errors.New("interrupted")}})
	require.ErrorContains(t, err, "interrupted")
}
