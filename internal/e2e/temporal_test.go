package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// run is one run of the Relay workflow.
type run struct {
	id, runID string
	status    enumspb.WorkflowExecutionStatus
}

func (r run) open() bool { return r.status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING }

// runs lists the outbox's runs, newest first. Temporal shows them a moment after
// they happen.
func (o *outbox) runs(ctx context.Context, c client.Client) (runs []run) {
	o.t.Helper()
	var page []byte
	for {
		out, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("TaskQueue = '%s' AND WorkflowType = 'Relay'", o.queue), NextPageToken: page,
		})
		require.NoError(o.t, err)
		for _, e := range out.Executions {
			runs = append(runs, run{e.Execution.WorkflowId, e.Execution.RunId, e.Status})
		}
		if page = out.NextPageToken; len(page) == 0 {
			return runs
		}
	}
}

func history(t *testing.T, c client.Client, r run) *historypb.History {
	t.Helper()
	h := &historypb.History{}
	events := c.GetWorkflowHistory(t.Context(), r.id, r.runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		require.NoError(t, err)
		h.Events = append(h.Events, e)
	}
	return h
}

// historyText is a run's history as anyone with access to Temporal can read it,
// payloads decoded.
func historyText(t *testing.T, c client.Client, r run) string {
	t.Helper()
	h := history(t, c, r)
	text := ""
	for _, e := range h.Events {
		b, err := protojson.Marshal(e)
		require.NoError(t, err)
		text += string(b) + "\n" + decoded(e) + "\n"
	}
	return text
}

// decoded is what is base64 in the JSON.
func decoded(e *historypb.HistoryEvent) (text string) {
	a, b := e.GetActivityTaskScheduledEventAttributes(), e.GetActivityTaskCompletedEventAttributes()
	for _, p := range append(a.GetInput().GetPayloads(), b.GetResult().GetPayloads()...) {
		text += string(p.GetData()) + "\n"
	}
	f := e.GetActivityTaskFailedEventAttributes().GetFailure()
	for _, p := range f.GetApplicationFailureInfo().GetDetails().GetPayloads() {
		text += string(p.GetData()) + "\n"
	}
	w := e.GetWorkflowExecutionCompletedEventAttributes()
	for _, p := range w.GetResult().GetPayloads() {
		text += string(p.GetData()) + "\n"
	}
	s := e.GetActivityTaskScheduledEventAttributes().GetHeader().GetFields()
	for _, p := range s {
		text += string(p.GetData()) + "\n"
	}
	return text + string(e.GetUserMetadata().GetSummary().GetData())
}

// completed waits for runs that ended by themselves, and returns them.
func (o *outbox) completed(c client.Client, n int, within func(cond func() error)) (done []run) {
	o.t.Helper()
	within(func() error {
		done = done[:0]
		for _, r := range o.runs(o.t.Context(), c) {
			if r.status == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
				done = append(done, r)
			}
		}
		if len(done) < n {
			return fmt.Errorf("%d runs are complete, want %d", len(done), n)
		}
		return nil
	})
	return done
}

// pauseActivity does what the button in the UI does.
func (o *outbox) pauseActivity(c client.Client, pending *workflowpb.PendingActivityInfo) *commonpb.WorkflowExecution {
	o.t.Helper()
	execution := &commonpb.WorkflowExecution{WorkflowId: o.recoveryID("orders")}
	_, err := c.WorkflowService().PauseActivity(o.t.Context(), &workflowservice.PauseActivityRequest{
		Namespace: "default", Execution: execution, Reason: "to look at it",
		Activity: &workflowservice.PauseActivityRequest_Id{Id: pending.GetActivityId()},
	})
	require.NoError(o.t, err)
	return execution
}

// someBatch waits until a batch of the outbox is pending that is as wanted.
func (o *outbox) someBatch(c client.Client, wanted func(*workflowpb.PendingActivityInfo) bool) {
	o.t.Helper()
	testenv.Eventually(o.t, 30*time.Second, func() error {
		for _, r := range o.runs(o.t.Context(), c) {
			d, err := c.DescribeWorkflowExecution(o.t.Context(), r.id, r.runID)
			if err != nil {
				return err
			}
			for _, a := range d.GetPendingActivities() {
				if a.GetActivityType().GetName() == "PublishBatch" && wanted(a) {
					return nil
				}
			}
		}
		return errNotYet
	})
}

// secondAttempt waits until a batch whose worker died is at its next attempt. It
// is counted though nothing in the dead process could count it: an event that
// kills its worker shows as attempts, and not as one that is always the first.
func (o *outbox) secondAttempt(c client.Client) {
	o.t.Helper()
	o.someBatch(c, func(a *workflowpb.PendingActivityInfo) bool { return a.GetAttempt() > 1 })
}
