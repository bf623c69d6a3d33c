package chaos

import (
	"context"
	"errors"
	"fmt"
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

// expired is a day whose partition nobody needs any more.
const expired = `(current_date - 40)`

const dropSQL = `
SELECT format('DROP TABLE outbox.event_%s', to_char(` + expired + `, 'YYYYMMDD')),
       NOT EXISTS (SELECT FROM outbox.pending WHERE created_at < ` + expired + ` + 1)
       AND NOT EXISTS (SELECT FROM outbox.dead_letter WHERE created_at < ` + expired + ` + 1)`

// dropPartition makes the partition of a day long past and drops it as retention
// does: under a short lock timeout, again and again, and after a look, under the
// lock, that nothing of it is still to be published.
func (b *bed) dropPartition(ctx context.Context, step plan.Step) error {
	for _, sql := range []string{`SELECT outbox.make_partition(` + expired + `)`, ""} {
		err := b.retried(ctx, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, b.db, func(tx pgx.Tx) error {
				if sql != "" {
					_, err := tx.Exec(ctx, sql)
					return err
				}
				return drop(ctx, tx)
			})
		})
		if err != nil {
			return err
		}
	}
	b.count(string(step.Kind))
	return nil
}

func drop(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '50ms'; LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE`); err != nil {
		return fmt.Errorf("lock the table: %w", err)
	}
	var sql string
	var unneeded bool
	if err := tx.QueryRow(ctx, dropSQL).Scan(&sql, &unneeded); err != nil {
		return err
	}
	if !unneeded {
		return errors.New("something of the day is pending or dead")
	}
	_, err := tx.Exec(ctx, sql)
	return err
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
