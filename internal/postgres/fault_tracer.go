package postgres

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The operations that can fail. Metrics have these as labels.
const (
	FaultConnect   = "connect"
	FaultStatement = "statement"
)

// faultTracer is pgx's tracer. It reports every failure to Config.Fault, because callers see an error
// only if a retry did not help. It also explains the server's errors.
type faultTracer struct{ store *Store }

func (f faultTracer) tell(operation string) {
	if f.store.cfg.Fault != nil {
		f.store.cfg.Fault(operation)
	}
}

func (f faultTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (f faultTracer) TraceQueryEnd(_ context.Context, conn *pgx.Conn, d pgx.TraceQueryEndData) {
	if isFault(d.Err) {
		f.tell(FaultStatement)
	}
	var pgErr *pgconn.PgError
	if !errors.As(d.Err, &pgErr) {
		return
	}
	f.store.session.Load().explain(pgErr, conn.PgConn().ParameterStatus("session_authorization"))
	if pgErr.Code == readOnlyTransaction {
		// After a failover this connection leads to a reader, and other connections may too.
		// The pool closes this one when it is released.
		f.store.reset()
	}
}

func (f faultTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

func (f faultTracer) TraceConnectEnd(_ context.Context, d pgx.TraceConnectEndData) {
	if isFault(d.Err) {
		f.tell(FaultConnect)
	}
}

// isFault leaves out errors of normal operation: a worker that stops cancels its statements, and
// Maintenance retries the lock of a partition that producers use.
func isFault(err error) bool {
	return err != nil && !hasState(err, lockNotAvailable) && !errors.Is(err, context.Canceled) && !errors.Is(err, pgx.ErrNoRows)
}

// hasState reports whether the server rejected a statement with one of some SQLSTATEs.
func hasState(err error, states ...string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && slices.Contains(states, pgErr.Code)
}
