package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
)

// asks has a record of what is asked for. What it does right is tested on PostgreSQL, in
// internal/postgres.
type asks struct {
	AskStore
	OperationStore
	dead      relay.Count
	published int64
	same      *relay.OperationState // is under way already
	begun     []relay.Operation
	abandoned []int64
	changed   bool
	delivered []relay.Delivered
	countErr  error
	switchErr error
}

func (s *asks) CountDead(_ context.Context, topic string, _ relay.Selection) (relay.Count, error) {
	if topic != "orders" {
		return relay.Count{}, relay.ErrUnknownTopic
	}
	return s.dead, s.countErr
}

func (s *asks) CountPublished(context.Context, string, relay.Selection, relay.Progress) (int64, time.Time, error) {
	return s.published, time.Time{}, nil
}

func (s *asks) AskedBy(_ context.Context, o relay.Operation) (u relay.OperationState, found bool, err error) {
	for i, begun := range s.begun {
		if begun.WorkflowID == o.WorkflowID {
			u = relay.OperationState{Operation: begun, ID: int64(i + 1)}
			if begun.RunID != o.RunID {
				err = relay.ErrAskedBefore
			}
			return u, true, err
		}
	}
	return u, false, nil
}

func (s *asks) BeginAsked(_ context.Context, o relay.Operation) (relay.OperationState, error) {
	if s.same != nil {
		return *s.same, relay.ErrSameUnderWay
	}
	s.begun = append(s.begun, o)
	return relay.OperationState{Operation: o, ID: int64(len(s.begun))}, nil
}

func (s *asks) EndOperation(_ context.Context, id int64, outcome string, _ int64) error {
	if strings.HasPrefix(outcome, relay.Abandoned) {
		s.abandoned, s.same = append(s.abandoned, id), nil
	}
	return nil
}

func (s *asks) Pause(_ context.Context, o relay.Operation) (bool, error) {
	s.begun = append(s.begun, o)
	return s.changed, s.switchErr
}

func (s *asks) Resume(ctx context.Context, o relay.Operation) (bool, error) { return s.Pause(ctx, o) }

func (s *asks) Delivered(context.Context, int64, int64) (relay.Delivered, error) {
	d := s.delivered[0]
	s.delivered = s.delivered[1:]
	return d, nil
}

// ask asks for the operation of a typed form.
func (e *env) ask(s *asks, typed string) (r AskResult, err error) {
	e.store.AskStore, e.store.OperationStore = s, s
	v, err := e.ExecuteActivity(e.AskOperation, AskRequest{Form: json.RawMessage(typed), FirstRun: "run"})
	if err == nil {
		err = v.Get(&r)
	}
	return r, err
}

const byAnn = `"who": "ann", "reason": "policy repaired"`

// A mistake must not select more than was meant, and says what would be right.
func TestAskOperation_RefusesAFormThatIsNotExactlyRight(t *testing.T) {
	for typed, says := range map[string]string{
		`null`:        "give one JSON object",
		`"redrive"`:   "give one JSON object",
		`[{}]`:        "give one JSON object",
		`{}`:          `kind is "": give redrive, replay, pause or resume`,
		`{"kind": 5}`: `kind is "5": give a text`,
		`{"kind": "recover-now", "topic": "orders", ` + byAnn + `}`:                                 `kind is "recover-now": give redrive, replay, pause or resume`,
		`{"kind": "discard", "topic": "orders", "all": true, ` + byAnn + `}`:                        `use "starter dead discard"`,
		`{"kind": "redrive", "all": true, ` + byAnn + `}`:                                           "topic is missing",
		`{"kind": "redrive", "topic": "", "all": true, ` + byAnn + `}`:                              "topic is empty",
		`{"kind": "redrive", "topic": "orders", "all": true, "reason": "x"}`:                        "who is missing",
		`{"kind": "redrive", "topic": "orders", "all": true, "who": "ann"}`:                         "reason is missing",
		`{"kind": "redrive", "topic": "orders", "codes": ["A"], ` + byAnn + `}`:                     `field "codes" is not known: the fields are kind, topic, who, reason, eventIds, key, type, code, since, until, all, outOfOrder, rate, dryRun`,
		`{"operation": 5, "kind": "redrive", "topic": "orders", "all": true, ` + byAnn + `}`:        `field "operation" is not known`,
		`{"Kind": "redrive", "topic": "orders", "all": true, ` + byAnn + `}`:                        `field "Kind" is not known`,
		`{"kind": "redrive", "topic": "orders", ` + byAnn + `}`:                                     `select the dead letters to redrive: give a filter, such as code, key or since, or give "all": true`,
		`{"kind": "redrive", "topic": "orders", "all": false, ` + byAnn + `}`:                       `select the dead letters to redrive`,
		`{"kind": "redrive", "topic": "orders", "all": true, "key": "k", ` + byAnn + `}`:            "all is true, and the form also has filters",
		`{"kind": "redrive", "topic": "orders", "key": "", ` + byAnn + `}`:                          "key is empty: leave it out",
		`{"kind": "redrive", "topic": "orders", "eventIds": [], ` + byAnn + `}`:                     "eventIds is empty",
		`{"kind": "redrive", "topic": "orders", "key": null, ` + byAnn + `}`:                        "key is empty",
		`{"kind": "redrive", "topic": "orders", "eventIds": "4711", ` + byAnn + `}`:                 `eventIds is "\"4711\"": give a list of texts`,
		`{"kind": "redrive", "topic": "orders", "eventIds": ["4711"], ` + byAnn + `}`:               `eventIds: parse event id "4711"`,
		`{"kind": "redrive", "topic": "orders", "all": "yes", ` + byAnn + `}`:                       "give true or false",
		`{"kind": "redrive", "topic": "orders", "all": true, "rate": -1, ` + byAnn + `}`:            "rate is -1",
		`{"kind": "redrive", "topic": "orders", "all": true, "rate": "fast", ` + byAnn + `}`:        "give a number",
		`{"kind": "redrive", "topic": "orders", "all": true, "rate": 1e999, ` + byAnn + `}`:         "give a number",
		`{"kind": "redrive", "topic": "orders", "since": "yesterday", ` + byAnn + `}`:               `since is "yesterday"`,
		`{"kind": "redrive", "topic": "orders", "since": "1h", "until": "2h", ` + byAnn + `}`:       "nothing can match",
		`{"kind": "replay", "topic": "orders", "all": true, ` + byAnn + `}`:                         "all is not for a replay",
		`{"kind": "replay", "topic": "orders", "code": "A", "since": "2h", ` + byAnn + `}`:          "code is not for a replay",
		`{"kind": "replay", "topic": "orders", "key": "k", ` + byAnn + `}`:                          "a replay needs since and until",
		`{"kind": "replay", "topic": "orders", "since": "2h", ` + byAnn + `}`:                       "a replay needs since and until",
		`{"kind": "pause", "topic": "orders", "all": true, ` + byAnn + `}`:                          "all is not for a pause: its fields are kind, topic, who, reason",
		`{"kind": "pause", "topic": "orders", "who": "ann"}`:                                        "reason is missing",
		`{"kind": "resume", "topic": "orders", "dryRun": true, "who": "ann"}`:                       "dryRun is not for a resume",
		`{"kind": "redrive", "topic": "orders", "code": "A", "code": "B", ` + byAnn + `}`:           `"code" comes twice`,
		`{"kind": "redrive", "topic": "orders", "all": true, "x": [{"a": 1}], "x": 2}`:              `"x" comes twice`,
		`{"kind": "redrive", "topic": "orders", "key": "a\u0000b", ` + byAnn + `}`:                  `key is "\"a\\u0000b\"": the database takes only UTF-8 text without NUL`,
		`{"kind": "redrive", "topic": "orders", "eventIds": ["\u0000"], ` + byAnn + `}`:             "the database takes only UTF-8 text without NUL",
		`{"kind": "pause", "topic": "orders", "who": "ann", "reason": "\u0000"}`:                    "the database takes only UTF-8 text without NUL",
		"{\"kind\": \"pause\", \"topic\": \"orders\", \"who\": \"ann\", \"reason\": \"a\xff\"}":     `reason is`,
		`{"kind": "redrive", "topic": "odrers", "all": true, ` + byAnn + `}`:                        "unknown topic",
		`{"kind": "redrive", "topic": "orders", "` + strings.Repeat("ü", 5000) + `": 1}`:            "…",
		`{"kind": "` + strings.Repeat("x", 5000) + `", "topic": "orders", "all": true, "who": "a"}`: "…",
	} {
		s := &asks{dead: relay.Count{Events: 2, Overtaking: 0}, published: 3}
		_, err := newEnv(t).ask(s, typed)
		var failure *temporal.ApplicationError
		require.ErrorAs(t, err, &failure, typed)
		require.Equal(t, TypeInvalidOperation, failure.Type(), typed)
		require.True(t, failure.NonRetryable(), typed)
		require.Contains(t, failure.Message(), says, typed)
		require.Less(t, len(failure.Error()), 1024, typed)
		require.Empty(t, s.begun, typed)
	}
}

// A backslash before it makes the same letters harmless.
func TestAskOperation_TakesATextThatOnlyLooksLikeNUL(t *testing.T) {
	s := &asks{dead: relay.Count{Events: 2}}
	_, err := newEnv(t).ask(s, `{"kind": "redrive", "topic": "orders", "key": "a\\u0000b", `+byAnn+`}`)
	require.NoError(t, err)
	require.Equal(t, `a\u0000b`, s.begun[0].Selection.Key)
}

// A database of another encoding refuses a text each time.
func TestAskOperation_FailsForGoodWhenTheDatabaseCannotHaveAText(t *testing.T) {
	for _, state := range []string{"22021", "22P05"} {
		s := &asks{countErr: fmt.Errorf("count: %w", &pgconn.PgError{Code: state, Message: "character has no equivalent"})}
		_, err := newEnv(t).ask(s, `{"kind": "redrive", "topic": "orders", "key": "ä", `+byAnn+`}`)
		requireFailure(t, err, TypeInvalidOperation, "character has no equivalent")
	}
	s := &asks{countErr: &pgconn.PgError{Code: "57P01"}}
	_, err := newEnv(t).ask(s, `{"kind": "redrive", "topic": "orders", "key": "ä", `+byAnn+`}`)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, TypeDatabase, failure.Type())
	require.False(t, failure.NonRetryable())
}

func TestAskOperation_RecordsTheCountTheOperatorAndTheReason(t *testing.T) {
	s := &asks{dead: relay.Count{Events: 2, Keys: 2, Behind: 3}}
	r, err := newEnv(t).ask(s, `{"kind": "redrive", "topic": "orders", "code": "AccessDenied", `+byAnn+`}`)
	require.NoError(t, err)
	require.Equal(t, AskResult{
		Operation: 1, Kind: relay.Redrive, Topic: "orders", By: "ann", Reason: "policy repaired", Matched: 2,
		SelectedBy: []string{"code"}, PerSecond: 1000, Text: "2 dead letters of orders match, of 2 keys; 3 that are blocked behind them come along",
	}, r)
	require.Equal(t, []relay.Operation{{
		Kind: relay.Redrive, Topic: "orders", By: "ann", Reason: "policy repaired", Selection: relay.Selection{Code: "AccessDenied"},
		Matched: 2, WorkflowID: "default-test-workflow-id", RunID: "run",
	}}, s.begun)

	s = &asks{published: 7}
	r, err = newEnv(t).ask(s, `{"kind": "replay", "topic": "orders", "since": "2h", "until": "1h", "rate": 0, `+byAnn+`}`)
	require.NoError(t, err)
	require.Zero(t, r.PerSecond, "no limit")
	require.Equal(t, relay.Selection{Since: "2h", Until: "1h"}, s.begun[0].Selection)
}

func TestAskOperation_DryRunCountsAndChangesNothing(t *testing.T) {
	s := &asks{dead: relay.Count{Events: 2}}
	r, err := newEnv(t).ask(s, `{"kind": "redrive", "topic": "orders", "all": true, "dryRun": true}`)
	require.NoError(t, err)
	require.True(t, r.Over)
	require.Equal(t, "2 dead letters of orders match; dry run: nothing was changed", r.Text)
	require.Empty(t, s.begun)
}

// The answer of the first attempt was lost. By now its events may be pending, so that
// nothing would match.
func TestAskOperation_FindsTheRecordOfAnEarlierAttemptAndDoesNothingTwice(t *testing.T) {
	s := &asks{dead: relay.Count{Events: 2}}
	const typed = `{"kind": "redrive", "topic": "orders", "all": true, ` + byAnn + `}`
	first, err := newEnv(t).ask(s, typed)
	require.NoError(t, err)
	s.dead.Events = 0
	again, err := newEnv(t).ask(s, typed)
	require.NoError(t, err)
	require.Equal(t, first.Operation, again.Operation)
	require.Len(t, s.begun, 1)

	s.begun[0].RunID = "an earlier run"
	_, err = newEnv(t).ask(s, typed)
	requireFailure(t, err, TypeOperationAskedBefore, "give another workflow id")
}

func TestAskOperation_BeginsNoOperationThatIsEmptyOvertakesOrRunsAlready(t *testing.T) {
	const typed = `{"kind": "redrive", "topic": "orders", "all": true, ` + byAnn + `}`
	_, err := newEnv(t).ask(&asks{}, typed)
	requireFailure(t, err, TypeNothingMatches, "no dead letters of orders match")
	_, err = newEnv(t).ask(&asks{dead: relay.Count{Events: 3, Overtaking: 1}}, typed)
	requireFailure(t, err, TypeInvalidOperation, "1 of these 3 dead letters would arrive before an earlier dead letter of their key, which is not selected")
	_, err = newEnv(t).ask(&asks{dead: relay.Count{Events: 3, Overtaking: 1}}, strings.Replace(typed, `"all"`, `"outOfOrder": true, "all"`, 1))
	require.NoError(t, err)

	same := relay.OperationState{ID: 5, Operation: relay.Operation{By: "bob", Reason: "mine", WorkflowID: "w"}, Age: time.Hour}
	_, err = newEnv(t).ask(&asks{dead: relay.Count{Events: 3}, same: &same}, typed)
	requireFailure(t, err, TypeOperationUnderWay, "operation 5, by bob: mine: look at workflow w")
}

func requireFailure(t *testing.T, err error, kind, says string) {
	t.Helper()
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, kind, failure.Type())
	require.True(t, failure.NonRetryable())
	require.Contains(t, failure.Message(), says)
}

// Somebody has terminated the workflow of the one on record.
func TestAskOperation_EndsAnAbandonedOperationAndBegins(t *testing.T) {
	const typed = `{"kind": "redrive", "topic": "orders", "all": true, ` + byAnn + `}`
	for name, c := range map[string]struct {
		same           relay.OperationState
		found, running bool
		err            error
		begins         bool
	}{
		"its workflow was terminated":           {relay.OperationState{ID: 5, Age: time.Hour, Done: 3}, true, false, nil, true},
		"it never had one":                      {relay.OperationState{ID: 5, Age: time.Hour}, false, false, nil, true},
		"it runs":                               {relay.OperationState{ID: 5, Age: time.Hour}, true, true, nil, false},
		"it is about to begin":                  {relay.OperationState{ID: 5, Age: time.Second}, false, false, nil, false},
		"it has moved events, and is not found": {relay.OperationState{ID: 5, Age: time.Hour, Done: 3}, false, false, nil, false},
		"it is not known, Temporal is away":     {relay.OperationState{ID: 5, Age: time.Hour}, false, false, errors.New("away"), false},
	} {
		e, s := newEnv(t), &asks{dead: relay.Count{Events: 3}, same: &c.same}
		e.cfg.WaitForStart = time.Nanosecond
		e.cfg.Running = func(context.Context, string) (bool, bool, error) { return c.found, c.running, c.err }
		_, err := e.ask(s, typed)
		require.Equal(t, c.begins, err == nil, "%s: %v", name, err)
		require.Equal(t, c.begins, len(s.abandoned) == 1, name)
		var failure *temporal.ApplicationError
		if c.err != nil {
			require.ErrorAs(t, err, &failure)
			require.False(t, failure.NonRetryable(), "it is tried again")
		}
	}
}

// The starter has counted, asked for long whether to go on, and put the operation on record: its
// workflow starts in the next moment.
func TestAskOperation_WaitsForAWorkflowThatIsAboutToStart(t *testing.T) {
	e, s := newEnv(t), &asks{dead: relay.Count{Events: 3}, same: &relay.OperationState{ID: 5, Age: time.Hour}}
	looks := 0
	e.cfg.Running = func(context.Context, string) (found, running bool, err error) {
		looks++
		return looks > 1, looks > 1, nil
	}
	_, err := e.ask(s, `{"kind": "redrive", "topic": "orders", "all": true, `+byAnn+`}`)
	requireFailure(t, err, TypeOperationUnderWay, "operation 5")
	require.Equal(t, 2, looks)
	require.Empty(t, s.abandoned)
}

func TestAskOperation_PausesAndResumes(t *testing.T) {
	s := &asks{changed: true}
	r, err := newEnv(t).ask(s, `{"kind": "pause", "topic": "orders", "who": "ann", "reason": "their deploy"}`)
	require.NoError(t, err)
	require.True(t, r.Over)
	require.Equal(t, "orders: paused", r.Text)
	require.Equal(t, relay.Operation{Kind: relay.Pause, Topic: "orders", By: "ann", Reason: "their deploy", WorkflowID: "default-test-workflow-id", RunID: "run"}, s.begun[0])
	s.changed = false
	r, err = newEnv(t).ask(s, `{"kind": "resume", "topic": "orders", "who": "ann"}`)
	require.NoError(t, err)
	require.Equal(t, "orders: nothing to do: it was resumed already", r.Text)
	s.switchErr = fmt.Errorf("pause topic: %w", relay.ErrUndone)
	r, err = newEnv(t).ask(s, `{"kind": "pause", "topic": "orders", "who": "ann", "reason": "their deploy"}`)
	require.NoError(t, err)
	require.True(t, r.Over)
	require.Contains(t, r.Text, "orders: nothing was changed: this workflow has paused it before, and an operator has undone that since")
	require.Equal(t, "not given", s.begun[1].Reason)
}

func TestFollowOperation_LooksUntilEachEventHasAnOutcome(t *testing.T) {
	e, s := newEnv(t), &asks{delivered: []relay.Delivered{{Pending: 2}, {Pending: 1, Published: 1}, {Published: 1, Dead: 1}, {}}}
	e.store.AskStore = s
	v, err := e.ExecuteActivity(e.FollowOperation, FollowRequest{Operation: 5, For: time.Minute})
	require.NoError(t, err)
	var d relay.Delivered
	require.NoError(t, v.Get(&d))
	require.Equal(t, relay.Delivered{Published: 1, Dead: 1}, d)
	require.Len(t, s.delivered, 1)

	s.delivered = []relay.Delivered{{Pending: 2}, {}}
	v, err = e.ExecuteActivity(e.FollowOperation, FollowRequest{Operation: 5})
	require.NoError(t, err)
	require.NoError(t, v.Get(&d))
	require.EqualValues(t, 2, d.Pending, "the time is over")
}
