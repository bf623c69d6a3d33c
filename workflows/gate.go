package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/timing"
)

// GateActivity is the name of the activity that checks a worker from inside.
const GateActivity = "CheckWorker"

// TypeGateFailed is the type of the failure of a Gate: something failed that
// "worker --check" would name.
const TypeGateFailed = "GateFailed"

// GateResult is what a Gate found, line by line as "worker --check" prints it.
type GateResult struct {
	Findings []string `json:"findings"`
}

// gateTimeout is longer than all checks take together.
const gateTimeout = time.Minute

// Gate is for a roll-out that asks a new version before traffic moves to it, such as the
// gate.workflowType of Temporal's worker controller. It runs on that version, claims and
// publishes nothing, and fails with GateFailed and the reasons if "worker --check" would
// fail there. Its input is ignored.
func Gate(ctx workflow.Context, _ *struct{}) (r GateResult, err error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: gateTimeout,
		// A worker that leaves takes its answer with it; a finding is no reason to ask again.
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: timing.RetryFirst, MaximumAttempts: 3, NonRetryableErrorTypes: []string{TypeGateFailed},
		},
		Summary: "check this version's configuration, rights and destinations",
	})
	err = workflow.ExecuteActivity(ctx, GateActivity).Get(ctx, &r)
	return r, err
}
