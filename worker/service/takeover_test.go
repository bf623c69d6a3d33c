package service

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	deploymentpb "go.temporal.io/api/deployment/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestSuccessor_TakesOverOnlyWhatNobodyElseMayFinish(t *testing.T) {
	began := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	// An open run of Relay, begun before this worker on version "one", to be changed.
	run := func(change func(*workflowservice.DescribeWorkflowExecutionResponse)) *workflowservice.DescribeWorkflowExecutionResponse {
		d := &workflowservice.DescribeWorkflowExecutionResponse{
			WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
				Type: &commonpb.WorkflowType{Name: "Relay"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
				StartTime: timestamppb.New(began.Add(-time.Minute)),
				VersioningInfo: &workflowpb.WorkflowExecutionVersioningInfo{
					Behavior:          enumspb.VERSIONING_BEHAVIOR_PINNED,
					DeploymentVersion: &deploymentpb.WorkerDeploymentVersion{DeploymentName: "relay", BuildId: "one"},
				},
			},
			PendingWorkflowTask: &workflowpb.PendingWorkflowTaskInfo{Attempt: 1},
		}
		if change != nil {
			change(d)
		}
		return d
	}
	two := &worker.WorkerDeploymentVersion{DeploymentName: "relay", BuildID: "two"}
	for _, c := range []struct {
		name    string
		self    *worker.WorkerDeploymentVersion
		current bool
		run     *workflowservice.DescribeWorkflowExecutionResponse
		want    successorAction
	}{
		{"pinned to another version", two, true, run(nil), unpinRun},
		{"pinned, and this version is not current", two, false, run(nil), leaveRun},
		{"pinned to this version", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo.DeploymentVersion.BuildId = "two"
		}), leaveRun},
		{"pinned to a version of another deployment", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo.DeploymentVersion.DeploymentName = "other"
		}), leaveRun},
		{"pinned by an operator", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo.VersioningOverride = &workflowpb.VersioningOverride{}
		}), leaveRun},
		{"pinned, and over", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
		}), leaveRun},
		{"pinned, without versions here", nil, true, run(nil), leaveRun},
		{"moves, and its decisions fail", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo.Behavior = enumspb.VERSIONING_BEHAVIOR_AUTO_UPGRADE
			d.PendingWorkflowTask.Attempt = hopelessAttempt
		}), replaceRun},
		{"its decisions fail, without versions", nil, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo = nil
			d.PendingWorkflowTask.Attempt = hopelessAttempt
		}), replaceRun},
		{"its decisions failed less often", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo = nil
			d.PendingWorkflowTask.Attempt = hopelessAttempt - 1
		}), leaveRun},
		{"its decisions fail, and this version began it", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo = nil
			d.WorkflowExecutionInfo.StartTime = timestamppb.New(began.Add(time.Second))
			d.PendingWorkflowTask.Attempt = 20
		}), leaveRun},
		{"decisions of a recovery fail: it has what it found out", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo = nil
			d.WorkflowExecutionInfo.Type.Name = "Recovery"
			d.PendingWorkflowTask.Attempt = 20
		}), leaveRun},
		{"no decision is pending", two, true, run(func(d *workflowservice.DescribeWorkflowExecutionResponse) {
			d.WorkflowExecutionInfo.VersioningInfo = nil
			d.PendingWorkflowTask = nil
		}), leaveRun},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := successor{taskQueue: "q", self: c.self, began: began}
			require.Equal(t, c.want, s.decide(c.run, c.current))
		})
	}
}
