// Package load writes events as good and bad services do: several writers to a key, a hot
// key, transactions that roll back, slow transactions, slow statements, transactions that
// lose their connection while they commit. It notes the outcome of every event.
//
// Every writer takes its key's lock before it inserts, as the order per key demands, and
// numbers the key's events under that lock. So the numbers are in commit order, for each
// kind of lock. Some events are backdated, so that retention has days to drop.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/internal/lab/chaos/check"
)

// Config configures a load. Pool, Topics and Keep are required.
type Config struct {
	Pool   *pgxpool.Pool
	Topics []string
	// Rare are topics that a tenth of the transactions write to, all of them together.
	Rare []string
	Seed uint64
	// Rate is how many events a second are committed, about. Default 60.
	Rate int
	// Writers is how many transactions are open at once. Default 12, and more for a high
	// rate.
	Writers int
	// Burst makes every transaction write this many events of its key. Default: one
	// to three.
	Burst int
	// Keep is given every event when its outcome is known, or known to be unknown, with a
	// payload's digest in the place of the payload.
	Keep func(check.Written)
	// Failed is called for every transaction that did not end as it should.
	Failed func(Failure)
}

// Failure is a transaction that failed.
type Failure struct {
	Began, Ended time.Time
	Err          error
}

// Load is a load that runs.
type Load struct {
	cfg       Config
	keys      []key
	hotShare  float64
	cancel    context.CancelFunc
	running   sync.WaitGroup
	committed atomic.Int64
	began     time.Time
	// At a high rate, all writers would wait for the keys of some that take their time.
	slow, late, undone turns
	large              turns

	mu  sync.Mutex // around Keep, and of what follows
	due time.Time  // when the next transaction is to begin
}

// turns gives one transaction its turn at a fixed interval, at any rate.
type turns struct {
	every time.Duration
	given atomic.Int64
}

func (t *turns) take(since time.Duration) bool {
	n := t.given.Load()
	return int64(since/t.every) > n && t.given.CompareAndSwap(n, n+1)
}

// setupSQL is the business side: an aggregate for each key, whose row is locked
// and which counts the key's events.
const setupSQL = `
CREATE SCHEMA IF NOT EXISTS chaos;
CREATE TABLE IF NOT EXISTS chaos.aggregate (topic text, key text, events bigint NOT NULL DEFAULT 0, PRIMARY KEY (topic, key))`

// Start begins to write and goes on until Stop.
func Start(ctx context.Context, cfg Config) (*Load, error) {
	if cfg.Rate == 0 {
		cfg.Rate = 60
	}
	if cfg.Writers == 0 {
		cfg.Writers = max(12, cfg.Rate/8)
	}
	if cfg.Failed == nil {
		cfg.Failed = func(Failure) {}
	}
	if _, err := cfg.Pool.Exec(ctx, setupSQL); err != nil {
		return nil, fmt.Errorf("prepare the producers' table: %w", err)
	}
	l := &Load{cfg: cfg, keys: keysAt(cfg.Rate), hotShare: hotShare(cfg.Rate)}
	var names []string
	for _, k := range l.keys {
		names = append(names, k.name)
	}
	_, err := cfg.Pool.Exec(ctx, `INSERT INTO chaos.aggregate (topic, key) SELECT t, k FROM unnest($1::text[]) t, unnest($2::text[]) k ON CONFLICT DO NOTHING`,
		append(append([]string(nil), cfg.Topics...), cfg.Rare...), names)
	if err != nil {
		return nil, fmt.Errorf("prepare the aggregates: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	l.cancel, l.began, l.due = cancel, time.Now(), time.Now()
	l.slow.every, l.late.every, l.undone.every, l.large.every = 4*time.Second, time.Second, time.Second, 5*time.Second
	dice := rand.New(rand.NewPCG(cfg.Seed, 2))
	for range cfg.Writers {
		own := rand.New(rand.NewPCG(dice.Uint64(), dice.Uint64()))
		l.running.Go(func() { l.write(ctx, own) })
	}
	return l, nil
}

// Stop waits for the transactions under way and ends the load.
func (l *Load) Stop() {
	l.cancel()
	l.running.Wait()
}

// Committed is how many events are known to be committed.
func (l *Load) Committed() int { return int(l.committed.Load()) }

// write is one writer: transaction after transaction, at its share of the rate.
func (l *Load) write(ctx context.Context, dice *rand.Rand) {
	for ctx.Err() == nil {
		t := l.next(dice)
		select {
		case <-ctx.Done():
			return
		case <-time.After(l.turn(dice, len(t.events))):
		}
		began := time.Now()
		// A transaction that has begun goes on to its end: Stop ends the load, and breaks no
		// transaction.
		txCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		t.outcome = check.Ambiguous
		err := pgx.BeginFunc(txCtx, l.cfg.Pool, func(tx pgx.Tx) error { return t.do(txCtx, tx) })
		cancel()
		switch {
		case err == nil:
			t.outcome = check.Committed
		case errors.Is(err, errRollBack):
			t.outcome = check.RolledBack
		default:
			l.cfg.Failed(Failure{began, time.Now(), err})
		}
		l.note(t)
		if t.outcome == check.Ambiguous { // as clients do, so that they do not all connect again and again
			select {
			case <-ctx.Done():
			case <-time.After(backOff/2 + time.Duration(dice.Int64N(int64(backOff)))):
			}
		}
	}
}

const (
	// committedShare is about the part of all events that is not rolled back.
	committedShare = .88
	// behind is how much the writers make up for when they could not write.
	behind = 5 * time.Second
	// backOff is about how long a writer waits after a transaction that failed.
	backOff = 500 * time.Millisecond
)

// turn is how long a transaction of n events has to wait so that the rate is kept.
func (l *Load) turn(dice *rand.Rand, n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if least := now.Add(-behind); l.due.Before(least) {
		l.due = least
	}
	at := l.due
	each := committedShare * float64(time.Second) / float64(l.cfg.Rate)
	l.due = l.due.Add(time.Duration(each * float64(n) * (.5 + dice.Float64())))
	return at.Sub(now)
}

func (l *Load) note(t *transaction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range t.events {
		w.Outcome, w.At, w.Payload = t.outcome, time.Now(), check.Digest(w.Payload)
		l.cfg.Keep(w)
		if w.Outcome == check.Committed {
			l.committed.Add(1)
		}
	}
}
