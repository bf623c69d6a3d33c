package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// Types of the failures that the relay's activities end with, beside the codes
// of destinations. They are part of the interface: people filter by them.
const (
	// TypeClaimLost: another claim or attempt holds the batch. Not retried,
	// because the events are in other hands.
	TypeClaimLost = "ClaimLost"
	// TypeDatabase: PostgreSQL refused or did not answer.
	TypeDatabase = "Database"
	// TypeStopped: a recovery's attempt was ended, as by a worker that shuts down,
	// before it could tell whether the destination is back. Or the task of an attempt came
	// late, and Temporal did not confirm it.
	TypeStopped = "Stopped"
	// TypeOperationOver: an operation was ended, or is not on record. Not retried.
	TypeOperationOver = "OperationOver"
	// TypeOperationElsewhere: an operation on record is not where this attempt believed it
	// to be. The next attempt reads the place on record.
	TypeOperationElsewhere = "OperationElsewhere"
	// TypeInvalidOperation: the typed input of an Operation is wrong. Its text
	// says how. Nothing was changed. This and the next three are not retried.
	TypeInvalidOperation = "InvalidOperation"
	// TypeNothingMatches: nothing is there of what such an input selects.
	TypeNothingMatches = "NothingMatches"
	// TypeOperationUnderWay: another workflow does the same already.
	TypeOperationUnderWay = "OperationUnderWay"
	// TypeOperationAskedBefore: an earlier workflow of the same id did it.
	TypeOperationAskedBefore = "OperationAskedBefore"
	// TypeSeated: a worker that needs no seat passes it on to another one.
	TypeSeated = "Seated"
	// TypeTemporal: Temporal did not answer an activity's question.
	TypeTemporal = "Temporal"
)

// errTemporal marks errors of Temporal's.
var errTemporal = errors.New("Temporal does not answer") //nolint:staticcheck // a name

// maxFailureText caps a failure's text. Temporal replaces a failure of more than
// 4 KiB by "Failure exceeds size limit" (limit.mutableStateActivityFailureSize),
// and type and text are gone; a longer text is not read in a list.
const maxFailureText = 1000 + len("…")

// failure turns an error of this program into a Temporal failure. It is the one
// place that does. An error because Temporal itself ended the activity (by
// cancelling, pausing or resetting it) stays as it is. A failure for good of
// another type than ClaimLost means that the topic needs its recovery.
func failure(ctx context.Context, err error, details any) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	var o temporal.ApplicationErrorOptions
	if details != nil {
		o.Details = []any{details}
	}
	var ended *attemptError
	var code *relay.PublishError
	switch {
	case errors.Is(err, relay.ErrClaimLost):
		o.NonRetryable, o.Category = true, temporal.ApplicationErrorCategoryBenign
		return temporal.NewApplicationErrorWithOptions(text(err), TypeClaimLost, o)
	case errors.Is(err, relay.ErrOperationOver), errors.Is(err, relay.ErrUnknownOperation):
		o.NonRetryable = true
		return temporal.NewApplicationErrorWithOptions(text(err), TypeOperationOver, o)
	case errors.Is(err, relay.ErrOperationElsewhere):
		return temporal.NewApplicationErrorWithOptions(text(err), TypeOperationElsewhere, o)
	case asking(err) != "":
		o.NonRetryable = true
		return temporal.NewApplicationErrorWithOptions(text(err), asking(err), o)
	case errors.Is(err, relay.ErrStopped):
		return temporal.NewApplicationErrorWithOptions(text(err), TypeStopped, o)
	case errors.Is(err, errSeated):
		o.NextRetryDelay, o.Category = timing.SeatPassedOn, temporal.ApplicationErrorCategoryBenign
		return temporal.NewApplicationErrorWithOptions(text(err), TypeSeated, o)
	case errors.Is(err, errTemporal):
		return temporal.NewApplicationErrorWithOptions(text(err), TypeTemporal, o)
	case errors.As(err, &ended):
		o.NonRetryable, o.NextRetryDelay = ended.final, ended.retryAfter
		return temporal.NewApplicationErrorWithOptions(text(err), ended.Code, o)
	case errors.As(err, &code):
		return temporal.NewApplicationErrorWithOptions(text(err), code.Code, o)
	default:
		if activity.IsActivity(ctx) {
			o.NextRetryDelay = databaseDelay(activity.GetInfo(ctx).Attempt)
		}
		return temporal.NewApplicationErrorWithOptions(text(err), TypeDatabase, o)
	}
}

// asking is the type of a failure by which an operation that a person asks for does not
// begin; "" for any other.
func asking(err error) string {
	var form *formError
	var overtaking *relay.OvertakingError
	var nothing *relay.NothingError
	switch {
	case errors.As(err, &form), errors.As(err, &overtaking), errors.Is(err, relay.ErrUnknownTopic):
		return TypeInvalidOperation
	case errors.As(err, &nothing):
		return TypeNothingMatches
	case errors.Is(err, relay.ErrSameUnderWay):
		return TypeOperationUnderWay
	case errors.Is(err, relay.ErrAskedBefore):
		return TypeOperationAskedBefore
	}
	return ""
}

// databaseDelay is the pause before the attempt that follows one of that number, after
// the database was away. A destination is given more time: other people run it, while
// everything here waits for the database.
func databaseDelay(attempt int32) time.Duration {
	return backoff(attempt, timing.DatabaseRetryPauseFirst, timing.DatabaseRetryPauseMost)
}

// backoff is the pause before the attempt that follows one of that number, from 1, by a
// retry policy whose coefficient is 2.
func backoff(attempt int32, first, most time.Duration) time.Duration {
	return min(most, first<<min(max(attempt-1, 0), 10))
}

// text is that of a failure. People read it in lists and on terminals.
func text(err error) string {
	return printable.Cut(printable.Text(err.Error()), maxFailureText)
}
