package workflows_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"

	"github.com/temporal-outbox/relay/workflows"
)

func replay(t *testing.T, file string) error {
	t.Helper()
	r := worker.NewWorkflowReplayer()
	r.RegisterWorkflow(workflows.Relay)
	r.RegisterWorkflow(workflows.Recovery)
	r.RegisterWorkflow(workflows.Maintenance)
	r.RegisterWorkflow(workflows.Operation)
	return r.ReplayWorkflowHistoryFromJSONFile(nil, file)
}

// Each file is the history of a run of a worker that was deployed: from the demo, or
// from an end-to-end test, as "temporal workflow show --output json" saves it. A
// change that cannot replay it breaks runs that are under way when it is deployed.
func TestReplay_AcceptsTheHistoriesOfEarlierVersions(t *testing.T) {
	files, err := filepath.Glob("testdata/replay/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { require.NoError(t, replay(t, file)) })
	}
}

func TestReplay_DetectsADifferentDecision(t *testing.T) {
	history, err := os.ReadFile("testdata/replay/relay-completed.json")
	require.NoError(t, err)
	// As if the recorded code had released a batch where this one publishes it.
	other := strings.Replace(string(history), `"name": "PublishBatch"`, `"name": "ReleaseBatch"`, 1)
	require.NotEqual(t, string(history), other)
	file := filepath.Join(t.TempDir(), "other.json")
	require.NoError(t, os.WriteFile(file, []byte(other), 0o600))
	require.ErrorContains(t, replay(t, file), "nondeterministic")
}
