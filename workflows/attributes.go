package workflows

import (
	"errors"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/printable"
)

// Search attributes of the outbox, all of type Keyword. "starter schedule" registers them if it has
// the right to do so. The inputs of the workflows say whether the attributes are registered, because
// a workflow that sets an unregistered attribute cannot continue.
const (
	// AttributeTopic is the topic that a workflow acts on.
	AttributeTopic = "OutboxTopic"
	// AttributeState is the state of a recovery: one of the constants below.
	AttributeState = "OutboxState"
	// AttributeError is the type of the failure that started the workflow.
	AttributeError = "OutboxError"
)

// Attributes returns the names of all search attributes.
func Attributes() []string { return []string{AttributeTopic, AttributeState, AttributeError} }

// States of a recovery. A terminated recovery keeps the state that it had.
const (
	StateRecovering = "recovering"
	StateRecovered  = "recovered" // the destination accepted the batch
	StateParked     = "parked"    // an operator gave up the events that failed
	StateLost       = "lost"      // another claim has the batch
	StatePaused     = "paused"    // an operator has paused the topic
	StateCancelled  = "cancelled"
	StateFailed     = "failed"
)

// maxAttribute is the maximum length of a value, in bytes. Every visibility store accepts it.
const maxAttribute = 255

// TopicAttribute sets AttributeTopic of a workflow that acts on a topic.
func TopicAttribute(topic string) temporal.SearchAttributeUpdate {
	return temporal.NewSearchAttributeKeyKeyword(AttributeTopic).ValueSet(printable.Cut(topic, maxAttribute))
}

// setFirstAttributes sets the attributes at the beginning of a recovery.
func (r *recovery) setFirstAttributes(ctx workflow.Context) {
	updates := []temporal.SearchAttributeUpdate{
		TopicAttribute(r.in.Batch.Topic),
		temporal.NewSearchAttributeKeyKeyword(AttributeState).ValueSet(StateRecovering),
	}
	if r.in.Error != "" {
		updates = append(updates, temporal.NewSearchAttributeKeyKeyword(AttributeError).ValueSet(printable.Cut(r.in.Error, maxAttribute)))
	}
	r.set(ctx, updates...)
}

// setFinalState sets the state at the end of a recovery.
func (r *recovery) setFinalState(ctx workflow.Context) {
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

// finalState returns the state of a recovery that ends with err.
func (r *recovery) finalState(err error) string {
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
