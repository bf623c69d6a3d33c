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

// TypeGateFailed is the type of the failure of a Gate: a check failed that "worker --check"
// has as well.
const TypeGateFailed = "GateFailed"

// GateInput is the input of a Gate. A Gate ignores any other input.
type GateInput struct {
	// Destinations is "warn" if a missing destination, or one that denies publishing, does not
	// stop a roll-out, because it affects only its topics. Otherwise the Gate fails.
	Destinations string `json:"destinations,omitempty"`
}

// GateResult is the findings of a Gate.
type GateResult struct {
	Checked int `json:"checked"` // lines of "worker --check"
	// Findings are the lines that are not ok, as many as fit.
	Findings []string `json:"findings,omitempty"`
}

// gateTimeout is longer than the time of all checks together.
const gateTimeout = time.Minute

// Gate checks a new version before a roll-out moves traffic to it, as the gate.workflowType of
// Temporal's worker controller does. It runs on that version, and claims and publishes nothing.
// If "worker --check" would fail there, it fails with GateFailed and the reasons.
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
