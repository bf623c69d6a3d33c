package workflows

import (
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-outbox/relay/internal/timing"
)

// GateActivity is the name of the activity that checks a worker from inside.
const GateActivity = "CheckWorker"

// TypeGateFailed is the type of the failure of a Gate: a check of "worker --check" failed.
const TypeGateFailed = "GateFailed"

// GateInput is the input of a Gate. A Gate ignores any other input.
type GateInput struct {
	// Destinations is "warn" or empty. With "warn", a destination that is missing or denies
	// publishing does not stop a roll-out, because only its own topics wait. Otherwise the Gate fails.
	Destinations string `json:"destinations,omitempty"`
}

// GateResult is the result of a Gate that did not fail.
type GateResult struct {
	Checked int `json:"checked"` // lines of "worker --check"
	// Findings are the lines that are not ok. The list is cut if it is long.
	Findings []string `json:"findings,omitempty"`
}

// gateTimeout is longer than all checks together take.
const gateTimeout = time.Minute

// Gate checks a new version before a roll-out moves traffic to it, as the gate.workflowType of
// Temporal's worker controller does. The Gate runs on the new version. It claims and publishes nothing.
// If "worker --check" would fail on that version, the Gate fails with TypeGateFailed and the reasons.
func Gate(ctx workflow.Context, in converter.RawValue) (r GateResult, err error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: gateTimeout,
		// Retry for a worker that stopped before it answered. Do not retry for a finding.
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: timing.RetryPauseFirst, MaximumAttempts: 3, NonRetryableErrorTypes: []string{TypeGateFailed},
		},
		Summary: "check this version's configuration, rights and destinations",
	})
	err = workflow.ExecuteActivity(ctx, GateActivity, string(in.Payload().GetData())).Get(ctx, &r)
	return r, err
}
