package relay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrUnknownTopic says that no event of a topic was ever written and no worker
// routes it.
var ErrUnknownTopic = errors.New("unknown topic")

// Progress learns which part, from 0 to 1, of what may have to be read has been read.
// It may be nil.
type Progress func(part float64)

// Count is what a selection of dead letters comes to.
type Count struct {
	Events int64 `json:"events"`
	Keys   int64 `json:"keys"`
	// Behind are further dead letters that were blocked behind the selected ones.
	Behind int64 `json:"behind"`
	// Overtaking are selected ones that have an earlier dead letter of their key, of the
	// same delivery, that is not selected: redriven, they arrive before it.
	Overtaking int64 `json:"overtaking"`
	// At is when it was counted, by the database's clock.
	At time.Time `json:"at"`
}

// Counter counts what is selected of a topic. internal/postgres implements it. Its errors
// wrap ErrUnknownTopic if there is no such topic.
type Counter interface {
	CountDead(ctx context.Context, topic string, chosen Selection) (Count, error)
	CountPublished(ctx context.Context, topic string, chosen Selection, progress Progress) (n int64, at time.Time, err error)
}

// Counted is what an operation comes to before it begins.
type Counted struct {
	Events int64
	// Remarks are what is to be known before they are moved. They continue a sentence.
	Remarks string
	At      time.Time // by the database's clock
}

// NothingError says that nothing matches a selection.
type NothingError struct{ Kind, Topic string }

func (e *NothingError) Error() string {
	return fmt.Sprintf("no %s of %s match", Nouns(e.Kind), e.Topic)
}

// OvertakingError says that a redrive would change the order of a key.
type OvertakingError struct{ Count }

func (e *OvertakingError) Error() string {
	return fmt.Sprintf("%d of these %d dead letters would arrive before an earlier dead letter of their key, which is not selected",
		e.Overtaking, e.Events)
}

// Nouns are what a kind of operation is done to.
func Nouns(kind string) string {
	if kind == Replay {
		return "events"
	}
	return "dead letters"
}

// Pends reports whether a kind of operation makes events pending, whose outcome follows.
func Pends(kind string) bool { return kind == Redrive || kind == Replay }

// CountSelected counts what an operation of a kind would move. It returns a *NothingError
// if that is nothing, and an *OvertakingError if a redrive would change the order of a key,
// unless outOfOrder allows it.
func CountSelected(ctx context.Context, c Counter, kind, topic string, chosen Selection, outOfOrder bool, progress Progress) (n Counted, err error) {
	var dead Count
	if kind == Replay {
		n.Events, n.At, err = c.CountPublished(ctx, topic, chosen, progress)
	} else {
		dead, err = c.CountDead(ctx, topic, chosen)
		n.Events, n.At = dead.Events, dead.At
	}
	switch {
	case err != nil:
		return Counted{}, err
	case n.Events == 0:
		return Counted{}, &NothingError{kind, topic}
	case kind != Redrive:
		return n, nil
	case dead.Overtaking > 0 && !outOfOrder:
		return Counted{}, &OvertakingError{dead}
	}
	if dead.Keys > 0 {
		n.Remarks = fmt.Sprintf(", of %d keys", dead.Keys)
	}
	if dead.Behind > 0 {
		n.Remarks += fmt.Sprintf("; %d that are blocked behind them come along", dead.Behind)
	}
	return n, nil
}
