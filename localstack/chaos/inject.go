package chaos

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/localstack/chaos/check"
	"github.com/temporal-outbox/relay/localstack/chaos/faults"
	"github.com/temporal-outbox/relay/localstack/chaos/plan"
	"github.com/temporal-outbox/relay/localstack/stack"
)

// repeats are the faults after which what was under way may be published again.
// After all others an event may only come twice if the relay was kept from hearing
// that it was accepted, which the proxy counts.
var repeats = []plan.Kind{
	plan.Kill, plan.Stall, plan.LongStall, plan.LostClaim, plan.LostRefusal,
	plan.ResetDatabase, plan.CutDatabase, plan.RestartDatabase, plan.RestartTemporal,
}

// perform does the steps of a plan, each at its time, and returns what was done.
func (b *bed) perform(ctx context.Context, steps []plan.Step) []check.Fault {
	var mu sync.Mutex
	var done []check.Fault
	var all sync.WaitGroup
	for _, step := range steps {
		all.Go(func() {
			if !wait(ctx, time.Until(b.began.Add(step.At))) {
				return
			}
			b.say("%s", step.String()[8:])
			f := check.Fault{
				Kind: string(step.Kind), Topic: step.Topic, Start: time.Now(),
				Repeats: slices.Contains(repeats, step.Kind),
			}
			err := b.inject(ctx, step)
			f.End = time.Now()
			b.mu.Lock()
			if at, ok := b.struck[step]; ok {
				f.Start = at
			}
			b.mu.Unlock()
			switch {
			case errors.Is(err, errNothingThere):
				return
			case err != nil && ctx.Err() == nil:
				b.problem("%s: %v", step.Kind, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done = append(done, f)
		})
	}
	all.Wait()
	return done
}

// errNothingThere says that what a step wants to harm is not there.
var errNothingThere = errors.New("nothing there")

// inject does one step and returns when it is over.
func (b *bed) inject(ctx context.Context, step plan.Step) error {
	do, known := map[plan.Kind]func(context.Context, plan.Step) error{
		plan.Kill: b.kill, plan.Terminate: b.terminate, plan.Stall: b.stall, plan.LongStall: b.stall,
		plan.Promote: b.promote, plan.LostClaim: b.loseClaim, plan.LostRefusal: b.loseRefusal,
		plan.SlowDatabase: b.slowDatabase, plan.ResetDatabase: b.resetDatabase, plan.CutDatabase: b.cutDatabase,
		plan.RestartDatabase: b.restart(stack.Postgres), plan.RestartTemporal: b.restart(stack.Temporal),
		plan.DropPartition: b.dropPartitions,
		plan.RecreateTopic: b.recreate, plan.RecreateQueue: b.recreate,
		plan.TerminateRecovery: b.denied(terminateRecovery), plan.PauseRecovery: b.denied(pauseRecovery),
		plan.ResetRecovery: b.denied(resetRecovery),
		plan.PauseTopic:    b.pauseTopic, plan.RedriveDead: b.redrive, plan.ReplayTopic: b.replay,
		plan.DiscardDead: b.discard,
	}[step.Kind]
	if known {
		return do(ctx, step)
	}
	end := b.proxy.Begin(faults.Rule{Kind: faults.Kind(step.Kind), Destination: b.aim(step.Topic), Share: step.Share})
	defer end()
	met := b.proxy.Injected()[faults.Kind(step.Kind)]
	wait(ctx, step.For)
	// The relay may be busy with another fault, and send nothing that this one meets.
	for late := time.Now(); b.proxy.Injected()[faults.Kind(step.Kind)] == met && time.Since(late) < latest; {
		if !wait(ctx, 100*time.Millisecond) {
			return nil
		}
	}
	return nil
}

// latest is how much longer a fault of requests is in force if it has met none.
const latest = 30 * time.Second

// wait reports whether it waited to the end.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
