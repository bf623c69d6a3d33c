package workflows

import (
	"errors"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/printable"
)

// Search attributes of the outbox, all of type Keyword. "starter schedule" registers
// them where it may, and tells the runs whether they are there: a workflow that sets
// one that is not cannot go on.
const (
	// AttributeTopic is the topic that a workflow acts on.
	AttributeTopic = "OutboxTopic"
	// AttributeState is one of the states below.
	AttributeState = "OutboxState"
	// AttributeError is the type of the failure for which the workflow began.
	AttributeError = "OutboxError"
)

// Attributes are the names of all of them.
func Attributes() []string { return []string{AttributeTopic, AttributeState, AttributeError} }

// States of a recovery. One that was terminated keeps the state that it had.
const (
	StateRecovering = "recovering"
	StateRecovered  = "recovered" // its batch got through
	StateParked     = "parked"    // somebody gave up what failed
	StateLost       = "lost"      // its batch is in other hands
	StatePaused     = "paused"    // an operator has paused the topic
	StateCancelled  = "cancelled"
	StateFailed     = "failed"
)

// maxAttribute is the longest value that every visibility store takes, in bytes.
const maxAttribute = 255

// TopicAttribute is AttributeTopic of what acts on a topic.
func TopicAttribute(topic string) temporal.SearchAttributeUpdate {
	return temporal.NewSearchAttributeKeyKeyword(AttributeTopic).ValueSet(printable.Cut(topic, maxAttribute))
}

// describe sets the attributes with which a recovery begins.
func (r *recovery) describe(ctx workflow.Context) {
	updates := []temporal.SearchAttributeUpdate{
		TopicAttribute(r.in.Batch.Topic),
		temporal.NewSearchAttributeKeyKeyword(AttributeState).ValueSet(StateRecovering),
	}
	if r.in.Error != "" {
		updates = append(updates, temporal.NewSearchAttributeKeyKeyword(AttributeError).ValueSet(printable.Cut(r.in.Error, maxAttribute)))
	}
	r.set(ctx, updates...)
}

// conclude sets the state in which it ends.
func (r *recovery) conclude(ctx workflow.Context) {
	r.set(ctx, temporal.NewSearchAttributeKeyKeyword(AttributeState).ValueSet(r.state))
}

func (r *recovery) set(ctx workflow.Context, updates ...temporal.SearchAttributeUpdate) {
	if !r.in.SearchAttributes {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, updates...); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "topic", r.in.Batch.Topic, "error", err)
	}
}

// endsIn is the state of a recovery that ends with err.
func (r *recovery) endsIn(err error) string {
	var cancelled *temporal.CanceledError
	switch {
	case errors.As(err, &cancelled):
		return StateCancelled
	case err != nil:
		return StateFailed
	case r.result.Lost:
		return StateLost
	case r.result.Paused != "":
		return StatePaused
	case r.result.Parked != "":
		return StateParked
	default:
		return StateRecovered
	}
}
