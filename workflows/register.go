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
	r.RegisterWorkflow(Relay)
	// A recovery or an operation may outlive many versions of the worker, and a run of
	// Maintenance that producers keep waiting can outlive its version: it would wait for a
	// worker of that version for half an hour, and the next runs with it. A run of Relay ends
	// on the version on which it began.
	r.RegisterWorkflowWithOptions(Recovery, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterWorkflowWithOptions(Maintenance, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterWorkflowWithOptions(Operation, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterActivity(a)
}
