package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
)

const (
	// takeOverEvery is how often a worker looks for runs that nobody may finish. They stop
	// the relay, or a topic, until then.
	takeOverEvery = 2 * time.Second
	// hopelessAttempt is the attempt of a decision from which on a run that an earlier
	// worker began counts as one that this version cannot go on with. A decision is tried
	// again when a worker dies as well, and then its second attempt succeeds.
	hopelessAttempt = 5
)

// successor lets the current version finish, or replace, runs that it did not begin. From
// the moment on at which a version is current, no run may depend on workers that have left:
//
//   - A run pinned to another version is set to follow the current one. Versions up to
//     12a5c5b pinned Relay; a recovery that is reset to its beginning inherits its pin.
//   - A run of Relay whose decisions keep failing, because this version cannot replay what
//     another one recorded, is terminated, and the schedule begins the next. Its claims are
//     fenced: batches under way notice by their next heartbeat, and leases expire.
type successor struct {
	client    client.Client
	taskQueue string
	self      *worker.WorkerDeploymentVersion // nil: without versions
	began     time.Time                       // of this worker, by its clock
	log       *slog.Logger
}

// successorAction is what becomes of an open run.
type successorAction int

const (
	leaveRun successorAction = iota
	unpinRun
	replaceRun
)

// decide is pure. current says that workers of self get the work that is not pinned.
func (s successor) decide(d *workflowservice.DescribeWorkflowExecutionResponse, current bool) successorAction {
	info := d.GetWorkflowExecutionInfo()
	if !current || info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return leaveRun
	}
	versioning := info.GetVersioningInfo()
	pinned := versioning.GetDeploymentVersion()
	switch {
	case versioning.GetVersioningOverride() != nil:
		// An operator's decision, or this one: it is set already.
	case s.self != nil && versioning.GetBehavior() == enumspb.VERSIONING_BEHAVIOR_PINNED &&
		pinned.GetDeploymentName() == s.self.DeploymentName && pinned.GetBuildId() != s.self.BuildID:
		return unpinRun
	}
	if info.GetType().GetName() == "Relay" && info.GetStartTime().AsTime().Before(s.began) &&
		d.GetPendingWorkflowTask().GetAttempt() >= hopelessAttempt {
		return replaceRun
	}
	return leaveRun
}

// run looks every takeOverEvery until ctx ends.
func (s successor) run(ctx context.Context) {
	ticker := time.NewTicker(takeOverEvery)
	defer ticker.Stop()
	for last := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		text := ""
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			if text = err.Error(); text != last {
				s.log.Warn("runs of other versions cannot be looked after", "error", err)
			}
		}
		last = text
	}
}

// look takes over all runs that have to be.
func (s successor) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*takeOverEvery)
	defer cancel()
	// The runs of Relay are one or two, and pinned ones none once they are taken over.
	open, err := s.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		PageSize: 100,
		Query: fmt.Sprintf("TaskQueue = '%s' AND ExecutionStatus = 'Running' AND (WorkflowType = 'Relay' OR TemporalWorkflowVersioningBehavior = 'Pinned')",
			strings.ReplaceAll(s.taskQueue, "'", "''")),
	})
	if err != nil {
		return fmt.Errorf("list runs: %w", err)
	}
	if len(open.Executions) == 0 {
		return nil
	}
	current, asked := false, false
	var problems []error
	for _, e := range open.Executions {
		id, run := e.Execution.WorkflowId, e.Execution.RunId
		d, err := s.client.DescribeWorkflowExecution(ctx, id, run)
		if err != nil {
			problems = append(problems, fmt.Errorf("describe %s: %w", id, err))
			continue
		}
		if s.decide(d, true) == leaveRun {
			continue
		}
		if !asked {
			if current, err = s.isCurrent(ctx); err != nil {
				return err
			}
			asked = true
		}
		if err := s.carryOut(ctx, s.decide(d, current), id, run); err != nil && !isOver(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (s successor) carryOut(ctx context.Context, a successorAction, id, run string) error {
	switch a {
	case leaveRun:
	case unpinRun:
		_, err := s.client.UpdateWorkflowExecutionOptions(ctx, client.UpdateWorkflowExecutionOptionsRequest{
			WorkflowId: id, RunId: run,
			WorkflowExecutionOptionsChanges: client.WorkflowExecutionOptionsChanges{
				VersioningOverride: &client.VersioningOverrideChange{Value: &client.AutoUpgradeVersioningOverride{}},
			},
		})
		if err != nil {
			return fmt.Errorf("take over %s: %w", id, err)
		}
		s.log.Info("a run that was pinned to another version goes on with this one", "workflow", id, "run", run)
	case replaceRun:
		if err := s.client.TerminateWorkflow(ctx, id, run, "the current worker version cannot continue what another version recorded"); err != nil {
			return fmt.Errorf("terminate %s: %w", id, err)
		}
		s.log.Warn("a run that this version cannot continue was terminated; the schedule begins the next", "workflow", id, "run", run)
		return s.startNext(ctx)
	}
	return nil
}

// startNext has the schedule begin a run now, unless it is paused.
func (s successor) startNext(ctx context.Context) error {
	schedule := s.client.ScheduleClient().GetHandle(ctx, s.taskQueue)
	d, err := schedule.Describe(ctx)
	if err != nil {
		return fmt.Errorf("describe schedule %s: %w", s.taskQueue, err)
	}
	if d.Schedule.State.Paused {
		return nil
	}
	err = schedule.Trigger(ctx, client.ScheduleTriggerOptions{Overlap: enumspb.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE})
	if err != nil {
		return fmt.Errorf("trigger schedule %s: %w", s.taskQueue, err)
	}
	return nil
}

// isCurrent reports whether work that is not pinned goes to workers of this version.
func (s successor) isCurrent(ctx context.Context) (bool, error) {
	if s.self == nil {
		return true, nil
	}
	version, err := currentVersion(ctx, s.client, s.self.DeploymentName)
	return version != nil && *version == *s.self, err
}

// currentVersion is the current version of a deployment, nil if it has none.
func currentVersion(ctx context.Context, c client.Client, deployment string) (*worker.WorkerDeploymentVersion, error) {
	d, err := c.WorkerDeploymentClient().GetHandle(deployment).Describe(ctx, client.WorkerDeploymentDescribeOptions{})
	if err != nil {
		return nil, fmt.Errorf("describe worker deployment %s: %w", deployment, err)
	}
	return d.Info.RoutingConfig.CurrentVersion, nil
}

// isOver reports that a run has ended meanwhile.
func isOver(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}
