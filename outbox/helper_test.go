package outbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/outbox"
)

// event returns a valid event for tests to break or to write.
func event(change ...func(*outbox.Event)) outbox.Event {
	e := outbox.Event{Topic: "orders", Key: "o-1", Type: "order.placed", Payload: `{"total":42}`}
	for _, c := range change {
		c(&e)
	}
	return e
}

// connect opens a connection of its own, so that a test controls who shares one.
func connect(t testing.TB, pool *pgxpool.Pool, change ...func(*pgx.ConnConfig)) *pgx.Conn {
	t.Helper()
	config := pool.Config().ConnConfig
	for _, c := range change {
		c(config)
	}
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// begin opens a transaction that is rolled back at cleanup unless it ended before.
func begin(t testing.TB, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = tx.Rollback(ctx)
	})
	return tx
}

func commit(t testing.TB, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func exec(t testing.TB, on interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, sql string, args ...any,
) {
	t.Helper()
	rows, err := on.Query(context.Background(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// scan reads one value.
func scan[T any](t testing.TB, on interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, sql string, args ...any,
) T {
	t.Helper()
	var v T
	if err := on.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// brokenFields lists the fields that err names, each once.
func brokenFields(t testing.TB, err error) map[string]bool {
	t.Helper()
	fields := map[string]bool{}
	if err == nil {
		return fields
	}
	var problems outbox.ValidationErrors
	if !errors.As(err, &problems) || len(problems) == 0 {
		t.Fatalf("%v is not ValidationErrors, or has none", err)
	}
	for _, p := range problems {
		fields[p.Field] = true
	}
	return fields
}
