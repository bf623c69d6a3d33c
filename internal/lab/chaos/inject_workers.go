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

func (b *bed) kill(ctx context.Context, step plan.Step) error {
	b.workers.Kill(step.Worker)
	b.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

func (b *bed) terminate(ctx context.Context, step plan.Step) error {
	b.workers.Terminate(step.Worker)
	b.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

func (b *bed) stall(ctx context.Context, step plan.Step) error {
	b.count(string(step.Kind))
	b.workers.Stall(ctx, step.Worker, step.For)
	return nil
}

// promote starts workers of a new version beside the old ones, makes the version
// current, and stops the old ones at once, as an orchestrator does. The starter and
// Temporal's API, which other tools use, promote by turns.
// Temporal's server (1.29.1), restarted in the middle of a promotion, may take none
// for two minutes after that; then the old version goes on.
func (b *bed) promote(ctx context.Context, step plan.Step) error {
	version, retire := b.workers.Renew()
	restarts := b.counted(plan.RestartTemporal)
	by, promote := "the starter", func(ctx context.Context) error {
		return b.starter(ctx, "promote", "--deployment", b.token, "--build-id", version, "--wait", "10s")
	}
	if b.counted(step.Kind)%2 == 1 {
		by, promote = "Temporal's API", func(ctx context.Context) error {
			_, err := b.temporal.WorkerDeploymentClient().GetHandle(b.token).
				SetCurrentVersion(ctx, client.WorkerDeploymentSetCurrentVersionOptions{BuildID: version})
			return err
		}
	}
	err := b.retried(ctx, promote)
	switch {
	case err != nil && b.counted(plan.RestartTemporal) > restarts:
		b.note("version %s was not promoted, because Temporal was restarted meanwhile: %v", version, err)
		return errNothingThere
	case err != nil:
		return fmt.Errorf("promote by %s: %w", by, err)
	}
	b.count(string(step.Kind))
	b.say("version %s is current by %s; the old workers leave", version, by)
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
// The moment is a short one: whenever a claim shows that nobody has begun, all
// workers are frozen, and thawed again unless Temporal still waits for the answer.
func (b *bed) loseClaim(ctx context.Context, step plan.Step) error {
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	for tries := 1; ctx.Err() == nil; {
		var by string
		if err := b.db.QueryRow(ctx, unbegunSQL).Scan(&by); err != nil || by == "" {
			time.Sleep(time.Millisecond)
			continue
		}
		b.strike(step)
		b.workers.Freeze()
		time.Sleep(settleDown)
		var still string
		err := b.db.QueryRow(ctx, unbegunSQL).Scan(&still)
		if err == nil && still != "" && b.claiming(ctx, still) {
			b.workers.KillAll()
			b.count(string(step.Kind))
			b.say("a claim's answer was lost, at try %d", tries)
			return nil
		}
		b.workers.Thaw()
		tries++
		time.Sleep(20 * time.Millisecond)
	}
	b.note("no claim could be caught before its answer")
	return errNothingThere
}

// loseRefusal denies access to a destination and kills all workers between the
// pause of its topic and the answer that would start the topic's recovery. Access
// is granted again at once: nobody knows of the pause but the database.
func (b *bed) loseRefusal(ctx context.Context, step plan.Step) error {
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	end := b.proxy.Begin(faults.Rule{Kind: faults.Deny, Destination: b.aim(step.Topic), Share: 1})
	defer end()
	for ctx.Err() == nil {
		paused, err := b.paused(ctx)
		if err != nil || !paused[step.Topic] {
			time.Sleep(time.Millisecond)
			continue
		}
		b.strike(step)
		b.workers.Freeze()
		time.Sleep(settleDown)
		recoveries, err := b.open(ctx, "Recovery")
		if err == nil && !slices.ContainsFunc(recoveries, func(w execution) bool { return recovers(w) == step.Topic }) {
			b.workers.KillAll()
			b.count(string(step.Kind))
			b.orphan(step.Topic, string(step.Kind))
			return nil
		}
		b.workers.Thaw()
		break // its recovery is at work, now and for a while
	}
	b.note("no refusal of %s could be caught before its answer", step.Topic)
	return errNothingThere
}

// claiming reports whether Temporal still waits for the activity that made a
// claim, named as in outbox.lane.claimed_by.
func (b *bed) claiming(ctx context.Context, by string) bool {
	runID, activityID, _ := strings.Cut(by, "/")
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	runs, err := b.open(ctx, "Relay")
	if err != nil {
		return false
	}
	for _, run := range runs {
		if run.RunId != runID {
			continue
		}
		d, err := b.temporal.DescribeWorkflowExecution(ctx, run.WorkflowId, run.RunId)
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
// wait for long: whoever asks may have frozen all workers, and a freeze must be
// shorter than what makes them fall silent.
func (b *bed) open(ctx context.Context, kind string) (list []execution, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := b.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("TaskQueue = '%s' AND WorkflowType = '%s' AND ExecutionStatus = 'Running'", b.token, kind),
	})
	if err != nil {
		return nil, fmt.Errorf("list workflows: %w", err)
	}
	for _, e := range out.Executions {
		list = append(list, e.Execution)
	}
	return list, nil
}
