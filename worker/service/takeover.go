package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/temporal-outbox/relay/internal/liveness"
)

const (
	// takeOverEvery is how often a worker looks at the run of Relay. The relay stops
	// until then if no worker may finish the run.
	takeOverEvery = 2 * time.Second
	// listPinnedEvery is how often a worker lists all pinned workflows, beside when its
	// version becomes current. Temporal lets a namespace list 10 times a second by default,
	// for all its users together (frontend.namespaceRPS.visibility).
	listPinnedEvery = time.Minute
	// waitsAfter is how long a version gets no tasks until its workers ask for no seat. A version that becomes
	// current before has its seats at once.
	waitsAfter = time.Minute
	// hopelessAttempt is the attempt of a decision from which on this version counts as unable
	// to continue the run, for any reason. Temporal also repeats a decision if its worker is
	// killed, or if the machine has no processor time for it. With
	// workflows.TaskTimeout, the seventh attempt begins after about 47 seconds.
	hopelessAttempt = 7
)

// successor lets the current version finish, or replace, workflows that it did not begin.
// From the moment on at which a version is current, no workflow may depend on workers that
// have left:
//
//   - A workflow pinned to another version is set to follow the current one. Versions up to
//     12a5c5b pinned Relay; a recovery that is reset to its beginning inherits its pin.
//   - A run of Relay whose decisions fail, because this version cannot replay what another
//     one recorded, is terminated, and the schedule begins the next. Its claims are fenced:
//     batches under way notice by their next heartbeat, and leases expire.
type successor struct {
	client    client.Client
	namespace string
	taskQueue string
	self      *worker.WorkerDeploymentVersion // nil: without versions
	log       *slog.Logger

	waits   atomic.Bool // Temporal has given this version no tasks for waitsAfter
	idle    time.Time   // since when it was seen to get no tasks; zero: it gets some
	current bool        // as seen last
	listed  time.Time   // when pinned workflows were listed
	owed    bool        // a run was terminated, and the schedule has not begun the next
}

// successorAction is the decision about an open workflow.
type successorAction int

const (
	leaveRun successorAction = iota
	unpinRun
	replaceRun
)

// decide is pure. It is for workers of the current version only. failed is why the last
// decision of the workflow failed, unspecified if it did not.
func (s *successor) decide(info *workflowpb.WorkflowExecutionInfo, attempt int32, failed enumspb.WorkflowTaskFailedCause) successorAction {
	if info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return leaveRun
	}
	versioning := info.GetVersioningInfo()
	recorded := versioning.GetDeploymentVersion() // of the last decision that was completed
	mine := s.self != nil && recorded.GetDeploymentName() == s.self.DeploymentName && recorded.GetBuildId() == s.self.BuildID
	// An override is an operator's decision, or was set here before.
	if s.self != nil && !mine && versioning.GetVersioningOverride() == nil &&
		versioning.GetBehavior() == enumspb.VERSIONING_BEHAVIOR_PINNED {
		return unpinRun
	}
	if info.GetType().GetName() != "Relay" {
		return leaveRun
	}
	if attempt > 1 && failed == enumspb.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR {
		return replaceRun
	}
	if s.self != nil && recorded != nil && !mine && attempt >= hopelessAttempt {
		return replaceRun
	}
	return leaveRun
}

// isCurrent reports whether work that is not pinned goes to workers of this version.
func (s *successor) isCurrent(v *taskqueuepb.TaskQueueVersioningInfo) bool {
	current, ramping := v.GetCurrentDeploymentVersion(), v.GetRampingDeploymentVersion()
	if v.GetRampingVersionPercentage() >= 100 {
		current = ramping
	}
	if s.self == nil {
		return current.GetBuildId() == ""
	}
	return current.GetDeploymentName() == s.self.DeploymentName && current.GetBuildId() == s.self.BuildID
}

// getsTasks reports whether Temporal gives workers of this version some work that is not pinned.
func (s *successor) getsTasks(v *taskqueuepb.TaskQueueVersioningInfo) bool {
	ramping := v.GetRampingDeploymentVersion()
	return s.isCurrent(v) || s.self != nil && v.GetRampingVersionPercentage() > 0 &&
		ramping.GetDeploymentName() == s.self.DeploymentName && ramping.GetBuildId() == s.self.BuildID
}

// note notes whether this version gets tasks now.
func (s *successor) note(getsTasks bool, now time.Time) {
	switch {
	case getsTasks:
		s.idle = time.Time{}
	case s.idle.IsZero():
		s.idle = now
	}
	s.waits.Store(!getsTasks && now.Sub(s.idle) >= waitsAfter)
}

// run looks every takeOverEvery until ctx ends.
func (s *successor) run(ctx context.Context) {
	ticker := time.NewTicker(takeOverEvery)
	defer ticker.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := s.look(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Warn("cannot take over runs of other versions", "error", err)
		}
		failing = err != nil
	}
}

// look takes over the runs that this version has to finish or replace.
func (s *successor) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*takeOverEvery)
	defer cancel()
	queue, err := s.client.DescribeTaskQueue(ctx, s.taskQueue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	if err != nil {
		return fmt.Errorf("describe task queue %s: %w", s.taskQueue, err)
	}
	s.note(s.getsTasks(queue.GetVersioningInfo()), time.Now())
	before := s.current
	if s.current = s.isCurrent(queue.GetVersioningInfo()); !s.current {
		return nil
	}
	var problems []error
	problems = append(problems, s.lookAtRelay(ctx))
	if s.self != nil && (!before || time.Since(s.listed) > listPinnedEvery) {
		// Workers that began together do not list together for ever.
		s.listed = time.Now().Add(-rand.N(listPinnedEvery / 4))
		problems = append(problems, s.lookAtPinned(ctx))
	}
	return errors.Join(problems...)
}

// lookAtRelay looks at the runs that the schedule has begun. Temporal knows them at once,
// and not only when they are listed.
func (s *successor) lookAtRelay(ctx context.Context) error {
	d, err := s.client.ScheduleClient().GetHandle(ctx, s.taskQueue).Describe(ctx)
	switch {
	case liveness.IsAbsent(err):
		return nil
	case err != nil:
		return fmt.Errorf("describe schedule %s: %w", s.taskQueue, err)
	}
	var problems []error
	for _, w := range d.Info.RunningWorkflows {
		// The run that goes on under this id, if it has continued as new.
		problems = append(problems, s.consider(ctx, w.WorkflowID, ""))
	}
	if s.owed {
		problems = append(problems, s.startNext(ctx, d.Schedule.State.Paused))
	}
	return errors.Join(problems...)
}

// lookAtPinned looks at all workflows that are pinned.
func (s *successor) lookAtPinned(ctx context.Context) error {
	var page []byte
	var problems []error
	for {
		open, err := s.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			NextPageToken: page,
			Query: fmt.Sprintf("TaskQueue = %s AND ExecutionStatus = 'Running' AND TemporalWorkflowVersioningBehavior = 'Pinned'",
				liveness.Quoted(s.taskQueue)),
		})
		if err != nil {
			return errors.Join(append(problems, fmt.Errorf("list pinned workflows: %w", err))...)
		}
		for _, e := range open.Executions {
			problems = append(problems, s.consider(ctx, e.Execution.WorkflowId, e.Execution.RunId))
		}
		if page = open.NextPageToken; len(page) == 0 {
			return errors.Join(problems...)
		}
	}
}

// consider takes one workflow over, if it has to be.
func (s *successor) consider(ctx context.Context, id, run string) error {
	d, err := s.client.DescribeWorkflowExecution(ctx, id, run)
	if err != nil {
		return unlessAbsent(fmt.Errorf("describe %s: %w", id, err))
	}
	info, attempt := d.GetWorkflowExecutionInfo(), d.GetPendingWorkflowTask().GetAttempt()
	run = info.GetExecution().GetRunId()
	failed := enumspb.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED
	if attempt > 1 {
		if failed, err = s.lastFailure(ctx, id, run); err != nil {
			return unlessAbsent(err)
		}
	}
	switch s.decide(info, attempt, failed) {
	case unpinRun:
		_, err := s.client.UpdateWorkflowExecutionOptions(ctx, client.UpdateWorkflowExecutionOptionsRequest{
			WorkflowId: id, RunId: run,
			WorkflowExecutionOptionsChanges: client.WorkflowExecutionOptionsChanges{
				VersioningOverride: &client.VersioningOverrideChange{Value: &client.AutoUpgradeVersioningOverride{}},
			},
		})
		if err != nil {
			return unlessAbsent(fmt.Errorf("take over %s: %w", id, err))
		}
		s.log.Info("a workflow that was pinned to another version continues with this one", "workflow", id, "run", run)
	case replaceRun:
		if err := s.client.TerminateWorkflow(ctx, id, run, "the current worker version cannot continue what another version recorded"); err != nil {
			return unlessAbsent(fmt.Errorf("terminate %s: %w", id, err))
		}
		s.owed = true
		s.log.Warn("a run that this version cannot continue was terminated; the schedule starts the next one", "workflow", id, "run", run, "cause", failed.String())
	case leaveRun:
	}
	return nil
}

// lastFailure is why the last decision of a workflow failed. The SDK reports only the first
// attempt that fails, so that the event stays the last one.
func (s *successor) lastFailure(ctx context.Context, id, run string) (enumspb.WorkflowTaskFailedCause, error) {
	h, err := s.client.WorkflowService().GetWorkflowExecutionHistoryReverse(ctx, &workflowservice.GetWorkflowExecutionHistoryReverseRequest{
		Namespace: s.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: run}, MaximumPageSize: 3,
	})
	if err != nil {
		return 0, fmt.Errorf("read the history of %s: %w", id, err)
	}
	for _, e := range h.GetHistory().GetEvents() {
		if a, ok := e.GetAttributes().(*historypb.HistoryEvent_WorkflowTaskFailedEventAttributes); ok {
			return a.WorkflowTaskFailedEventAttributes.GetCause(), nil
		}
	}
	return enumspb.WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED, nil
}

// startNext has the schedule begin a run now. A paused one does so when it is unpaused.
func (s *successor) startNext(ctx context.Context, paused bool) error {
	if !paused {
		err := s.client.ScheduleClient().GetHandle(ctx, s.taskQueue).
			Trigger(ctx, client.ScheduleTriggerOptions{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE})
		if err != nil {
			return fmt.Errorf("trigger schedule %s: %w", s.taskQueue, err)
		}
	}
	s.owed = false
	return nil
}

func unlessAbsent(err error) error {
	if liveness.IsAbsent(err) {
		return nil
	}
	return err
}
