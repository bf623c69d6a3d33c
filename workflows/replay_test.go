package workflows_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/temporal-outbox/relay/activities"
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

// The histories that begin with relay-seat are of runs in which workers held shares, as commit 03fdd0b
// recorded them: seats that went on to another worker, that a worker of the version before refused, that
// ended with their worker, and those of runs that continued as new, or that another version could not
// continue and replaced.
func TestReplay_OfSeatsAcceptsWhatTheFirstVersionWithSharesRecorded(t *testing.T) {
	for name, has := range map[string]func(e *historypb.HistoryEvent) bool{
		"relay-seat-passed-on": func(e *historypb.HistoryEvent) bool {
			return e.GetActivityTaskStartedEventAttributes().GetAttempt() > 1
		},
		"relay-seat-of-the-version-before": func(e *historypb.HistoryEvent) bool {
			return e.GetActivityTaskFailedEventAttributes().GetFailure().GetApplicationFailureInfo().GetType() == activities.TypeClaimLost
		},
		"relay-seat-lost": func(e *historypb.HistoryEvent) bool {
			return e.GetActivityTaskCancelRequestedEventAttributes() != nil
		},
		"relay-seat-continued": func(e *historypb.HistoryEvent) bool {
			return e.GetWorkflowExecutionContinuedAsNewEventAttributes() != nil
		},
		"relay-seat-replaced": func(e *historypb.HistoryEvent) bool {
			return e.GetWorkflowTaskFailedEventAttributes().GetCause() == enumspb.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := load(t, name)
			require.True(t, slices.ContainsFunc(h.Events, isSeat))
			require.True(t, slices.ContainsFunc(h.Events, has))
			require.NoError(t, replayed(h))
		})
	}
}

// A worker may get the run at any decision, also between the one that plans the early end and the end.
func TestReplay_AcceptsARunThatPreparesToContinueAsNew(t *testing.T) {
	h := load(t, "relay-seat-continued")
	planned := slices.IndexFunc(h.Events, func(e *historypb.HistoryEvent) bool {
		return e.GetMarkerRecordedEventAttributes().GetMarkerName() == "Version"
	})
	require.Positive(t, planned)
	decisions := 0
	for i, e := range h.Events {
		if e.GetEventType() != enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED || i < planned {
			continue
		}
		// Each replay takes as long as the history: look at some, and at all that end the run.
		if decisions++; decisions%8 == 0 || i > len(h.Events)-20 {
			require.NoError(t, replayed(&historypb.History{Events: h.Events[:i+1]}), "event %d", i+1)
		}
	}
	require.Greater(t, decisions, 10)
}

// load reads a history of testdata.
func load(t *testing.T, name string) *historypb.History {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "replay", name+".json"))
	require.NoError(t, err)
	h := &historypb.History{}
	require.NoError(t, protojson.Unmarshal(text, h))
	return h
}

func replayed(h *historypb.History) error {
	r := worker.NewWorkflowReplayer()
	r.RegisterWorkflow(workflows.Relay)
	return r.ReplayWorkflowHistory(nil, h)
}

func isSeat(e *historypb.HistoryEvent) bool {
	return e.GetActivityTaskScheduledEventAttributes() != nil && strings.Contains(string(e.GetUserMetadata().GetSummary().GetData()), "worker seat")
}
