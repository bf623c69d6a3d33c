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
	b.cuts.Lock() // a short outage does not end a long one
	defer b.cuts.Unlock()
	b.strike(step)
	b.pg.Cut()
	defer b.pg.Mend()
	b.count(string(step.Kind))
	wait(ctx, step.For)
	return nil
}

// restart crashes a part and starts it again.
func (b *bed) restart(part stack.Part) func(context.Context, plan.Step) error {
	return func(ctx context.Context, step plan.Step) error {
		if part == stack.Postgres {
			b.servers.Lock()
			defer b.servers.Unlock()
			b.strike(step)
		}
		if err := b.cfg.Stack.Interrupt(part); err != nil {
			return err
		}
		b.count(string(step.Kind))
		wait(ctx, step.For)
		// In any case: what follows needs it.
		err := b.cfg.Stack.Resume(context.WithoutCancel(ctx), part)
		if err != nil {
			b.note("once more: %v", err)
			err = b.cfg.Stack.Resume(context.WithoutCancel(ctx), part)
		}
		return err
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

// holdWriter keeps a transaction open that has written to another application's table.
func (b *bed) holdWriter(ctx context.Context, step plan.Step) error {
	return b.neighbour(ctx, step, "COMMIT", "COMMIT")
}

// prepareTransaction keeps such a transaction prepared.
func (b *bed) prepareTransaction(ctx context.Context, step plan.Step) error {
	name := fmt.Sprintf("'%s-%d'", b.token, step.At.Milliseconds())
	err := b.neighbour(ctx, step, "PREPARE TRANSACTION "+name, "COMMIT PREPARED "+name)
	// It outlives its session, and a failover if the standby has it.
	return errors.Join(err, b.retried(context.WithoutCancel(ctx), func(ctx context.Context) error {
		_, err := b.db.Exec(ctx, "ROLLBACK PREPARED "+name)
		var said *pgconn.PgError
		if errors.As(err, &said) && said.Code == "42704" { // there is none
			return nil
		}
		return err
	}))
}

// neighbour writes, waits, and ends its transaction. It is no fault if PostgreSQL ends it
// before.
func (b *bed) neighbour(ctx context.Context, step plan.Step, begun, end string) error {
	conn, err := pgx.Connect(ctx, b.env.Get("DATABASE_URL"))
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
	b.count(string(step.Kind))
	wait(ctx, step.For)
	_, _ = conn.Exec(context.WithoutCancel(ctx), end)
	return nil
}
