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

// TypeGateFailed is the type of the failure of a Gate: something failed that
// "worker --check" would name.
const TypeGateFailed = "GateFailed"

// GateInput is what a Gate may be told. Anything else than such an object is ignored.
type GateInput struct {
	// Destinations is "warn" if a destination that is missing, or denies publishing, shall not
	// stop a roll-out: it harms only its topics. Otherwise the Gate fails for it.
	Destinations string `json:"destinations,omitempty"`
}

// GateResult is what a Gate found.
type GateResult struct {
	Checked int `json:"checked"` // lines of "worker --check"
	// Findings are those lines that are not ok, as far as they fit.
	Findings []string `json:"findings,omitempty"`
}

// gateTimeout is longer than all checks take together.
const gateTimeout = time.Minute

// Gate is for a roll-out that asks a new version before traffic moves to it, such as the
// gate.workflowType of Temporal's worker controller. It runs on that version, claims and
// publishes nothing, and fails with GateFailed and the reasons if "worker --check" would
// fail there.
func Gate(ctx workflow.Context, in converter.RawValue) (r GateResult, err error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: gateTimeout,
		// A worker that leaves takes its answer with it; a finding is no reason to ask again.
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: timing.RetryFirst, MaximumAttempts: 3, NonRetryableErrorTypes: []string{TypeGateFailed},
		},
		Summary: "check this version's configuration, rights and destinations",
	})
	err = workflow.ExecuteActivity(ctx, GateActivity, string(in.Payload().GetData())).Get(ctx, &r)
	return r, err
}
