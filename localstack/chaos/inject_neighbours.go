package chaos

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/localstack/chaos/plan"
	"github.com/temporal-outbox/relay/localstack/stack"
)

func (b *bed) slowDatabase(ctx context.Context, step plan.Step) error {
	b.pg.Delay(25 * time.Millisecond)
	defer b.pg.Delay(0)
	b.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

func (b *bed) resetDatabase(_ context.Context, step plan.Step) error {
	if b.pg.Reset() > 0 {
		b.count(string(step.Kind))
	}
	return nil
}

func (b *bed) cutDatabase(ctx context.Context, step plan.Step) error {
	b.pg.Cut()
	defer b.pg.Mend()
	b.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

// restart crashes a part and starts it again.
func (b *bed) restart(part stack.Part) func(context.Context, plan.Step) error {
	return func(ctx context.Context, step plan.Step) error {
		if err := b.cfg.Stack.Interrupt(part); err != nil {
			return err
		}
		b.count(string(step.Kind))
		wait(ctx, step.For)
		// In any case: what follows needs it.
		return b.cfg.Stack.Resume(context.WithoutCancel(ctx), part)
	}
}

// holdSnapshot keeps a snapshot open as long as ctx lasts, and takes another one
// where PostgreSQL ended it.
func (b *bed) holdSnapshot(ctx context.Context) {
	for ctx.Err() == nil {
		_ = b.snapshot(ctx) // it ends with ctx or PostgreSQL
		wait(ctx, 200*time.Millisecond)
	}
}

func (b *bed) snapshot(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, b.env.Get("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox.pending`); err != nil {
		return err
	}
	b.count("snapshot held")
	for wait(ctx, time.Second) {
		if _, err := conn.Exec(ctx, `SELECT 1`); err != nil {
			return err
		}
	}
	return nil
}
