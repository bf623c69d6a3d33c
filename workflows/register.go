// Package workflows decides: what is claimed when, how much of it is in flight,
// and what happens to what fails. It does nothing itself; activities do.
package workflows

import (
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/activities"
)

// DefaultTaskQueue is where the relay's workflows and activities run.
const DefaultTaskQueue = "outbox-relay"

// Register makes a worker run everything that this package schedules.
func Register(r worker.Registry, a *activities.Activities) {
	// Every run goes over to the version that becomes current, with its next decision. A
	// pinned run is finished by its own version or by nobody: with the old workers gone,
	// the schedule would wait for it until its timeout. Replay tests over recorded histories
	// are the guard (decision 019).
	moves := workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade}
	r.RegisterWorkflowWithOptions(Relay, moves)
	r.RegisterWorkflowWithOptions(Recovery, moves)
	r.RegisterWorkflowWithOptions(Maintenance, moves)
	r.RegisterWorkflowWithOptions(Operation, moves)
	// It is about the version that it is started on.
	r.RegisterWorkflowWithOptions(Gate, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorPinned})
	r.RegisterActivity(a)
}
