package chaos

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
	"github.com/temporal-outbox/relay/internal/lab/chaos/faults"
	"github.com/temporal-outbox/relay/internal/lab/chaos/load"
	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/stack"
)

// roles are those of the faults that can explain why an event was published again. Faults
// of workers are kept apart, for each process.
var roles = map[plan.Kind]check.Role{
	plan.CutDatabase: check.NoDatabase, plan.LongCut: check.NoDatabase, plan.RestartDatabase: check.NoDatabase,
	plan.FailOver: check.NewPrimary, plan.FailOverEarly: check.NewPrimary, plan.Restore: check.NewPrimary,
	plan.RestartTemporal: check.NoTemporal,
}

// outages are the faults in which producers cannot reach the database.
var outages = []plan.Kind{
	plan.ResetDatabase, plan.CutDatabase, plan.LongCut, plan.RestartDatabase, plan.FailOver, plan.FailOverEarly, plan.Restore,
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
			f := check.Fault{Kind: string(step.Kind), Topic: step.Topic, Start: time.Now(), Role: roles[step.Kind]}
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
		plan.LongCut: b.cutDatabase, plan.FailOver: b.failOver, plan.FailOverEarly: b.failOver, plan.Restore: b.restore,
		plan.HoldWriter: b.holdWriter, plan.PrepareTransaction: b.prepareTransaction,
		plan.DropPartition: b.dropPartitions, plan.ExhaustPartitions: b.exhaustPartitions, plan.RouteTopic: b.routeTopic,
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

// aftermath is how long after a fault a connection that it has broken may be used for the
// first time.
const aftermath = 5 * time.Second

// refused lists the failures of producers that no fault explains: the database refused the
// statement for a reason of its own, or it could not be reached without an injected outage.
func refused(failures []load.Failure, done []check.Fault) (list []string) {
	for _, f := range failures {
		away := slices.ContainsFunc(done, func(d check.Fault) bool {
			return slices.Contains(outages, plan.Kind(d.Kind)) && !d.Start.After(f.Ended) && !d.End.Add(aftermath).Before(f.Began)
		})
		if !away || !unreachable(f.Err) {
			list = append(list, f.Err.Error())
		}
	}
	return list
}

// unreachable reports whether an error says that there was no writer, and nothing about
// the statement.
func unreachable(err error) bool {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return true
	}
	// 57P01 to 57P03: it ends, it crashed, it is not ready. 25006: it is a standby.
	return strings.HasPrefix(said.Code, "08") || strings.HasPrefix(said.Code, "57P") || said.Code == "25006"
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
