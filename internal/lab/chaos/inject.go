package chaos

import (
	"context"
	"errors"
	"fmt"
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

// perform does the steps of a plan, each at its time, and returns the faults.
func (fx *fixture) perform(ctx context.Context, steps []plan.Step) []check.Fault {
	var mu sync.Mutex
	var done []check.Fault
	var all sync.WaitGroup
	for _, step := range steps {
		all.Go(func() {
			if !wait(ctx, time.Until(fx.began.Add(step.At))) {
				return
			}
			fx.say("%s", step.String()[8:])
			f := check.Fault{Kind: string(step.Kind), Topic: step.Topic, Start: time.Now(), Role: roles[step.Kind]}
			err := fx.inject(ctx, step)
			f.End = time.Now()
			fx.mu.Lock()
			if at, ok := fx.starts[step]; ok {
				f.Start = at
			}
			fx.mu.Unlock()
			switch {
			case errors.Is(err, errNothingThere):
				return
			case err != nil && ctx.Err() == nil:
				fx.problem("%s: %v", step.Kind, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done = append(done, f)
		})
	}
	all.Wait()
	return done
}

// errNothingThere says that the target of a step does not exist at this moment.
var errNothingThere = errors.New("nothing there")

// inject does one step and returns when it is over.
func (fx *fixture) inject(ctx context.Context, step plan.Step) error {
	do, known := map[plan.Kind]func(context.Context, plan.Step) error{
		plan.Kill: fx.kill, plan.Terminate: fx.terminate, plan.Stall: fx.stall, plan.LongStall: fx.stall,
		plan.Promote: fx.promote, plan.LostClaim: fx.loseClaim, plan.LostRefusal: fx.loseRefusal,
		plan.SlowDatabase: fx.slowDatabase, plan.ResetDatabase: fx.resetDatabase, plan.CutDatabase: fx.cutDatabase,
		plan.RestartDatabase: fx.restart(stack.Postgres), plan.RestartTemporal: fx.restart(stack.Temporal),
		plan.LongCut: fx.cutDatabase, plan.FailOver: fx.failOver, plan.FailOverEarly: fx.failOver, plan.Restore: fx.restore,
		plan.HoldWriter: fx.holdWriter, plan.PrepareTransaction: fx.prepareTransaction,
		plan.DropPartition: fx.dropPartitions, plan.ExhaustPartitions: fx.exhaustPartitions, plan.RouteTopic: fx.routeTopic,
		plan.RecreateTopic: fx.recreate, plan.RecreateQueue: fx.recreate,
		plan.TerminateRecovery: fx.whileDenied(terminateRecovery), plan.PauseRecovery: fx.whileDenied(pauseRecovery),
		plan.ResetRecovery: fx.whileDenied(resetRecovery),
		plan.PauseTopic:    fx.pauseTopic, plan.RedriveDead: fx.redrive, plan.ReplayTopic: fx.replay,
		plan.DiscardDead: fx.discard, plan.RecoverTopic: fx.recoverTopic, plan.ParkTopic: fx.parkTopic,
	}[step.Kind]
	if known {
		return do(ctx, step)
	}
	rule := faults.Rule{Kind: faults.Kind(step.Kind), Destination: fx.aim(step.Topic), Share: step.Share}
	if rule.Kind == faults.Poison {
		rule.Spared = fx.spared()
	}
	end := fx.proxy.Begin(rule)
	defer end()
	met := fx.proxy.Injected()[faults.Kind(step.Kind)]
	wait(ctx, step.For)
	// The relay may be busy with another fault, and send nothing that this one meets.
	for late := time.Now(); fx.proxy.Injected()[faults.Kind(step.Kind)] == met && time.Since(late) < latest; {
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
			list = append(list, fmt.Sprintf("%s to %s: %v", f.Began.Format(time.TimeOnly), f.Ended.Format(time.TimeOnly), f.Err))
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
