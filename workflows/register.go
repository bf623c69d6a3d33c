// Package workflows makes the relay's decisions: when to claim batches, how many to have in flight,
// and how to handle failures. Activities carry the decisions out.
package workflows

import (
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
)

// DefaultTaskQueue is the task queue of the relay's workflows and activities.
const DefaultTaskQueue = "outbox-relay"

// Register makes a worker run the workflows of this package and their activities.
func Register(r worker.Registry, a *activities.Activities) {
	// A run moves to the version that becomes current, with its next decision. If the run were pinned,
	// only its own version could finish it: without workers of that version, the schedule would wait
	// until the timeout of the run. Replay tests of recorded histories guard the moves (decision 019).
	moves := workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade}
	r.RegisterWorkflowWithOptions(Relay, moves)
	r.RegisterWorkflowWithOptions(Recovery, moves)
	r.RegisterWorkflowWithOptions(Maintenance, moves)
	r.RegisterWorkflowWithOptions(Operation, moves)
	// A Gate checks the version on which it starts.
	r.RegisterWorkflowWithOptions(Gate, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorPinned})
	r.RegisterActivity(a)
}
