// Package postgres is the outbox's store: it finds what is pending, leases it,
// loads it and settles it. Every statement that touches the outbox's tables on
// the hot path is here, each as a constant above the method that runs it.
//
// All times are the database's, so that the clocks of workers do not matter.
// Nothing here needs a session: every method is one autocommitted statement,
// several that are each complete, or one transaction, so it works through
// PgBouncer in transaction mode.
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
	// minutes. Default: the URL's.
	Password func(context.Context) (string, error)
	// MaxConns is the size of the pool. Default 16.
	MaxConns int32
	// ClaimLease is how long a claim holds before PublishBatch has taken it
	// over. Default timing.ClaimLease.
	ClaimLease time.Duration
	// Lease is how long an attempt of PublishBatch holds its lanes without
	// renewing. Default timing.Lease.
	Lease time.Duration
	// Timeout bounds every call, so that a database that is silent is an error in
	// time. Default timing.StatementTimeout.
	Timeout time.Duration
	// LongTimeout bounds each statement, instead, that reads or moves what may be much:
	// an operation's step, or what an operator looks at. Default timing.LongTimeout.
	LongTimeout time.Duration
	// MakePatience is for how long a partition that producers keep from being made is tried
	// before it is left to the next run. Default 10 s.
	MakePatience time.Duration
	// DropPolitely is for how long a partition is tried to be dropped with locks that are
	// free, so that no producer waits. Default 1 min.
	DropPolitely time.Duration
	// Fault is told of everything that failed, whether or not it is tried again, as
	// FaultConnect or FaultStatement. It must not block. Default: nobody is told.
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
	pool *pgxpool.Pool
	cfg  Config

	sweep  sweeper
	rounds rounds

	session atomic.Pointer[session] // what the newest connection found

	mu     sync.Mutex
	untook map[string]time.Time // claims made here that may not have begun yet
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
	// Statements are planned anew each time, with their real arguments: a plan
	// cached while pending was empty reads the whole table once it is not. And an
	// unnamed statement is what PgBouncer in transaction mode always understands.
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	s := &Store{cfg: cfg, untook: map[string]time.Time{}}
	pc.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error { return logIn(ctx, c, cfg.Password) }
	prepare(pc.ConnConfig, func(found session) { s.session.Store(&found) })
	pc.ConnConfig.Tracer = faults{s}
	s.pool, err = pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	s.rounds.want() // for marks that another process has noted
	return s, nil
}

// logIn gives a connection that is about to be made its password.
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
	s.pool.Close()
}

// limit bounds one call.
func (s *Store) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.Timeout)
}

// long bounds a statement that may read or move much. No other call waits for it.
func (s *Store) long(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.LongTimeout)
}
