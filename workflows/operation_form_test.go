package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

const typed = `{"kind":"redrive","topic":"orders","all":true,"who":"ann","reason":"policy repaired"}`

// typedIn starts the workflow with a form. AskOperation answers with answer or asking.
func (e *env) typedIn(form string, answer activities.AskResult, asking error, answers ...any) (r workflows.OperationResult, asked []activities.AskRequest, err error) {
	e.t.Helper()
	e.OnActivity(act.AskOperation, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.AskRequest) (activities.AskResult, error) {
		asked = append(asked, r)
		return answer, asking
	})
	var in workflows.OperationInput
	require.NoError(e.t, json.Unmarshal([]byte(form), &in))
	if len(answers) == 0 {
		answers = []any{activities.OperateResult{Done: 30, Over: true}}
	}
	e.OnActivity(act.Redrive, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.OperateRequest) (activities.OperateResult, error) {
		require.Equal(e.t, activities.OperateRequest{Operation: 7, PerSecond: 50, For: workflows.OperateFor}, r)
		return answers[0].(activities.OperateResult), nil
	})
	e.OnActivity(act.EndOperation, mock.Anything, mock.Anything).Return(activities.OperateResult{Done: 30, Over: true}, nil)
	r, _, _, err = e.runOperation(in)
	return r, asked, err
}

var onRecord = activities.AskResult{
	Operation: 7, Kind: relay.Redrive, Topic: "orders", By: "ann", Reason: "policy repaired", Matched: 30, PerSecond: 50,
	SelectedBy: []string{"all"}, Text: "30 dead letters of orders match",
}

func TestOperation_OfAFormIsRecordedThenDoneThenFollowed(t *testing.T) {
	e := newEnv(t)
	e.OnActivity(act.FollowOperation, mock.Anything, activities.FollowRequest{Operation: 7, Moved: 30, For: workflows.FollowFor}).
		Return(relay.Delivered{Published: 28, Dead: 2, Causes: []relay.Cause{{Code: "AccessDenied", Message: "still", Events: 2}}}, nil)
	r, asked, err := e.typedIn(typed, onRecord, nil)
	require.NoError(t, err)
	require.Len(t, asked, 1)
	require.JSONEq(t, typed, string(asked[0].Form))
	require.NotEmpty(t, asked[0].FirstRun)
	require.EqualValues(t, 30, r.Done)
	require.Equal(t, &onRecord, r.Asked)
	require.Equal(t, "redrive: 30 events pending again, done. Of these, 28 published, 0 still pending, 2 dead. Dead letters: 2 with AccessDenied (still).", r.Text)
	require.EqualValues(t, 2, r.Delivered.Dead)
}

func TestOperation_OfAWrongFormFailsOnceWithAShortTextAndItsType(t *testing.T) {
	wrong := temporal.NewNonRetryableApplicationError("topic is missing", activities.TypeInvalidOperation, nil)
	_, asked, err := newEnv(t).typedIn(`{"kind": "redrive"}`, activities.AskResult{}, wrong)
	require.Len(t, asked, 1)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, "topic is missing", failure.Message())
	require.Equal(t, activities.TypeInvalidOperation, failure.Type())
	require.True(t, failure.NonRetryable())
	require.NotContains(t, err.Error(), "activity error")

	for _, form := range []string{
		`5`, `"redrive"`, `[]`, `{"operation": "x"}`, `{"operation": 0, "kind": "redrive"}`, `{"matched": "many"}`,
		`{"operation": 7, "kind": "redrive", "topic": "orders", "code": "A"}`, `{"operation": 7, "kind": "redrive", "topic": "orders", "Who": "ann"}`,
	} {
		_, asked, err = newEnv(t).typedIn(form, activities.AskResult{}, wrong)
		require.ErrorAs(t, err, &failure)
		require.JSONEq(t, form, string(asked[0].Form), "AskOperation gets the form as it was typed, so that it can name the mistake")
	}
}

func TestOperation_WithoutInputFailsLikeAWrongForm(t *testing.T) {
	e := newEnv(t)
	e.RegisterWorkflow(workflows.Operation)
	e.OnActivity(act.AskOperation, mock.Anything, mock.Anything).Return(func(_ context.Context, r activities.AskRequest) (activities.AskResult, error) {
		require.Equal(t, "null", string(r.Form))
		return activities.AskResult{}, temporal.NewNonRetryableApplicationError("give one JSON object", activities.TypeInvalidOperation, nil)
	})
	e.ExecuteWorkflow("Operation")
	require.ErrorContains(t, e.GetWorkflowError(), "give one JSON object")
}

func TestOperation_OfAFormThatMovesNothingEndsWithTheAnswerToTheForm(t *testing.T) {
	for _, over := range []activities.AskResult{
		{Kind: relay.Pause, Topic: "orders", By: "ann", Reason: "x", Over: true, Text: "orders: paused"},
		{Kind: relay.Redrive, Topic: "orders", Matched: 3, DryRun: true, Over: true, Text: "3 dead letters of orders match; dry run: nothing was changed"},
		{Operation: 7, Kind: relay.Redrive, Topic: "orders", Matched: 3, Done: 3, Over: true, Text: "3 dead letters of orders matched; the operation has ended already: 3 moved, done"},
	} {
		r, _, err := newEnv(t).typedIn(typed, over, nil)
		require.NoError(t, err)
		require.Equal(t, over.Text, r.Text)
		require.Equal(t, over.Done, r.Done)
		require.Equal(t, &over, r.Asked)
	}
}

// The events are pending again, even if their outcome cannot be read.
func TestOperation_OfAFormIsDoneEvenIfItsOutcomeCannotBeFollowed(t *testing.T) {
	e := newEnv(t)
	e.OnActivity(act.FollowOperation, mock.Anything, mock.Anything).Return(relay.Delivered{}, errors.New("the database is away"))
	r, _, err := e.typedIn(typed, onRecord, nil)
	require.NoError(t, err)
	require.Nil(t, r.Delivered)
	require.Contains(t, r.Text, "The outcome of these events is not known")
}

func TestOperation_OfAFormSaysThatTheDatabaseHasLostAPartOfIt(t *testing.T) {
	e := newEnv(t)
	e.OnActivity(act.FollowOperation, mock.Anything, mock.Anything).Return(relay.Delivered{Published: 29, Lost: 1}, nil)
	r, _, err := e.typedIn(typed, onRecord, nil)
	require.NoError(t, err)
	require.Contains(t, r.Text, "The database has lost a part of the operation")
}

func TestOperation_OfAFormContinuesAsNewAsARecordedOperation(t *testing.T) {
	e := newEnv(t)
	began := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	e.SetStartTime(began)
	e.SetCurrentHistoryLength(2_000)
	_, _, err := e.typedIn(typed, onRecord, nil, activities.OperateResult{Done: 10})
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, err, &next)
	var in workflows.OperationInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &in))
	require.Equal(t, workflows.OperationInput{Operation: 7, Kind: relay.Redrive, Topic: "orders", Matched: 30, PerSecond: 50, Began: began, Asked: &onRecord}, in)
}

// Runs that the starter has begun have the commands and the result that they always had.
func TestOperation_OfTheStarterReadsNoFormAndIsNotFollowed(t *testing.T) {
	e := newEnv(t)
	e.OnActivity(act.AskOperation, mock.Anything, mock.Anything).Return(nil, errors.New("asked"))
	e.OnActivity(act.FollowOperation, mock.Anything, mock.Anything).Return(nil, errors.New("followed"))
	r, _, _, err := e.operate(relay.Redrive, activities.OperateResult{Done: 30, Over: true})
	require.NoError(t, err)
	result, err := json.Marshal(r)
	require.NoError(t, err)
	require.JSONEq(t, `{"done":30,"lasted":"0s"}`, string(result))
	input, err := json.Marshal(workflows.OperationInput{Operation: 7, Kind: relay.Redrive, Topic: "orders", Matched: 30})
	require.NoError(t, err)
	require.Equal(t, `{"operation":7,"kind":"redrive","topic":"orders","matched":30}`, string(input))
}
