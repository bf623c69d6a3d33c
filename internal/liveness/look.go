package liveness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/timing"
)

// relayType is the name of the workflow. Names in histories never change.
const relayType = "Relay"

// Look asks Temporal about the relay of a task queue. deployment is the deployment of its
// workers; if it is empty, the task queue and its workers name it. Look takes timing.LookFor at
// most.
//
// A part of the state is Unknown if Temporal does not answer for it, for example because a right
// is missing. If Temporal answers for no part, Look returns the first error; you may show the
// state nevertheless.
func Look(ctx context.Context, c client.Client, taskQueue, deployment string) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, timing.LookFor)
	defer cancel()
	s := State{TaskQueue: taskQueue, At: time.Now()}
	var named string
	var scheduled []client.ScheduleWorkflowExecution
	var failed [3]error
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Schedule, scheduled, failed[0] = lookAtSchedule(ctx, c, taskQueue)
		s.Run = lookForRun(ctx, c, taskQueue, scheduled, s.At)
	})
	wg.Go(func() { s.Maintenance, _, failed[1] = lookAtSchedule(ctx, c, taskQueue+"-maintenance") })
	wg.Go(func() {
		s.Workers, named, failed[2] = lookForWorkers(ctx, c, taskQueue, s.At)
		if deployment == "" {
			deployment = named
		}
		if deployment != "" {
			s.Version = lookAtVersion(ctx, c, deployment)
			s.Workers.newest = newestOf(s.Workers, deployment)
		}
	})
	wg.Wait()
	if failed[0] != nil && failed[1] != nil && failed[2] != nil {
		return s, failed[0]
	}
	return s, nil
}

// Untold is the state in which all is unknown, because Temporal could not be asked.
func Untold(taskQueue string, why error) State {
	text := why.Error()
	return State{
		TaskQueue: taskQueue, At: time.Now(),
		Schedule:    Schedule{ID: taskQueue, Status: Unknown, Why: text},
		Maintenance: Schedule{ID: taskQueue + "-maintenance", Status: Unknown, Why: text},
		Run:         Run{Status: Unknown, Why: text},
		Workers:     Workers{Status: Unknown, Why: text},
	}
}

// Quoted writes a text as a string of Temporal's list filters.
// https://docs.temporal.io/list-filter
func Quoted(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`).Replace(text) + "'"
}

// IsAbsent reports whether an error says that Temporal does not have the object, or no longer.
func IsAbsent(err error) bool {
	var absent *serviceerror.NotFound
	return errors.As(err, &absent)
}

func lookAtSchedule(ctx context.Context, c client.Client, id string) (Schedule, []client.ScheduleWorkflowExecution, error) {
	s := Schedule{ID: id}
	d, err := c.ScheduleClient().GetHandle(ctx, id).Describe(ctx)
	switch {
	case IsAbsent(err):
		s.Status = Absent
		return s, nil, nil
	case err != nil:
		err = fmt.Errorf("describe schedule %s: %w", id, err)
		s.Status, s.Why = Unknown, err.Error()
		return s, nil, err
	}
	s.Status = Active
	if state := d.Schedule.State; state != nil && state.Paused {
		s.Status, s.Note = Paused, state.Note
		if strings.HasPrefix(state.Note, OffNote) {
			s.Status = Off
		}
	}
	if next := d.Info.NextActionTimes; len(next) > 0 && s.Status == Active {
		s.Next = &next[0]
	}
	if spec := d.Schedule.Spec; spec != nil && len(spec.Intervals) == 1 && len(spec.Calendars)+len(spec.CronExpressions) == 0 {
		s.every = spec.Intervals[0].Every
	}
	s.last = d.Info.CreatedAt
	if d.Info.LastUpdateAt.After(s.last) { // an operator may have unpaused it
		s.last = d.Info.LastUpdateAt
	}
	if recent := d.Info.RecentActions; len(recent) > 0 && recent[len(recent)-1].ActualTime.After(s.last) {
		s.last = recent[len(recent)-1].ActualTime
	}
	return s, d.Info.RunningWorkflows, nil
}

// lookForRun describes the run that the schedule has started. Without one, it looks for a run that
// was started in another way.
func lookForRun(ctx context.Context, c client.Client, taskQueue string, scheduled []client.ScheduleWorkflowExecution, now time.Time) Run {
	var ids []string
	for _, w := range scheduled {
		ids = append(ids, w.WorkflowID)
	}
	if len(ids) == 0 {
		list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			PageSize: 1,
			Query: fmt.Sprintf("TaskQueue = %s AND WorkflowType = '%s' AND ExecutionStatus = 'Running'",
				Quoted(taskQueue), relayType),
		})
		if err != nil {
			return Run{Status: Unknown, Why: fmt.Sprintf("look for a run of Relay: %v", err)}
		}
		for _, e := range list.GetExecutions() {
			ids = append(ids, e.GetExecution().GetWorkflowId())
		}
	}
	found := Run{Status: Absent}
	for _, id := range ids {
		if r := describeRun(ctx, c, id, now); r.Status != Absent {
			found = r
		}
	}
	return found
}

// describeRun describes the current run of a workflow id: the workflow may have continued as new.
func describeRun(ctx context.Context, c client.Client, workflowID string, now time.Time) Run {
	d, err := c.DescribeWorkflowExecution(ctx, workflowID, "")
	switch {
	case IsAbsent(err):
		return Run{Status: Absent}
	case err != nil:
		return Run{Status: Unknown, Why: fmt.Sprintf("describe run %s: %v", workflowID, err)}
	case d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return Run{Status: Absent}
	}
	info := d.GetWorkflowExecutionInfo()
	since := info.GetStartTime().AsTime()
	r := Run{
		Status: Running, WorkflowID: workflowID, RunID: info.GetExecution().GetRunId(), Since: &since,
		Retrying: retrying(d.GetPendingActivities()),
	}
	if v := info.GetVersioningInfo(); v.GetBehavior() == enumspb.VERSIONING_BEHAVIOR_PINNED {
		r.Version = v.GetDeploymentVersion().GetBuildId()
	}
	if task := d.GetPendingWorkflowTask(); task.GetState() == enumspb.PENDING_WORKFLOW_TASK_STATE_SCHEDULED {
		if waits := task.GetScheduledTime().AsTime(); now.Sub(waits) > timing.TaskStuck {
			r.Status, r.StuckSince = Stuck, &waits
		}
	}
	return r
}

// publishType and typeSeated are names in histories: that of the activity which publishes a batch, and the
// type of the failure by which a worker passes a seat on.
const (
	publishType = "PublishBatch"
	typeSeated  = "Seated"
)

// retrying lists the batches among the pending activities that have failed.
func retrying(pending []*workflowpb.PendingActivityInfo) (all []Retry) {
	for _, a := range pending {
		f := a.GetLastFailure()
		if f == nil || a.GetActivityType().GetName() != publishType || f.GetApplicationFailureInfo().GetType() == typeSeated {
			continue
		}
		r := Retry{Failure: f.GetMessage(), Attempt: a.GetAttempt()}
		if next := a.GetNextAttemptScheduleTime(); next != nil {
			at := next.AsTime()
			r.Next = &at
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Retry) int { return strings.Compare(a.Failure, b.Failure) })
	return all
}

// lookForWorkers counts the workers that poll. named is the deployment that the task queue,
// or every worker, names.
func lookForWorkers(ctx context.Context, c client.Client, taskQueue string, now time.Time) (w Workers, named string, err error) {
	var kinds [2]*workflowservice.DescribeTaskQueueResponse
	for i, kind := range []enumspb.TaskQueueType{enumspb.TASK_QUEUE_TYPE_WORKFLOW, enumspb.TASK_QUEUE_TYPE_ACTIVITY} {
		if kinds[i], err = c.DescribeTaskQueue(ctx, taskQueue, kind); err != nil {
			err = fmt.Errorf("look for workers at task queue %s: %w", taskQueue, err)
			return Workers{Status: Unknown, Why: err.Error()}, "", err
		}
	}
	w.builds = map[string]int{}
	var last time.Time
	for _, p := range kinds[0].GetPollers() {
		polled := p.GetLastAccessTime().AsTime()
		if now.Sub(polled) > timing.PolledWithin {
			continue
		}
		w.Workflow++
		o := p.GetDeploymentOptions()
		if o.GetWorkerVersioningMode() != enumspb.WORKER_VERSIONING_MODE_VERSIONED {
			w.unversioned++
			continue
		}
		w.builds[version(o.GetDeploymentName(), o.GetBuildId())]++
		if !polled.Before(last) {
			last, w.newest = polled, version(o.GetDeploymentName(), o.GetBuildId())
		}
	}
	for _, p := range kinds[1].GetPollers() {
		if now.Sub(p.GetLastAccessTime().AsTime()) <= timing.PolledWithin {
			w.Activity++
		}
	}
	if w.Status = Absent; w.Workflow+w.Activity > 0 {
		w.Status = Polling
	}
	named = kinds[0].GetVersioningInfo().GetCurrentDeploymentVersion().GetDeploymentName()
	if named == "" && w.unversioned == 0 {
		named, _, _ = strings.Cut(w.newest, "\x00")
	}
	return w, named, nil
}

// newestOf is the build id that polled last, if it belongs to that deployment.
func newestOf(w Workers, deployment string) string {
	if of, build, _ := strings.Cut(w.newest, "\x00"); of == deployment {
		return build
	}
	return ""
}

func lookAtVersion(ctx context.Context, c client.Client, deployment string) *Version {
	v := &Version{Deployment: deployment, Status: Absent}
	d, err := c.WorkerDeploymentClient().GetHandle(deployment).Describe(ctx, client.WorkerDeploymentDescribeOptions{})
	switch {
	case IsAbsent(err):
		v.Unmade = true
	case err != nil:
		v.Status, v.Why = Unknown, fmt.Sprintf("describe worker deployment %s: %v", deployment, err)
	case d.Info.RoutingConfig.CurrentVersion != nil:
		v.Status, v.Current = Current, d.Info.RoutingConfig.CurrentVersion.BuildID
	}
	return v
}
