package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/temporal-outbox/relay/internal/lab/chaos/plan"
	"github.com/temporal-outbox/relay/internal/stack"
)

func (fx *fixture) slowDatabase(ctx context.Context, step plan.Step) error {
	fx.pg.Delay(25 * time.Millisecond)
	defer fx.pg.Delay(0)
	fx.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

func (fx *fixture) resetDatabase(_ context.Context, step plan.Step) error {
	if fx.pg.Reset() > 0 {
		fx.count(string(step.Kind))
	}
	return nil
}

func (fx *fixture) cutDatabase(ctx context.Context, step plan.Step) error {
	fx.cuts.Lock() // a short outage does not end a long one
	defer fx.cuts.Unlock()
	fx.noteStart(step)
	fx.pg.Cut()
	defer fx.pg.Restore()
	fx.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

// restart crashes a part and starts it again.
func (fx *fixture) restart(part stack.Part) func(context.Context, plan.Step) error {
	return func(ctx context.Context, step plan.Step) error {
		if part == stack.Postgres {
			fx.servers.Lock()
			defer fx.servers.Unlock()
			fx.noteStart(step)
		}
		if err := fx.cfg.Stack.Interrupt(part); err != nil {
			return err
		}
		fx.count(string(step.Kind))
		wait(ctx, step.For)
		// Even if ctx has ended: the rest of the run needs the server.
		err := fx.cfg.Stack.Resume(context.WithoutCancel(ctx), part)
		if err != nil {
			fx.note("once more: %v", err)
			err = fx.cfg.Stack.Resume(context.WithoutCancel(ctx), part)
		}
		return err
	}
}

// holdSnapshot keeps a snapshot open as long as ctx lasts, and takes another one if
// PostgreSQL has ended it.
func (fx *fixture) holdSnapshot(ctx context.Context) {
	for ctx.Err() == nil {
		_ = fx.snapshot(ctx) // it ends with ctx or PostgreSQL
		wait(ctx, 200*time.Millisecond)
	}
}

func (fx *fixture) snapshot(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, fx.env.Get("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.pending`); err != nil {
		return err
	}
	fx.count("snapshot held")
	for wait(ctx, time.Second) {
		if _, err := conn.Exec(ctx, `SELECT 1`); err != nil {
			return err
		}
	}
	return nil
}

// holdWriter keeps a transaction open that has written to another application's table.
func (fx *fixture) holdWriter(ctx context.Context, step plan.Step) error {
	return fx.neighbour(ctx, step, "COMMIT", "COMMIT")
}

// prepareTransaction keeps such a transaction prepared.
func (fx *fixture) prepareTransaction(ctx context.Context, step plan.Step) error {
	name := fmt.Sprintf("'%s-%d'", fx.token, step.At.Milliseconds())
	err := fx.neighbour(ctx, step, "PREPARE TRANSACTION "+name, "COMMIT PREPARED "+name)
	// It outlives its session, and a failover if the standby has it.
	return errors.Join(err, fx.retried(context.WithoutCancel(ctx), func(ctx context.Context) error {
		_, err := fx.db.Exec(ctx, "ROLLBACK PREPARED "+name)
		var said *pgconn.PgError
		if errors.As(err, &said) && said.Code == "42704" { // there is none
			return nil
		}
		return err
	}))
}

// neighbour writes, waits, and ends its transaction. It is no fault if PostgreSQL ends it
// before.
func (fx *fixture) neighbour(ctx context.Context, step plan.Step, begun, end string) error {
	conn, err := pgx.Connect(ctx, fx.env.Get("DATABASE_URL"))
	if err != nil {
		return errNothingThere
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `BEGIN; INSERT INTO chaos.neighbour VALUES (now())`)
	if err == nil && begun != end {
		_, err = conn.Exec(ctx, begun)
	}
	if err != nil {
		return errNothingThere
	}
	fx.count(string(step.Kind))
	wait(ctx, step.For)
	_, _ = conn.Exec(context.WithoutCancel(ctx), end)
	return nil
}
