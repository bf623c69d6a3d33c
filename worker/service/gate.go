package service

import (
	"context"
	"strings"

	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/workflows"
)

// maxGateText keeps a failure below the size at which Temporal drops its text.
const maxGateText = 1000

// gate runs every check of --check inside this worker, with connections of its own. Its
// failure lists the checks that failed.
func (r *relay) gate(ctx context.Context) (result workflows.GateResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found := findings(ctx)
	var failed []string
	for _, f := range found.Checks {
		line := strings.Join(strings.Fields(f.State+" "+f.name()+": "+f.Detail), " ")
		result.Findings = append(result.Findings, line)
		if f.State == checkFailed {
			failed = append(failed, line)
		}
	}
	if !found.OK {
		return result, temporal.NewNonRetryableApplicationError(
			shortened(strings.Join(failed, "\n"), maxGateText), workflows.TypeGateFailed, nil)
	}
	return result, nil
}

// shortened cuts a text between two characters.
func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}
