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
	// A recovery or an operation may outlive many versions of the worker, while a run of Relay ends
	// with the one that it began on.
	r.RegisterWorkflowWithOptions(Recovery, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterWorkflow(Maintenance)
	r.RegisterWorkflowWithOptions(Operation, workflow.RegisterOptions{VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade})
	r.RegisterActivity(a)
}
