// Package load produces events the way that services do, good and bad: several
// writers to a key, transactions that roll back, that take long, that lose their
// connection while they commit. It remembers what became of every event.
//
// Every writer takes its key's lock before it inserts, as promise 2 demands, and
// numbers the key's events under that lock, so that the numbers are in commit
// order by whatever means the lock is taken. Some are backdated, so that the days
// that retention drops have events.
package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/localstack/chaos/check"
)

// Config configures a load. Pool and Topics are required.
type Config struct {
	Pool   *pgxpool.Pool
	Topics []string
	Seed   uint64
	// Rate is how many events a second there are, about. Default 60.
	Rate int
	// Writers is how many transactions are open at once. Default 12.
	Writers int
	// Burst makes every transaction write this many events of its key. Default: one
	// to three.
	Burst int
	// CommittedSQL gives the ids of all events that were ever committed. Default: what
	// the outbox has, which is all of them unless retention drops some.
	CommittedSQL string
}

// Load is a load that runs, and what it has written.
type Load struct {
	cfg     Config
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	written []check.Written
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
		cfg.Writers = 12
	}
	if _, err := cfg.Pool.Exec(ctx, setupSQL); err != nil {
		return nil, fmt.Errorf("prepare the producers' table: %w", err)
	}
	for _, topic := range cfg.Topics {
		for _, k := range keys {
			if _, err := cfg.Pool.Exec(ctx, `INSERT INTO chaos.aggregate (topic, key) VALUES ($1, $2)`, topic, k.name); err != nil {
				return nil, fmt.Errorf("prepare an aggregate: %w", err)
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{cfg: cfg, cancel: cancel}
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
func (l *Load) Committed() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.written {
		if w.Fate == check.Committed {
			n++
		}
	}
	return n
}

// Written returns all events. Call it after Stop: it looks up what became of
// those whose transaction broke, through db, which should not break.
func (l *Load) Written(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
},
) ([]check.Written, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows, err := db.Query(ctx, cmp.Or(l.cfg.CommittedSQL, `SELECT event_id::text FROM outbox.event`))
	if err != nil {
		return nil, fmt.Errorf("look up what was committed: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look up what was committed: %w", err)
	}
	there := make(map[string]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	for i := range l.written {
		w := &l.written[i]
		switch {
		case w.Fate == check.Unknown && there[w.ID]:
			w.Fate = check.Committed
		case w.Fate == check.Unknown:
			w.Fate = check.RolledBack
		case (w.Fate == check.Committed) != there[w.ID]:
			return nil, fmt.Errorf("event %s was %s, and the database does not agree", w.ID, w.Fate)
		}
	}
	return l.written, nil
}

// write is one writer: transaction after transaction, at its share of the rate.
func (l *Load) write(ctx context.Context, dice *rand.Rand) {
	for ctx.Err() == nil {
		t := l.next(dice)
		pace := time.Duration(float64(len(t.events)*l.cfg.Writers) / float64(l.cfg.Rate) * float64(time.Second))
		began := time.Now()
		// What was begun is ended: only the load's end is asked for, not a broken
		// transaction.
		txCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		t.fate = check.Unknown
		err := pgx.BeginFunc(txCtx, l.cfg.Pool, func(tx pgx.Tx) error { return t.do(txCtx, tx) })
		cancel()
		switch {
		case err == nil:
			t.fate = check.Committed
		case errors.Is(err, errRollBack):
			t.fate = check.RolledBack
		}
		l.note(t)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(float64(pace)*(.5+dice.Float64())) - time.Since(began)):
		}
	}
}

func (l *Load) note(t *transaction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range t.events {
		w.Fate, w.At = t.fate, time.Now()
		l.written = append(l.written, w)
	}
}
