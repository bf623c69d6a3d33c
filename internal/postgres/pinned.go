package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PostgreSQL takes longer to parse and plan a frequent read than to execute it: of the 0.9 ms of a look that finds
// nothing, 0.8. So these reads have sessions of their own, which plan each of them once. A plan that was made while
// a table was empty must still be good when the table is large: these sessions have no choice but indexes.
//
// That is session state, which only a direct connection keeps. Behind a pooler, and if outbox.event has very many
// partitions, the other connections of the worker read, with the same results.

// pinnedConns is how many sessions the frequent reads of a worker have, beside Config.MaxConns: one for looks and
// pages, and two for contents.
const pinnedConns = 3

// pinnedPartitions bounds the partitions of outbox.event. A plan that is kept is one for all partitions, and each
// execution locks all of them with their indexes. PostgreSQL's table of locks has room for
// max_locks_per_transaction of them in each session, which is 64 by default.
const pinnedPartitions = 50

// A frequent read waits for pinnedWithin for a session of its own. If it gets none, for example because the role has
// a limit, frequent reads use the other connections for pinnedAgain.
const (
	pinnedWithin = time.Second
	pinnedAgain  = 10 * time.Second
)

// pinnedSQL says which process of the server this session has, how many partitions there are, and whether row level
// security applies.
const pinnedSQL = `
SELECT pg_backend_pid(), (SELECT count(*)::int FROM pg_inherits WHERE inhparent = to_regclass('outbox.event')), ` + filteredShares

// pinnedSettings make PostgreSQL plan a statement once, and with indexes. Where there is no index, it gives the plan
// an enormous cost, for which it would compile the plan.
var pinnedSettings = []string{
	"SET plan_cache_mode = force_generic_plan", "SET jit = off",
	"SET enable_seqscan = off", "SET enable_bitmapscan = off", "SET enable_sort = off",
	"SET enable_hashjoin = off", "SET enable_mergejoin = off", "SET enable_material = off", "SET enable_memoize = off",
}

// errNotPinned says why frequent reads have no sessions of their own.
var errNotPinned = errors.New("plans are not kept")

// queryer runs a query.
type queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// pinned runs frequent reads.
type pinned struct {
	own     *pgxpool.Pool // with sessions that keep plans
	instead *pgxpool.Pool
	off     atomic.Pointer[error] // why own is not used any more; nil: it is
	again   atomic.Int64          // when to try it, by this machine's clock
}

// openPinned returns what runs frequent reads, with sessions of its own that are like those of a configuration. It
// does not connect.
func openPinned(ctx context.Context, like *pgxpool.Config, instead *pgxpool.Pool) (*pinned, error) {
	cfg := like.Copy()
	cfg.MaxConns, cfg.MinConns, cfg.MinIdleConns = pinnedConns, 0, 0
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	cfg.AfterConnect = pin
	own, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the pool of frequent reads: %w", err)
	}
	return &pinned{own: own, instead: instead}, nil
}

// pin prepares a session, or returns errNotPinned.
func pin(ctx context.Context, conn *pgx.Conn) error {
	var process uint32
	var partitions int
	var isFiltered bool
	if err := conn.QueryRow(ctx, pinnedSQL, pgx.QueryExecModeExec).Scan(&process, &partitions, &isFiltered); err != nil {
		return fmt.Errorf("look at the session: %w", err)
	}
	switch {
	case process != conn.PgConn().PID(): // a pooler has given its client a number of its own
		return fmt.Errorf("%w: a pooler is in between", errNotPinned)
	case partitions > pinnedPartitions:
		return fmt.Errorf("%w: outbox.event has %d partitions", errNotPinned, partitions)
	case isFiltered:
		return errFilteredPlan
	}
	for _, setting := range pinnedSettings {
		if _, err := conn.Exec(ctx, setting, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("prepare the session: %w", err)
		}
	}
	return nil
}

// errFilteredPlan is a kind of errNotPinned. A plan has the policies that applied when it was made. PostgreSQL makes
// another one if a policy changes, but not if the role becomes a member of another one, or may bypass policies.
var errFilteredPlan = fmt.Errorf("%w: row level security applies", errNotPinned)

// end ends the use of sessions that keep plans.
func (p *pinned) end(why error) {
	if p.off.CompareAndSwap(nil, &why) {
		p.own.Reset()
	}
}

// Query runs a frequent read.
func (p *pinned) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn := p.acquire(ctx)
	if conn == nil {
		return p.instead.Query(ctx, sql, args...)
	}
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		conn.Release()
		return nil, err
	}
	return &pinnedRows{Rows: rows, conn: conn}, nil
}

// acquire returns a session that keeps plans, nil if there is none now. Whatever the reason is, the other
// connections may still work.
func (p *pinned) acquire(ctx context.Context) *pgxpool.Conn {
	if p.off.Load() != nil || time.Now().UnixNano() < p.again.Load() {
		return nil
	}
	soon, cancel := context.WithTimeout(ctx, pinnedWithin)
	defer cancel()
	conn, err := p.own.Acquire(soon)
	switch {
	case err == nil:
		return conn
	case errors.Is(err, errNotPinned):
		p.end(err)
	default:
		p.again.Store(time.Now().Add(pinnedAgain).UnixNano())
	}
	return nil
}

// pinnedRows release their session at the end, as those of a pool do.
type pinnedRows struct {
	pgx.Rows
	conn *pgxpool.Conn
}

// Next closes the rows after the last one.
func (r *pinnedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close may be called again.
func (r *pinnedRows) Close() {
	r.Rows.Close()
	if r.conn != nil {
		r.conn.Release()
		r.conn = nil
	}
}
