package postgres

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestFlow_OfConcurrentRelaysLosesRepeatsAndReordersNothing(t *testing.T) {
	flow(t, open(t), 4)
}

// flow has producers that serialise by key and commit at random, some rolling
// back, and several relays at once: every committed event comes out exactly once,
// nothing that was rolled back does, and each key comes out in commit order.
func flow(t *testing.T, o testOutbox, relays int) {
	t.Helper()
	const producers, transactions, keys = 6, 60, 5
	var mu sync.Mutex
	committed := map[string][]string{} // payloads by key, in commit order
	var rolledBack []string
	rowLocks := make([]sync.Mutex, keys) // an aggregate's row lock, held until the commit

	produce := func(p int) error {
		for i := range transactions {
			tx, err := o.db.Begin(t.Context())
			if err != nil {
				return err
			}
			k := rand.IntN(keys)
			key, payload := fmt.Sprint("key", k), fmt.Sprintf("%d-%d", p, i)
			rowLocks[k].Lock()
			_, err = tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', $1, 'T', $2)`, key, payload)
			if err != nil {
				return err
			}
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond) // transactions overlap
			if rand.IntN(5) == 0 {
				err = tx.Rollback(t.Context())
				mu.Lock()
				rolledBack = append(rolledBack, payload)
				mu.Unlock()
			} else {
				err = tx.Commit(t.Context())
				mu.Lock()
				committed[key] = append(committed[key], payload)
				mu.Unlock()
			}
			rowLocks[k].Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	}

	came := map[string][]string{}
	relayUntil := func(ctx context.Context) error {
		for ctx.Err() == nil {
			batches, err := o.Claim(t.Context(), relay.ClaimRequest{By: "x", Batches: 2, PerTopic: 4})
			if err != nil {
				return err
			}
			for _, b := range batches {
				l, err := o.TakeOver(t.Context(), b)
				if err != nil {
					return err
				}
				page, err := o.Load(t.Context(), l, nil, 100)
				if err != nil {
					return err
				}
				if err := o.Renew(t.Context(), l, slices.Sorted(maps.Keys(l.LowID))); err != nil {
					return err
				}
				read := relay.Read{Next: maps.Clone(l.LowID)}
				var refs []relay.Ref
				mu.Lock()
				for _, e := range page.Events {
					came[e.Key] = append(came[e.Key], e.Payload)
					refs = append(refs, e.Ref)
					read.Loaded(e.Ref)
				}
				mu.Unlock()
				if err := o.Settle(t.Context(), b.Topic, refs); err != nil {
					return err
				}
				if err := o.Release(t.Context(), l, read); err != nil {
					return err
				}
			}
			if len(batches) == 0 {
				time.Sleep(time.Millisecond) // nothing to claim at the moment
			}
		}
		return nil
	}

	var producing, relaying sync.WaitGroup
	relayCtx, stop := context.WithCancel(t.Context())
	for p := range producers {
		producing.Go(func() {
			if err := produce(p); err != nil {
				t.Error(err)
			}
		})
	}
	for range relays {
		relaying.Go(func() {
			if err := relayUntil(relayCtx); err != nil {
				t.Error(err)
			}
		})
	}
	producing.Wait()
	waitFor(t, "the last events", func() bool { return o.pending() == 0 })
	stop()
	relaying.Wait()
	require.NotEmpty(t, rolledBack)
	require.Equal(t, committed, came)
}
