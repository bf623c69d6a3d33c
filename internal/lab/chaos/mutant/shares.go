package main

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// sharing is what a worker that holds shares needs of the store.
type sharing interface {
	activities.ShareStore
	activities.ReadStore
}

// holds is nil if the worker holds no shares.
func (m mutation) holds(s *postgres.Store, p *publish.Publisher) *activities.Sharing {
	if m.shares == nil {
		return nil
	}
	store := m.shares(s)
	return &activities.Sharing{Worker: uuid.NewString(), Name: "mutant", Shares: store, Reads: store, Sender: p}
}

// outliving never renews a share, says that it has, and takes those of others when their leases end. What
// it reads is not restricted to shares that it holds.
type outliving struct{ *postgres.Store }

func (o outliving) Attend(ctx context.Context, a relay.Attendance) (relay.Shares, error) {
	held := a.Lanes
	a.Lanes = nil
	seen, err := o.Store.Attend(ctx, a)
	if err == nil && len(held) > 0 {
		seen.Exceptions, err = o.Exceptions(ctx, held)
	}
	seen.Mine = held
	for _, lane := range held {
		seen.Holders[lane] = a.Worker
	}
	return alone(a.Worker, seen), err
}

func (o outliving) Look(ctx context.Context, l relay.Look) (relay.Looked, error) {
	found, err := o.Store.Look(ctx, l)
	found.Held = l.Lanes
	return found, err
}

func (o outliving) Discover(ctx context.Context, worker string, lanes []int16) (relay.Discovered, error) {
	found, err := o.Store.Discover(ctx, worker, lanes)
	found.Held = lanes
	return found, err
}

func (o outliving) Pages(ctx context.Context, worker string, lanes []relay.LaneCursor, most int) (relay.Pages, error) {
	found, err := o.Store.Pages(ctx, worker, lanes, most)
	found.Held = nil
	for _, lane := range lanes {
		found.Held = append(found.Held, lane.Lane)
	}
	return found, err
}

// alone is what a worker sees that takes itself for the only one.
func alone(worker string, seen relay.Shares) relay.Shares {
	seen.Workers = slices.DeleteFunc(seen.Workers, func(w relay.Worker) bool { return w.ID != worker })
	return seen
}

// stealing takes all shares every few seconds, whoever holds them.
type stealing struct {
	*postgres.Store
	pool *pgxpool.Pool
	next *time.Time
}

// stealEvery is longer than a worker waits for the last holder of a share.
const stealEvery = 5 * time.Second

func newStealing(s *postgres.Store) stealing {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		panic(err) // the store has read the same URL
	}
	next := time.Now().Add(stealEvery)
	return stealing{s, pool, &next}
}

func (s stealing) Attend(ctx context.Context, a relay.Attendance) (relay.Shares, error) {
	seen, err := s.Store.Attend(ctx, a)
	if time.Now().Before(*s.next) {
		return seen, err
	}
	for lane, holder := range seen.Holders {
		if holder != a.Worker {
			seen.Holders[lane] = ""
		}
	}
	return alone(a.Worker, seen), err
}

func (s stealing) TakeShares(ctx context.Context, worker string, lanes []int16) ([]relay.TakenShare, error) {
	if time.Now().Before(*s.next) {
		return s.Store.TakeShares(ctx, worker, lanes)
	}
	*s.next = time.Now().Add(stealEvery)
	_, err := s.pool.Exec(ctx, `UPDATE outbox.share SET leased_until = '-infinity' WHERE worker <> $1::uuid AND lane = ANY ($2::smallint[])`, worker, lanes)
	if err != nil {
		return nil, err
	}
	return s.Store.TakeShares(ctx, worker, lanes)
}
