package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

func (fx *fixture) kill(ctx context.Context, step plan.Step) error {
	fx.workers.Kill(step.Worker)
	fx.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

func (fx *fixture) terminate(ctx context.Context, step plan.Step) error {
	fx.workers.Terminate(step.Worker)
	fx.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

func (fx *fixture) stall(ctx context.Context, step plan.Step) error {
	fx.count(string(step.Kind))
	fx.workers.Stall(ctx, step.Worker, step.For)
	return nil
}

// promote starts workers of a new version beside the old ones, makes the version
// current, and stops the old ones at once, as an orchestrator does. The starter and
// Temporal's API, which other tools use, promote by turns.
// Temporal's server (1.29.1), restarted in the middle of a promotion, may take none
// for two minutes after that; then the old version goes on.
//
// On a busy machine, a promotion takes longer than the time until the next one. If that one overtook it, the
// version whose workers are gone would be the current one in the end.
func (fx *fixture) promote(ctx context.Context, step plan.Step) error {
	fx.promoting.Lock()
	defer fx.promoting.Unlock()
	version, retire := fx.workers.Renew()
	restarts := fx.counted(plan.RestartTemporal)
	by, promote := "the starter", func(ctx context.Context) error {
		return fx.starter(ctx, "promote", "--deployment", fx.token, "--build-id", version, "--wait", "10s")
	}
	if fx.counted(step.Kind)%2 == 1 {
		by, promote = "Temporal's API", func(ctx context.Context) error {
			_, err := fx.temporal.WorkerDeploymentClient().GetHandle(fx.token).
				SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: version})
			return err
		}
	}
	err := fx.retried(ctx, promote)
	switch {
	case err != nil && fx.counted(plan.RestartTemporal) > restarts:
		fx.note("version %s was not promoted, because Temporal was restarted meanwhile: %v", version, err)
		return errNothingThere
	case err != nil:
		return fmt.Errorf("promote by %s: %w", by, err)
	}
	fx.count(string(step.Kind))
	fx.say("version %s is current by %s; stopping the old workers", version, by)
	retire()
	return nil
}

const (
	claimPatience = 15 * time.Second
	// settleDown is what statements under way have to arrive after the freeze.
	settleDown = 20 * time.Millisecond
)

const unbegunSQL = `
SELECT coalesce(min(claimed_by), '') FROM outbox.lane
WHERE claim_id IS NOT NULL AND holder IS NULL AND leased_until > now() AND claimed_by IS NOT NULL`

// loseClaim kills all workers between a claim's commit and its answer to Temporal.
// The moment is short: when the database shows a claim that no attempt has begun, all
// workers are frozen. They are thawed again unless Temporal still waits for the answer.
func (fx *fixture) loseClaim(ctx context.Context, step plan.Step) error {
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	for tries := 1; ctx.Err() == nil; {
		var by string
		if err := fx.db.QueryRow(ctx, unbegunSQL).Scan(&by); err != nil || by == "" {
			time.Sleep(time.Millisecond)
			continue
		}
		fx.noteStart(step)
		fx.workers.Freeze()
		time.Sleep(settleDown)
		var still string
		err := fx.db.QueryRow(ctx, unbegunSQL).Scan(&still)
		if err == nil && still != "" && fx.claiming(ctx, still) {
			fx.workers.KillAll()
			fx.count(string(step.Kind))
			fx.say("a claim's answer was lost, at try %d", tries)
			return nil
		}
		fx.workers.Thaw()
		tries++
		time.Sleep(20 * time.Millisecond)
	}
	fx.note("no claim could be caught before its answer")
	return errNothingThere
}

// loseRefusal denies access to a destination and kills all workers between the
// pause of its topic and the answer that would start the topic's recovery. Access
// is granted again at once: only the database knows of the pause.
func (fx *fixture) loseRefusal(ctx context.Context, step plan.Step) error {
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	end := fx.proxy.Begin(faults.Rule{Kind: faults.Deny, Destination: fx.aim(step.Topic), Share: 1})
	defer end()
	for ctx.Err() == nil {
		paused, err := fx.paused(ctx)
		if err != nil || !paused[step.Topic] {
			time.Sleep(time.Millisecond)
			continue
		}
		fx.noteStart(step)
		fx.workers.Freeze()
		time.Sleep(settleDown)
		recoveries, err := fx.open(ctx, "Recovery")
		if err == nil && !slices.ContainsFunc(recoveries, func(w execution) bool { return recovers(w) == step.Topic }) {
			fx.workers.KillAll()
			fx.count(string(step.Kind))
			fx.expectPause(step.Topic, string(step.Kind))
			return nil
		}
		fx.workers.Thaw()
		break // its recovery is at work, now and for a while
	}
	fx.note("no refusal of %s could be caught before its answer", step.Topic)
	return errNothingThere
}

// claiming reports whether Temporal still waits for the activity that made a
// claim, named as in outbox.lane.claimed_by.
func (fx *fixture) claiming(ctx context.Context, by string) bool {
	runID, activityID, _ := strings.Cut(by, "/")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	runs, err := fx.open(ctx, "Relay")
	if err != nil {
		return false
	}
	for _, run := range runs {
		if run.RunId != runID {
			continue
		}
		d, err := fx.temporal.DescribeWorkflowExecution(ctx, run.WorkflowId, run.RunId)
		if err != nil {
			return false
		}
		for _, a := range d.PendingActivities {
			if a.ActivityId == activityID {
				return true
			}
		}
	}
	return false
}

// open lists the running workflows of a type on this run's task queue. It does not
// wait for long: the caller may have frozen all workers, and a freeze must be shorter than
// their heartbeat timeout.
func (fx *fixture) open(ctx context.Context, kind string) (list []execution, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := fx.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("TaskQueue = '%s' AND WorkflowType = '%s' AND ExecutionStatus = 'Running'", fx.token, kind),
	})
	if err != nil {
		return nil, fmt.Errorf("list workflows: %w", err)
	}
	for _, e := range out.Executions {
		list = append(list, e.Execution)
	}
	return list, nil
}
