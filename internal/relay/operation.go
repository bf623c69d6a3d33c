package relay

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/outbox"
)

var (
	// ErrUnknownOperation says that an operation is not on record.
	ErrUnknownOperation = errors.New("unknown operation")
	// ErrOperationOver says that an operation has been ended: nothing more is moved.
	ErrOperationOver = errors.New("the operation is over")
	// ErrOperationElsewhere says that an operation's record is not as its attempt left it:
	// another attempt has taken it, or a failover or a restore has put the database back
	// to an earlier state. The next attempt begins at the place on record.
	ErrOperationElsewhere = errors.New("another attempt has taken the operation, or a failover or a restore has put the database back to an earlier state")
)

var (
	// ErrAskedBefore says that an earlier workflow of the same id has asked for an operation:
	// it is not done twice.
	ErrAskedBefore = errors.New("an earlier workflow of this id has asked for an operation")
	// ErrUndone says that a workflow's run has paused or resumed a topic before, and that
	// an operator has done the opposite since.
	ErrUndone = errors.New("an earlier attempt did this, and an operator has undone it since")
	// ErrSameUnderWay says that the same operation is under way in another workflow.
	ErrSameUnderWay = errors.New("the same operation is under way")
)

const (
	// StartWithin is how long after it was put on record an operation may take to have a
	// workflow: the command that recorded it is about to start that.
	StartWithin = time.Minute
	// WaitForStart is how long to wait for the workflow of an older operation: its operator may
	// have confirmed it late, so that the command starts the workflow in this moment.
	WaitForStart = 10 * time.Second
	// Abandoned is how the outcome begins of an operation that nothing does any more.
	Abandoned = "abandoned: "
)

// What an operator can have done to many events.
const (
	// Redrive makes dead letters pending again.
	Redrive = "redrive"
	// Discard drops dead letters for good.
	Discard = "discard"
	// Replay makes published events pending again, beside their first delivery.
	Replay = "replay"
)

// What an operator can do to a topic.
const (
	// Pause keeps its events in the outbox until it is resumed.
	Pause = "pause"
	// Resume lifts an operator's pause.
	Resume = "resume"
)

// What an operator can ask of a topic's recovery.
const (
	// RecoverNow is to try at once.
	RecoverNow = "recover-now"
	// RecoverPark is to give up what is refused.
	RecoverPark = "recover-park"
)

// Selection says which events of a topic an operation is about: those that fit all
// that is not empty.
type Selection struct {
	EventIDs []string `json:"eventIds,omitempty"`
	Key      string   `json:"key,omitempty"`
	Type     string   `json:"type,omitempty"`
	// Code is that of dead letters.
	Code string `json:"code,omitempty"`
	// Since and Until bound when an event was written or, of dead letters, when it
	// died: a time of RFC 3339, or how long before the operation was asked for, such as
	// "2h". Since is included, Until is not. They are kept as they were given, so that
	// the same command given again selects the same.
	Since string `json:"since,omitempty"`
	Until string `json:"until,omitempty"`
	// Recovery is the run with which the recovery began that something is asked of.
	Recovery string `json:"recovery,omitempty"`
}

// EventIDs reads ids as a selection keeps them.
func EventIDs(texts []string) (ids []string, err error) {
	for _, text := range texts {
		id, err := outbox.ParseID(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id.String())
	}
	return ids, nil
}

// By names what a selection selects by, as the command line does, and never a value:
// keys and ids may say more than everyone may know who sees that something was done.
func (s Selection) By() []string {
	names := []string{}
	for _, f := range []struct {
		name string
		used bool
	}{
		{"event-id", len(s.EventIDs) > 0},
		{"key", s.Key != ""},
		{"type", s.Type != ""},
		{"code", s.Code != ""},
		{"since", s.Since != ""},
		{"until", s.Until != ""},
	} {
		if f.used {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return []string{"all"}
	}
	return names
}

// Range is the time that a selection bounds, seen from the time at which it is asked
// for; nil where it does not.
func (s Selection) Range(at time.Time) (since, until *time.Time, err error) {
	if since, err = instant(s.Since, at); err != nil {
		return nil, nil, fmt.Errorf("since %w", err)
	}
	if until, err = instant(s.Until, at); err != nil {
		return nil, nil, fmt.Errorf("until %w", err)
	}
	if since != nil && until != nil && !since.Before(*until) {
		return nil, nil, fmt.Errorf("since %s is not before until %s: nothing can match", s.Since, s.Until)
	}
	return since, until, nil
}

func instant(text string, at time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return &t, nil
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago < 0 {
		return nil, fmt.Errorf("is %q: give a time such as 2026-01-31T15:04:05Z, or how long ago, such as 2h or 30m", text)
	}
	t := at.Add(-ago)
	return &t, nil
}

// Operation is what an operator asks for: what, of which topic, who, and why.
type Operation struct {
	Kind      string
	Topic     string
	By        string
	Reason    string
	Selection Selection
	// Matched is how many events the selection had when it was counted, and At when that
	// was, by the database's clock. What is published, or dies, from then on is not of it.
	Matched int64
	At      time.Time
	// WorkflowID is that of the workflow that does it.
	WorkflowID string
	// RunID is the first run of that workflow, if somebody has started it by hand; else "".
	RunID string
}

// OperationState is an operation on record with its progress.
type OperationState struct {
	Operation
	ID int64
	// Age is how long ago it was asked for, by the database's clock.
	Age time.Duration
	// Done is how many events were moved.
	Done int64
	// Finished is when it ended, and Outcome how: "done", "cancelled", or what went
	// wrong.
	Finished *time.Time
	Outcome  string
	// From is where its next step begins, and Lanes how far each lane is beyond that.
	From  Cursor
	Lanes []int64
	// Noted is the place on record of a replay.
	Noted int64
	// Holder is the attempt that has it in hand: a UUID, or "" before the first one.
	Holder string
	// Last is the last id that a replay can have.
	Last int64
}

// Cursor is how far an operation has come: of a replay the last id, of dead letters
// the last in the order of lanes.
type Cursor struct {
	Lane   int16
	ID     int64
	Replay int64
}

// Step is a part of an operation, small enough for one transaction a lane.
type Step struct {
	// Moves are what is moved.
	Moves []Move
	// Next is where the step after it begins. Over says that there is none.
	Next Cursor
	Over bool
}

// Move is one event of a step.
type Move struct {
	Ref
	Key string // of dead letters only
}

// LanesOf are the lanes of some moves, ascending.
func LanesOf(moves []Move) (lanes []int16) {
	for _, m := range moves {
		if !slices.Contains(lanes, m.Lane) {
			lanes = append(lanes, m.Lane)
		}
	}
	slices.Sort(lanes)
	return lanes
}
