package chaos

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
)

// The starter's exit statuses that a repetition does not change.
const (
	exitMisused = 2
	exitNothing = 3
)

// operate runs a command of the starter as an operator does, and repeats it while the
// database or Temporal is away. It returns errNothingThere if nothing matches.
func (fx *fixture) operate(ctx context.Context, args ...string) error {
	var final error
	err := fx.retried(ctx, func(ctx context.Context) error {
		err := fx.starter(ctx, args...)
		var exit *exec.ExitError
		if errors.As(err, &exit) && (exit.ExitCode() == exitMisused || exit.ExitCode() == exitNothing) {
			final = err
			if exit.ExitCode() == exitNothing {
				final = errNothingThere
			}
			return nil
		}
		return err
	})
	return errors.Join(err, final)
}

func because(kind plan.Kind) string { return "--reason=the harness: " + string(kind) }

// pauseTopic pauses a topic and resumes it after a while.
func (fx *fixture) pauseTopic(ctx context.Context, step plan.Step) error {
	if err := fx.operate(ctx, "pause", step.Topic, because(step.Kind)); err != nil {
		return err
	}
	fx.count(string(step.Kind))
	wait(ctx, step.For)
	return fx.operate(context.WithoutCancel(ctx), "resume", step.Topic, because(step.Kind))
}

// redrive redrives all dead letters of a topic. That goes on when the step is over.
func (fx *fixture) redrive(ctx context.Context, step plan.Step) error {
	err := fx.operate(ctx, "dead", "redrive", step.Topic, "--all", "--yes", "--detach", because(step.Kind))
	if err == nil {
		fx.count(string(step.Kind))
	}
	return err
}

// discard makes dead letters of a topic and discards all that it has. That goes on
// when the step is over.
func (fx *fixture) discard(ctx context.Context, step plan.Step) error {
	end := fx.proxy.Begin(faults.Rule{Kind: faults.Poison, Destination: fx.aim(step.Topic), Share: .3})
	wait(ctx, step.For)
	// The relay may be busy with another fault, and send nothing that could become a dead letter.
	for late := time.Now(); time.Since(late) < latest; {
		dead, err := fx.names(ctx, deadSQL)
		if err == nil && slices.Contains(dead, step.Topic) || !wait(ctx, 100*time.Millisecond) {
			break
		}
	}
	end()
	err := fx.operate(ctx, "dead", "discard", step.Topic, "--all", "--yes", "--detach", because(step.Kind))
	if err == nil {
		fx.count(string(step.Kind))
	}
	return err
}

// lately is how far back a replay goes that is not of a key.
const lately = 30 * time.Second

// replay replays a topic. That goes on when the step is over.
func (fx *fixture) replay(ctx context.Context, step plan.Step) error {
	// An instant and not an age, so that the command is the same when it is given again.
	what := "--since=" + time.Now().Add(-lately).UTC().Format(time.RFC3339)
	if step.Key != "" {
		what = "--key=" + step.Key
	}
	err := fx.operate(ctx, "replay", step.Topic, what, "--yes", "--detach", because(step.Kind))
	if err == nil {
		fx.count(string(step.Kind))
	}
	return err
}

const (
	pausedSQL = `SELECT topic FROM outbox.topic WHERE paused_at IS NOT NULL`
	deadSQL   = `SELECT DISTINCT topic FROM outbox.dead_letter`
	// A topic's dead letters that are being discarded are left alone.
	redrivableSQL = deadSQL + ` WHERE topic NOT IN (SELECT topic FROM outbox.operation WHERE kind = 'discard' AND finished_at IS NULL
	    AND id NOT IN (SELECT id FROM chaos.set_back))`
)

// recoverTopic denies access to the destination of a topic for a while, and has its recovery try at once
// when the access is granted again.
func (fx *fixture) recoverTopic(ctx context.Context, step plan.Step) error {
	end := fx.proxy.Begin(faults.Rule{Kind: faults.Deny, Destination: fx.aim(step.Topic), Share: 1})
	wait(ctx, step.For)
	end()
	return fx.told(ctx, step, "--now")
}

// parkTopic denies access to the destination of a topic for a while, and has the recovery make dead letters
// of the events that are refused meanwhile.
func (fx *fixture) parkTopic(ctx context.Context, step plan.Step) error {
	end := fx.proxy.Begin(faults.Rule{Kind: faults.Deny, Destination: fx.aim(step.Topic), Share: 1})
	defer end()
	wait(ctx, step.For)
	return fx.told(ctx, step, "--park", "--yes")
}

// told tells the recovery of a topic what to do. The recovery may have ended, or end before it answers.
func (fx *fixture) told(ctx context.Context, step plan.Step, args ...string) error {
	err := fx.starter(ctx, append([]string{"recover", step.Topic, "--wait", "5s", because(step.Kind)}, args...)...)
	if err != nil {
		fx.say("%s: %v", step.Kind, err)
		return errNothingThere
	}
	fx.count(string(step.Kind))
	return nil
}

// tidiers is how many commands tidyUp gives at the same time.
const tidiers = 4

// tidyUp resumes the topics that operators have left paused, and redrives dead letters.
func (fx *fixture) tidyUp(ctx context.Context) {
	for _, tidy := range []struct {
		topicsSQL string
		command   []string
	}{
		{pausedSQL, []string{"resume"}},
		{redrivableSQL, []string{"dead", "redrive", "--all", "--yes", "--detach"}},
	} {
		names, err := fx.names(ctx, tidy.topicsSQL)
		if err != nil {
			fx.say("find the topics to tidy up: %v", err)
		}
		var all sync.WaitGroup
		places := make(chan struct{}, tidiers)
		for _, topic := range names {
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				err := fx.operate(ctx, append(slices.Clone(tidy.command), topic, "--reason=the harness tidies up")...)
				if err != nil && !errors.Is(err, errNothingThere) {
					fx.problem("tidy up %s: %v", topic, err)
				}
			})
		}
		all.Wait()
	}
}

// names are topics that a query gives.
func (fx *fixture) names(ctx context.Context, sql string) ([]string, error) {
	rows, err := fx.db.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
