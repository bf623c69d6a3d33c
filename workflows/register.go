// Package workflows decides: what is claimed when, how much of it is in flight,
// and what happens to what fails. It does nothing itself; activities do.
package workflows

import (
	"go.temporal.io/sdk/worker"

	"github.com/temporal-outbox/relay/activities"
)

// DefaultTaskQueue is where the relay's workflows and activities run.
const DefaultTaskQueue = "outbox-relay"

// Register makes a worker run everything that this package schedules.
func Register(r worker.Registry, a *activities.Activities) {
	r.RegisterWorkflow(Relay)
	r.RegisterActivity(a)
}
