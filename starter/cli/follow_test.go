package cli

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
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
func TestFollow_WaitsForTheEndThroughAnOutageOfTemporal(t *testing.T) {
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

// A failover after the end has lost one of three events, which is a dead letter as before.
func TestFollow_ConfirmsNoOutcomeThatTheDatabaseHasLostInPart(t *testing.T) {
	r := &report{Operation: 7, Topic: "orders", Done: 2, moved: 3, Delivered: &relay.Delivered{Moved: 2, Published: 2, Lost: 1}}
	require.ErrorContains(t, unconfirmed(r, time.Minute), "of 3 events of orders, it has a record of 2: run the same command again")
	r.Delivered = &relay.Delivered{Moved: 3, Published: 3, UnderWay: true}
	require.ErrorContains(t, unconfirmed(r, time.Minute), "lost a part of operation 7")
	r.Delivered.UnderWay = false
	require.NoError(t, unconfirmed(r, time.Minute))
}
