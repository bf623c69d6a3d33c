package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What a fault happened to. Metrics have these as labels.
const (
	FaultConnect   = "connect"
	FaultStatement = "statement"
)

// faults is pgx's tracer, and tells Config.Fault of what went wrong: callers see an
// error only where trying again did not help.
type faults struct{ tell func(operation string) }

func (f faults) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (f faults) TraceQueryEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	if isFault(d.Err) {
		f.tell(FaultStatement)
	}
}

func (f faults) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (f faults) TraceConnectEnd(_ context.Context, d pgx.TraceConnectEndData) {
	if isFault(d.Err) {
		f.tell(FaultConnect)
	}
}

// isFault leaves out what belongs to the way things go: who stops no longer waits
// for an answer, and a partition's lock is tried again when producers are in the way.
func isFault(err error) bool {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == lockNotAvailable {
		return false
	}
	return err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, pgx.ErrNoRows)
}
