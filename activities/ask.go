package activities

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/temporal-outbox/relay/internal/relay"
)

// lookForStart is the pause before another look for a workflow that may be about to start.
const lookForStart = 250 * time.Millisecond

// AskStore is the part of Store that puts on record the operations that a person asks for.
type AskStore interface {
	relay.Counter
	AskedBy(ctx context.Context, o relay.Operation) (u relay.OperationState, found bool, err error)
	BeginAsked(ctx context.Context, o relay.Operation) (relay.OperationState, error)
	Pause(ctx context.Context, o relay.Operation) (changed bool, err error)
	Resume(ctx context.Context, o relay.Operation) (changed bool, err error)
	Delivered(ctx context.Context, operation, moved int64) (relay.Delivered, error)
}

// AskRequest is the text that a person has typed into Temporal's Start Workflow form.
type AskRequest struct {
	Form json.RawMessage `json:"form"`
	// FirstRun is the first run of the workflow, before it was reset or continued as new. With
	// the workflow's id it says whose a record is.
	FirstRun string `json:"firstRun"`
}

// AskResult is the record of an operation that a person has asked for.
type AskResult struct {
	// Operation is its number in outbox.operation; 0 of a pause, a resume and a dry run.
	Operation int64 `json:"operation,omitempty"`
	// Over says that there is nothing to go on with. Done is how many events were moved then.
	Over   bool   `json:"over,omitempty"`
	Done   int64  `json:"done,omitempty"`
	Kind   string `json:"kind"`
	Topic  string `json:"topic"`
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Matched is how many events were counted, and SelectedBy the names of the filters.
	Matched    int64    `json:"matched,omitempty"`
	SelectedBy []string `json:"selectedBy,omitempty"`
	PerSecond  float64  `json:"perSecond,omitempty"`
	DryRun     bool     `json:"dryRun,omitempty"`
	// Text describes the result in one sentence.
	Text string `json:"text"`
}

// AskOperation checks an operation that a person asks for, counts its events, and puts it on record with
// who and why, as the starter does. A pause and a resume are done then. An attempt that
// follows one whose answer was lost finds the record of that one, and does nothing twice.
//
// A mistake in the form is a failure of type TypeInvalidOperation, TypeNothingMatches,
// TypeOperationUnderWay or TypeOperationAskedBefore. None is retried.
func (a *Activities) AskOperation(ctx context.Context, r AskRequest) (AskResult, error) {
	defer beat(ctx)()
	f, err := readForm(r.Form)
	if err != nil {
		return AskResult{}, failure(ctx, err, nil)
	}
	o := relay.Operation{
		Kind: f.Kind, Topic: f.Topic, By: f.Who, Reason: f.Reason, Selection: f.selection(),
		WorkflowID: activity.GetInfo(ctx).WorkflowExecution.ID, RunID: r.FirstRun,
	}
	result := AskResult{Kind: f.Kind, Topic: f.Topic, By: f.Who, Reason: f.Reason, PerSecond: f.Rate, DryRun: f.DryRun, Over: f.DryRun}
	switch f.Kind {
	case relay.Pause:
		err = a.switched(ctx, &result, o, a.asked.Pause, "paused")
	case relay.Resume:
		o.Reason = cmp.Or(o.Reason, "not given")
		err = a.switched(ctx, &result, o, a.asked.Resume, "resumed")
	default:
		result.SelectedBy = o.Selection.By()
		err = a.register(ctx, &result, o, f.OutOfOrder)
	}
	return result, failure(ctx, encodingMistake(err), nil)
}

// encodingMistake turns an error about a text that the database's encoding cannot store into a
// mistake in the form. A retry would give the same error.
func encodingMistake(err error) error {
	const characterNotInRepertoire, untranslatableCharacter = "22021", "22P05"
	var refused interface{ SQLState() string }
	if errors.As(err, &refused) && slices.Contains([]string{characterNotInRepertoire, untranslatableCharacter}, refused.SQLState()) {
		return wrong("the database cannot store one of these texts: %v", err)
	}
	return err
}

// switched pauses or resumes a topic.
func (a *Activities) switched(ctx context.Context, result *AskResult, o relay.Operation,
	do func(context.Context, relay.Operation) (bool, error), done string,
) error {
	changed, err := do(context.WithoutCancel(ctx), o)
	result.Over, result.Text = true, o.Topic+": "+done
	switch {
	case errors.Is(err, relay.ErrUndone):
		result.Text = fmt.Sprintf("%s: nothing was changed: this workflow has %s it before, and an operator has undone that since: to do it again, start another workflow", o.Topic, done)
		return nil
	case !changed:
		result.Text = fmt.Sprintf("%s: nothing to do: it was %s already", o.Topic, done)
	}
	return err
}

// register counts the events of an operation, and puts it on record.
func (a *Activities) register(ctx context.Context, result *AskResult, o relay.Operation, outOfOrder bool) error {
	if !result.DryRun {
		u, found, err := a.asked.AskedBy(ctx, o)
		if err != nil {
			return askedBefore(err, u)
		}
		if found {
			result.goOn(u)
			return nil
		}
	}
	n, err := relay.CountSelected(ctx, a.asked, o.Kind, o.Topic, o.Selection, outOfOrder, nil)
	if err != nil {
		return err
	}
	result.Matched = n.Events
	result.Text = fmt.Sprintf("%d %s of %s match%s", n.Events, relay.Nouns(o.Kind), o.Topic, n.Remarks)
	if result.DryRun {
		result.Text += "; dry run: nothing was changed"
		return nil
	}
	o.Matched, o.At = n.Events, n.At
	u, err := a.begin(ctx, o)
	if err == nil {
		result.Operation = u.ID
	}
	return err
}

// goOn fills the answer from the existing record.
func (r *AskResult) goOn(u relay.OperationState) {
	r.Operation, r.Matched, r.Done, r.Over = u.ID, u.Matched, u.Done, u.Finished != nil
	r.Text = fmt.Sprintf("%d %s of %s matched", u.Matched, relay.Nouns(u.Kind), u.Topic)
	if r.Over {
		r.Text += fmt.Sprintf("; the operation has ended already: %d moved, %s", u.Done, u.Outcome)
	}
}

// begin puts an operation on record. If the same is on record and nothing does it any more,
// that is ended first, as the starter does.
func (a *Activities) begin(ctx context.Context, o relay.Operation) (relay.OperationState, error) {
	for {
		// A record that is made is answered with, even if the workflow is being cancelled.
		u, err := a.asked.BeginAsked(context.WithoutCancel(ctx), o)
		if !errors.Is(err, relay.ErrSameUnderWay) {
			return u, askedBefore(err, u)
		}
		isAlive, err := a.alive(ctx, u)
		if err != nil {
			return u, err
		}
		if isAlive {
			return u, fmt.Errorf("%w: operation %d, by %s: %s: look at workflow %s", relay.ErrSameUnderWay, u.ID, u.By, u.Reason, u.WorkflowID)
		}
		if err := a.operations.EndOperation(ctx, u.ID, relay.Abandoned+"its workflow does not run", 0); err != nil {
			return u, err
		}
	}
}

// alive reports whether something does an operation that is on record, as far as is known.
// One that has moved events has had a workflow: if that is not found, this may be the
// wrong place to look for it. One that has none is waited for: its age is that of the count,
// and the starter asks for a confirmation before it puts it on record and starts the workflow.
func (a *Activities) alive(ctx context.Context, u relay.OperationState) (bool, error) {
	if a.cfg.Running == nil || u.Age < relay.StartWithin {
		return true, nil
	}
	hasMoved := u.Done > 0 || u.From.ID > 0
	for until := time.Now().Add(a.cfg.WaitForStart); ; {
		found, running, err := a.cfg.Running(ctx, u.WorkflowID)
		switch {
		case err != nil:
			return false, fmt.Errorf("look for workflow %s: %w", u.WorkflowID, err)
		case found || hasMoved:
			return running || !found, nil
		case time.Now().After(until):
			return false, nil
		}
		if wait(ctx, lookForStart); ctx.Err() != nil || stopping(ctx) {
			return false, cmp.Or(ctx.Err(), relay.ErrStopped)
		}
	}
}

// askedBefore says what an earlier workflow of the same id did.
func askedBefore(err error, u relay.OperationState) error {
	if errors.Is(err, relay.ErrAskedBefore) {
		return fmt.Errorf("%w: operation %d, %s of %s, at %s by %s: %d events moved, %s: to do it again, give another workflow id",
			err, u.ID, u.Kind, u.Topic, u.At.UTC().Format(time.RFC3339), u.By, u.Done, cmp.Or(u.Outcome, "under way"))
	}
	return err
}

// FollowRequest names an operation whose events are pending again.
type FollowRequest struct {
	Operation int64 `json:"operation"`
	// Moved is how many events the operation has moved when it ended. 0 from workers of
	// earlier versions.
	Moved int64 `json:"moved,omitempty"`
	// For is how long to look for an outcome of each.
	For time.Duration `json:"for"`
}

// FollowOperation looks for the outcomes of the events that an operation has made pending, until
// each event has one or the time is over.
func (a *Activities) FollowOperation(ctx context.Context, r FollowRequest) (relay.Delivered, error) {
	defer beat(ctx)()
	for until := time.Now().Add(r.For); ; {
		began := time.Now()
		d, err := a.asked.Delivered(ctx, r.Operation, r.Moved)
		if err != nil || d.Over() || time.Now().After(until) || stopping(ctx) || ctx.Err() != nil {
			return d, failure(ctx, err, nil)
		}
		wait(ctx, min(relay.LookAgain(time.Since(began)), max(0, time.Until(until))+time.Millisecond))
	}
}
