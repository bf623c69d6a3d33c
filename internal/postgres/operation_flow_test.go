package postgres

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// blockingRelay publishes as the policy "block" asks: what is behind a dead letter of
// its key becomes one too. Now and then an event is poison.
type blockingRelay struct {
	testOutbox
	poison *atomic.Bool
	mu     sync.Mutex
	came   map[string][]int64 // ids by key and number of the replay, as they were published
}

func (r *blockingRelay) until(ctx context.Context) error {
	for ctx.Err() == nil {
		batches, err := r.Claim(r.t.Context(), relay.ClaimRequest{By: "x", Batches: 2, PerTopic: 4})
		if err != nil {
			return err
		}
		for _, b := range batches {
			if err := r.publish(b); err != nil {
				return err
			}
		}
		if len(batches) == 0 {
			time.Sleep(time.Millisecond) // nothing to claim at the moment
		}
	}
	return nil
}

func (r *blockingRelay) publish(b relay.Batch) error {
	ctx := r.t.Context()
	l, err := r.TakeOver(ctx, b)
	if err != nil {
		return err
	}
	page, err := r.Load(ctx, l, nil, 30)
	if err != nil {
		return err
	}
	keys := map[string]bool{}
	for _, e := range page.Events {
		keys[e.Key] = true
	}
	blocked, err := r.Blocked(ctx, b.Topic, slices.Sorted(maps.Keys(keys)))
	if err != nil {
		return err
	}
	read := relay.Read{Next: maps.Clone(l.LowID)}
	var done []relay.Ref
	var dead []relay.Outcome
	stays := map[int16]bool{}
	held := map[string]bool{}
	for _, e := range page.Events {
		switch {
		case held[e.Key]:
			stays[e.Lane] = true
			continue
		case blocked[relay.Chain{Key: e.Key, Replay: e.Replay}] != 0 && e.ID > blocked[relay.Chain{Key: e.Key, Replay: e.Replay}]:
			dead = append(dead, refusedAs(relay.CodeBlocked, e.Ref)...)
		case e.Replay == 0 && r.poison.Load() && rand.IntN(8) == 0:
			dead = append(dead, refusedAs("Poison", e.Ref)...)
			held[e.Key] = true
		default:
			r.mu.Lock()
			key := fmt.Sprint(e.Key, "/", e.Replay)
			r.came[key] = append(r.came[key], e.ID)
			r.mu.Unlock()
			done = append(done, e.Ref)
		}
		if !stays[e.Lane] {
			read.Loaded(e.Ref)
		}
	}
	if err := r.Settle(ctx, b.Topic, done); err != nil {
		return err
	}
	if err := r.DeadLetter(ctx, l, "relay", dead); err != nil {
		return err
	}
	return r.Release(ctx, l, read)
}

// do does an operation as its activity does, waiting for lanes that are busy.
func (o testOutbox) do(kind string) (relay.OperationState, error) {
	ctx := o.t.Context()
	id, _, err := o.BeginOperation(ctx, relay.Operation{Kind: kind, Topic: "orders", By: "ada", Reason: "x"})
	if err != nil {
		return relay.OperationState{}, err
	}
	if _, err := o.TakeOperation(ctx, id); err != nil {
		return relay.OperationState{}, err
	}
	u := o.underWay(id)
	for over := false; !over; {
		step, err := o.NextStep(ctx, u, u.From, 1+rand.IntN(20))
		if err != nil {
			return u, err
		}
		for moves := step.Moves; len(moves) > 0; {
			lanes, n, err := o.Move(ctx, u, moves)
			if err != nil {
				return u, err
			}
			u.Done += int64(n)
			moves = slices.DeleteFunc(moves, func(m relay.Move) bool { return slices.Contains(lanes, m.Lane) })
			if len(moves) > 0 {
				err = o.Reserve(ctx, u.Topic, relay.LanesOf(moves), time.Second)
			}
			if err != nil {
				return u, err
			}
		}
		if u, err = o.Advance(ctx, u, step.Next); err != nil {
			return u, err
		}
		u.From, over = step.Next, step.Over
	}
	if err := o.CompleteOperation(ctx, id, u.Holder, u.Done); err != nil {
		return u, err
	}
	return o.Operation(ctx, id)
}

func TestOperations_InFullFlowKeepKeysInOrder(t *testing.T) {
	o := open(t)
	const keys, rounds = 6, 150
	var poison atomic.Bool
	poison.Store(true)
	r := &blockingRelay{testOutbox: o, poison: &poison, came: map[string][]int64{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var relaying, producing, operating sync.WaitGroup
	for range 4 {
		relaying.Go(func() {
			if err := r.until(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for k := range keys {
		producing.Go(func() {
			for range rounds {
				_, err := o.db.Exec(t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', $1, 'T', 'p')`, fmt.Sprint("k", k))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	var replays []relay.OperationState
	var redriven atomic.Int64
	over := make(chan struct{})
	operating.Go(func() {
		for n := 0; ; n++ {
			u, err := o.do(relay.Redrive)
			if err != nil {
				t.Error(err)
				return
			}
			redriven.Add(u.Done)
			select {
			case <-over:
				return
			default:
			}
			if n%5 == 2 {
				u, err := o.do(relay.Replay)
				if err != nil {
					t.Error(err)
					return
				}
				replays = append(replays, u)
			}
		}
	})
	producing.Wait()
	waitFor(t, "redrives", func() bool { return redriven.Load() >= 50 })
	poison.Store(false)
	waitFor(t, "everything to be published", func() bool {
		return query[int](o, `SELECT (SELECT count(*) FROM outbox.pending)::int + (SELECT count(*) FROM outbox.dead_letter)::int`) == 0
	})
	close(over)
	operating.Wait()
	waitFor(t, "the last events", func() bool { return o.pending() == 0 })
	stop()
	relaying.Wait()

	require.NotEmpty(t, replays)
	first, again := 0, map[int64]int64{}
	for key, ids := range r.came {
		require.True(t, slices.IsSorted(ids), "%s: %v", key, ids)
		require.Len(t, slices.Compact(slices.Clone(ids)), len(ids), "%s came twice", key)
		var name string
		var number int64
		_, err := fmt.Sscanf(key, "%2s/%d", &name, &number)
		require.NoError(t, err)
		if number == 0 {
			require.Len(t, ids, rounds, key)
			first += len(ids)
		}
		again[number] += int64(len(ids))
	}
	require.Equal(t, keys*rounds, first)
	for _, u := range replays {
		require.Equal(t, u.Done, again[u.ID], "replay %d", u.ID)
	}
	t.Logf("%d redriven, %d replays", redriven.Load(), len(replays))
}
