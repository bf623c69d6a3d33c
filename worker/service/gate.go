package service

import (
	"context"
	"encoding/json"
	"strings"

	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/workflows"
)

const (
	// maxGateText keeps a failure below the size at which Temporal drops its text.
	maxGateText = 1000
	// maxGateFindings keeps a result small for any number of topics.
	maxGateFindings = 100
)

// gate runs every check of --check inside this worker, with connections of its own. Its
// failure lists the checks that failed. text is the input of the Gate.
func (r *relay) gate(ctx context.Context, text string) (result workflows.GateResult, err error) {
	var in workflows.GateInput
	_ = json.Unmarshal([]byte(text), &in) // a controller's own input is ignored
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found := findings(ctx)
	var failed []string
	for _, f := range found.Checks {
		result.Checked++
		if f.State == checkOK {
			continue
		}
		line := strings.Join(strings.Fields(f.State+" "+f.name()+": "+f.Detail), " ")
		if len(result.Findings) < maxGateFindings {
			result.Findings = append(result.Findings, printable.Cut(line, maxGateText))
		}
		if f.State == checkFailed && (f.Topic == "" || in.Destinations != "warn") {
			failed = append(failed, line)
		}
	}
	if len(failed) > 0 {
		return result, temporal.NewNonRetryableApplicationError(
			printable.Cut(strings.Join(failed, "\n"), maxGateText), workflows.TypeGateFailed, nil)
	}
	return result, nil
}
