// Package postgres is the outbox's store: it finds, leases, loads and settles pending events. It has
// every statement of the hot path on the outbox's tables, each as a constant above the method that
// runs it.
//
// All times are the database's, so that the clocks of workers do not matter. No method needs session
// state: each is one autocommitted statement, several that are each complete, or one transaction. So
// the package works through PgBouncer in transaction mode.
package postgres

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/timing"
)

// Config configures a Store.
type Config struct {
	// URL is a PostgreSQL connection string. Required.
	URL string
	// Password makes the password of each new connection, such as a token that is valid for
	// minutes. Default: the password of the URL.
	Password func(context.Context) (string, error)
	// MaxConns is the size of the pool. A worker that holds shares has at most three connections more, for
	// frequent reads. Default 16.
	MaxConns int32
	// ClaimLease is how long a claim holds its lanes until PublishBatch takes it over. Default
	// timing.ClaimLease.
	ClaimLease time.Duration
	// Lease is how long an attempt of PublishBatch holds its lanes without a renewal. Default
	// timing.Lease.
	Lease time.Duration
	// ShareLease is how long a worker holds a share without a renewal. Default timing.ShareLease.
	ShareLease time.Duration
	// Timeout limits every call, so that a database that does not answer becomes an error in time.
	// Default timing.StatementTimeout.
	Timeout time.Duration
	// LongTimeout is the limit, instead of Timeout, for each statement that may read or move many
	// rows: a step of an operation, or the data for an operator. Default timing.LongTimeout.
	LongTimeout time.Duration
	// MakePatience is how long a run tries to make a partition while producers block it. The next
	// run then tries again. Default 10 s.
	MakePatience time.Duration
	// DropPolitely is how long a run tries to drop a partition with free locks only, so that no
	// producer waits. Default 1 min.
	DropPolitely time.Duration
	// Fault gets every failure as FaultConnect or FaultStatement, also of operations that are
	// retried. It must not block. Default: no function.
	Fault func(operation string)
}

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 16
	}
	if c.ClaimLease == 0 {
		c.ClaimLease = timing.ClaimLease
	}
	if c.Lease == 0 {
		c.Lease = timing.Lease
	}
	if c.ShareLease == 0 {
		c.ShareLease = timing.ShareLease
	}
	if c.Timeout == 0 {
		c.Timeout = timing.StatementTimeout
	}
	if c.LongTimeout == 0 {
		c.LongTimeout = timing.LongTimeout
	}
	if c.MakePatience == 0 {
		c.MakePatience = timing.MakePatience
	}
	if c.DropPolitely == 0 {
		c.DropPolitely = time.Minute
	}
	return c
}

// Store is safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	pinned *pinned
	cfg    Config

	sweep  sweeper
	rounds rounds
	dates  atomic.Pointer[dates] // that the next Look needs
	paged  atomic.Pointer[dates] // near the events of the last Pages

	searched atomic.Int64 // when Claim last looked at each lane, by this machine's clock

	session atomic.Pointer[session] // of the newest connection
	visible visibility              // from reads to which a policy applied

	mu      sync.Mutex
	unbegun map[string]time.Time // claims of this process that may not have begun yet
}

// Open makes a store. It does not connect; Ping does.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	pc.MaxConns = cfg.MaxConns
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = timing.ConnectTimeout
	}
	if pc.ConnConfig.RuntimeParams["application_name"] == "" {
		pc.ConnConfig.RuntimeParams["application_name"] = "outbox-relay"
	}
	// PostgreSQL plans each statement again, with its real arguments: a plan that was cached while
	// outbox.pending was empty reads the whole table later. And PgBouncer in transaction mode
	// accepts unnamed statements in every version.
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	s := &Store{cfg: cfg, unbegun: map[string]time.Time{}}
	pc.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error { return logIn(ctx, c, cfg.Password) }
	prepare(pc.ConnConfig, func(found session) { s.session.Store(&found) })
	pc.ConnConfig.Tracer = faultTracer{s}
	s.pool, err = pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	if s.pinned, err = openPinned(ctx, pc, s.pool); err != nil {
		s.pool.Close()
		return nil, err
	}
	s.rounds.want() // for low watermarks that other processes have noted
	return s, nil
}

// logIn sets the password of a new connection.
func logIn(ctx context.Context, c *pgx.ConnConfig, password func(context.Context) (string, error)) error {
	if password == nil {
		return nil
	}
	text, err := password(ctx)
	if err != nil {
		return fmt.Errorf("get a password: %w", err)
	}
	c.Password = text
	return nil
}

// Close ends all connections.
func (s *Store) Close() {
	s.sweep.wait()
	s.rounds.wait()
	s.pinned.own.Close()
	s.pool.Close()
}

// reset makes every connection end when it is released, because it leads to a server that cannot write.
func (s *Store) reset() {
	s.pool.Reset()
	s.pinned.own.Reset()
}

// limit limits one call.
func (s *Store) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.Timeout)
}

// long limits a statement that may read or move many rows. No other call waits for it.
func (s *Store) long(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.LongTimeout)
}
