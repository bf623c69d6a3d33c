package service

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	deploymentpb "go.temporal.io/api/deployment/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/worker"
)

func TestSuccessor_TakesOverOnlyWhatNobodyElseMayFinish(t *testing.T) {
	type info = workflowpb.WorkflowExecutionInfo
	// An open run of Relay, pinned to version "one", to be changed.
	run := func(change func(*info)) *info {
		i := &info{
			Type: &commonpb.WorkflowType{Name: "Relay"}, Status: enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
			VersioningInfo: &workflowpb.WorkflowExecutionVersioningInfo{
				Behavior:          enumspb.VERSIONING_BEHAVIOR_PINNED,
				DeploymentVersion: &deploymentpb.WorkerDeploymentVersion{DeploymentName: "relay", BuildId: "one"},
			},
		}
		if change != nil {
			change(i)
		}
		return i
	}
	moves := func(i *info) { i.VersioningInfo.Behavior = enumspb.VERSIONING_BEHAVIOR_AUTO_UPGRADE }
	mine := func(i *info) { i.VersioningInfo.DeploymentVersion.BuildId = "two" }
	unversioned := func(i *info) { i.VersioningInfo = nil }
	two := &worker.WorkerDeploymentVersion{DeploymentName: "relay", BuildID: "two"}
	const (
		none   = enumspb.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED
		differ = enumspb.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
		broken = enumspb.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE
	)
	for _, c := range []struct {
		name    string
		self    *worker.WorkerDeploymentVersion
		run     *info
		attempt int32
		failed  enumspb.WorkflowTaskFailedCause
		want    successorAction
	}{
		{"pinned to another version", two, run(nil), 1, none, unpinRun},
		{"pinned to a version of another deployment", two, run(func(i *info) { i.VersioningInfo.DeploymentVersion.DeploymentName = "other" }), 1, none, unpinRun},
		{"pinned to this version", two, run(mine), 1, none, leaveRun},
		{"pinned by an operator", two, run(func(i *info) { i.VersioningInfo.VersioningOverride = &workflowpb.VersioningOverride{} }), 1, none, leaveRun},
		{"pinned, and over", two, run(func(i *info) { i.Status = enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED }), 1, none, leaveRun},
		{"pinned, without versions here", nil, run(nil), 1, none, leaveRun},
		{"moves", two, run(moves), 1, none, leaveRun},
		{"moves, and this version cannot replay it", two, run(moves), 2, differ, replaceRun},
		{"this version cannot replay what it recorded itself", two, run(func(i *info) { moves(i); mine(i) }), 2, differ, replaceRun},
		{"this code cannot replay it, without versions", nil, run(unversioned), 2, differ, replaceRun},
		{"its first decision fails", two, run(moves), 1, differ, leaveRun},
		{"its decisions fail for another reason", two, run(moves), hopelessAttempt - 1, broken, leaveRun},
		{"its decisions go on failing for another reason", two, run(moves), hopelessAttempt, broken, replaceRun},
		{"its decisions go on failing on this version", two, run(func(i *info) { moves(i); mine(i) }), hopelessAttempt, broken, leaveRun},
		{"its decisions go on failing, without versions", nil, run(unversioned), hopelessAttempt, broken, leaveRun},
		{"decisions of a recovery fail: it has what it found out", two, run(func(i *info) { moves(i); i.Type.Name = "Recovery" }), 20, differ, leaveRun},
		{"no decision is pending", two, run(moves), 0, none, leaveRun},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &successor{taskQueue: "q", self: c.self}
			require.Equal(t, c.want, s.decide(c.run, c.attempt, c.failed))
		})
	}
}

func TestSuccessor_ActsOnlyIfItsVersionIsCurrent(t *testing.T) {
	version := func(build string) *deploymentpb.WorkerDeploymentVersion {
		return &deploymentpb.WorkerDeploymentVersion{DeploymentName: "relay", BuildId: build}
	}
	two := &worker.WorkerDeploymentVersion{DeploymentName: "relay", BuildID: "two"}
	for _, c := range []struct {
		name string
		self *worker.WorkerDeploymentVersion
		of   *taskqueuepb.TaskQueueVersioningInfo
		want bool // it is current
		part bool // it gets a part of the tasks
	}{
		{"nothing is current", two, nil, false, false},
		{"it is current", two, &taskqueuepb.TaskQueueVersioningInfo{CurrentDeploymentVersion: version("two")}, true, true},
		{"another is current", two, &taskqueuepb.TaskQueueVersioningInfo{CurrentDeploymentVersion: version("one")}, false, false},
		{"the same build of another deployment is current", two, &taskqueuepb.TaskQueueVersioningInfo{
			CurrentDeploymentVersion: &deploymentpb.WorkerDeploymentVersion{DeploymentName: "other", BuildId: "two"},
		}, false, false},
		{"it gets a part", two, &taskqueuepb.TaskQueueVersioningInfo{
			CurrentDeploymentVersion: version("one"), RampingDeploymentVersion: version("two"), RampingVersionPercentage: 99,
		}, false, true},
		{"another gets a part", two, &taskqueuepb.TaskQueueVersioningInfo{
			CurrentDeploymentVersion: version("one"), RampingDeploymentVersion: version("three"), RampingVersionPercentage: 99,
		}, false, false},
		{"it is ramping and gets nothing", two, &taskqueuepb.TaskQueueVersioningInfo{
			CurrentDeploymentVersion: version("one"), RampingDeploymentVersion: version("two"),
		}, false, false},
		{"it gets everything", two, &taskqueuepb.TaskQueueVersioningInfo{
			CurrentDeploymentVersion: version("one"), RampingDeploymentVersion: version("two"), RampingVersionPercentage: 100,
		}, true, true},
		{"without versions, and nothing is current", nil, nil, true, true},
		{"without versions, and a version is current", nil, &taskqueuepb.TaskQueueVersioningInfo{CurrentDeploymentVersion: version("one")}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &successor{self: c.self}
			require.Equal(t, c.want, s.isCurrent(c.of))
			require.Equal(t, c.part, s.getsTasks(c.of))
		})
	}
}

func TestSuccessor_WaitsOnceItsVersionHasHadNoTasksForAMinute(t *testing.T) {
	var s successor
	began := time.Now()
	for _, c := range []struct {
		after     time.Duration
		getsTasks bool
		want      bool
	}{
		{0, false, false},
		{waitsAfter - time.Second, false, false},
		{waitsAfter, false, true},
		{2 * waitsAfter, true, false},
		{2*waitsAfter + time.Second, false, false},
		{3*waitsAfter + time.Second, false, true},
	} {
		s.note(c.getsTasks, began.Add(c.after))
		require.Equal(t, c.want, s.waits.Load(), "%v", c.after)
	}
}

func TestPolling_IsAProblemOnlyWhileTemporalRefusesToGiveWork(t *testing.T) {
	refused := errors.New("API key expired")
	var p polling
	require.ErrorContains(t, p.problem(), "does not poll Temporal yet")
	p.begins()
	require.NoError(t, p.problem(), "the first long poll may last a minute")
	p.note("PollActivityTaskQueue", refused)
	require.ErrorContains(t, p.problem(), "API key expired", "it has never been answered")
	p.note("PollActivityTaskQueue", nil)
	require.NoError(t, p.problem())
	p.note("PollActivityTaskQueue", refused)
	require.NoError(t, p.problem(), "it was answered a moment ago")
	p.kinds["PollActivityTaskQueue"].failing = time.Now().Add(-refusedFor - time.Second)
	p.note("PollWorkflowTaskQueue", nil)
	require.ErrorContains(t, p.problem(), "API key expired", "the other kind's answers do not count")
	p.ends("it is stopping")
	require.ErrorContains(t, p.problem(), "no longer polls Temporal: it is stopping")
}
