package activities

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func eventually(t *testing.T, within time.Duration, met func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(within); !met(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

// The run has ended, and with it the activity that had the heartbeat.
func TestLedger_KeepsAcknowledgementsLongerThanTheirRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(30, 1)
	e.store.away(true)
	_, err := e.publish(t, 1)
	require.Equal(t, TypeDatabase, asApplicationError(t, err).Type())
	require.Equal(t, 3, e.publisher.requests)

	e.store.away(false)
	_, err = e.publish(t, 1) // another claim, which knows nothing of the first
	require.NoError(t, err)
	require.Equal(t, 3, e.publisher.requests, "sent again")
	require.Equal(t, 30, e.store.settledEvents())
}

func TestLedger_SettlesWithoutAnotherAttempt(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(30, 1)
	e.store.away(true)
	_, err := e.publish(t, 1)
	require.Error(t, err)
	require.Equal(t, 30, e.ledger.count())
	e.store.away(false)
	eventually(t, timing.SettleGrace, func() bool { return e.ledger.count() == 0 }, "the ledger does not settle them")
	require.Equal(t, 30, e.store.settledEvents())
}

func TestLedger_KeepsATopicUnclaimedUntilItHasSettled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.away(true)
	e.ledger.add("orders", []relay.Ref{{ID: 1, Lane: 1}})
	e.store.claim = func(int) ([]relay.Batch, error) { return someBatches, nil }
	_, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"orders": 0}, e.store.asked.Shares)
	require.Equal(t, map[string]int{"orders": 0, "audit": 2}, e.shares(map[string]int{"orders": 3, "audit": 2}), "other topics are claimed")

	e.store.away(false)
	eventually(t, timing.SettleGrace, func() bool { return e.ledger.count() == 0 }, "the ledger does not settle them")
	_, err = e.claim(t, 0)
	require.NoError(t, err)
	require.Empty(t, e.store.asked.Shares)
}

// While settlements fail and everything else works, a page is what an attempt has sent
// at most, and no other attempt sends anything in its lanes.
func TestLedger_HoldsAPageAtMostForEachAttempt(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(5*relay.PageEvents, 1, 2)
	e.store.away(true)
	_, err := e.publish(t, 1, 2)
	require.Error(t, err)
	held := e.ledger.count()
	require.Positive(t, held)
	require.LessOrEqual(t, held, relay.PageEvents)
	requests, loads := e.publisher.requests, e.store.loads
	for range 3 {
		_, err := e.publish(t, 2, 3)
		require.Equal(t, TypeDatabase, asApplicationError(t, err).Type())
	}
	require.Equal(t, held, e.ledger.count())
	require.Equal(t, requests, e.publisher.requests)
	require.Equal(t, loads, e.store.loads)
	_, err = e.publish(t, 4)
	require.NoError(t, err, "a lane without acknowledgements does not wait")
}

func TestLedger_KeepsAcknowledgementsHoweverTheAttemptEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(e *env, r relay.PublishRequest){
		"the claim is lost and the database away": func(e *env, _ relay.PublishRequest) {
			e.store.mu.Lock()
			defer e.store.mu.Unlock()
			e.store.renewErr = relay.ErrClaimLost
		},
		"it panics": func(*env, relay.PublishRequest) { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.cfg.Lease = 2 * time.Second // so that it renews at the first tick
			e.store.fill(250, 1)
			e.store.away(true)
			e.publisher.before = func(ctx context.Context, n int, r relay.PublishRequest) {
				if n == 3 {
					end(e, r)
					<-ctx.Done()
				}
			}
			_, err := e.publish(t, 1)
			require.Error(t, err)
			require.GreaterOrEqual(t, e.ledger.count(), 20)
			require.Nil(t, e.store.released, "lanes with something to be settled are not given back")
		})
	}
}

func TestLedger_KeepsTheAcknowledgementsOfAHeartbeat(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(10, 1)
	e.store.away(true)
	refs := []relay.Ref{e.store.pending[0].Ref, e.store.pending[1].Ref}
	e.SetHeartbeatDetails(checkpoint{Published: 2, Unsettled: refs})
	_, err := e.publish(t, 1)
	require.Error(t, err)
	require.ElementsMatch(t, refs, e.ledger.of("orders", nil))
}

func TestLedger_SettlesATopicWhileAnotherFails(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := newLedger(blockedTopic{e.store, "a"})
	defer l.end()
	for _, topic := range []string{"a", "b", "c"} {
		l.add(topic, []relay.Ref{{ID: 1, Lane: 1}})
	}
	eventually(t, 10*time.Second, func() bool { return len(l.waiting()) == 1 }, "b and c are not settled")
	require.Equal(t, []string{"a"}, l.waiting())
}

// blockedTopic is a store in which one topic's rows are locked.
type blockedTopic struct {
	SettleStore
	topic string
}

func (s blockedTopic) Settle(ctx context.Context, topic string, done []relay.Ref) error {
	if topic == s.topic {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.SettleStore.Settle(ctx, topic, done)
}

func (s blockedTopic) Apart(context.Context) (settle func(context.Context, string, []relay.Ref) error, end func(), err error) {
	return s.Settle, func() {}, nil
}

// While the database answers one worker, another worker may wait for connections that do not
// answer. That worker must settle before any attempt loads the lanes that it has not released.
func TestLedger_SettlesInTimeThoughThePoolIsStuck(t *testing.T) {
	t.Parallel()
	for back := time.Duration(0); back < 10*time.Second; back += 100 * time.Millisecond {
		for name, refusing := range map[string]bool{"silent": false, "refusing": true} {
			synctest.Test(t, func(t *testing.T) {
				s := &stuckPool{SettleStore: &batchFake{}, refusing: refusing, back: time.Now().Add(back)}
				l := newLedger(s)
				defer l.end()
				for _, topic := range []string{"a", "b", "c"} {
					l.add(topic, []relay.Ref{{ID: 1, Lane: 1}})
				}
				time.Sleep(back + timing.SettleGrace)
				require.Empty(t, l.waiting(), "%s for %v", name, back)
				synctest.Wait()
				require.Equal(t, s.opened, s.ended, "connections are ended")
			})
		}
	}
}

// stuckPool is a store whose pooled connections do not answer. A new connection works if the
// database does.
type stuckPool struct {
	SettleStore
	back          time.Time // when the database is
	refusing      bool      // connections, until then
	opened, ended int
}

func (s *stuckPool) Settle(ctx context.Context, _ string, _ []relay.Ref) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s *stuckPool) Apart(ctx context.Context) (settle func(context.Context, string, []relay.Ref) error, end func(), err error) {
	if time.Now().Before(s.back) {
		if !s.refusing {
			<-ctx.Done()
		}
		return nil, nil, errAway
	}
	s.opened++
	return s.SettleStore.Settle, func() { s.ended++ }, nil
}

// A name may have an address that does not answer, and the pool a connection that does.
func TestLedger_SettlesByThePoolWhileNoConnectionCanBeMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &onlyPool{SettleStore: &batchFake{}, back: time.Now().Add(time.Second)}
		l := newLedger(s)
		defer l.end()
		for _, topic := range []string{"a", "b", "c"} {
			l.add(topic, []relay.Ref{{ID: 1, Lane: 1}})
		}
		time.Sleep(time.Second + timing.SettleGrace)
		require.Empty(t, l.waiting())
	})
}

// onlyPool is a store to which no new connection can be made.
type onlyPool struct {
	SettleStore
	back time.Time // when its pool is
}

func (s *onlyPool) Settle(ctx context.Context, topic string, done []relay.Ref) error {
	if time.Now().Before(s.back) {
		return errAway
	}
	return s.SettleStore.Settle(ctx, topic, done)
}

func (*onlyPool) Apart(ctx context.Context) (settle func(context.Context, string, []relay.Ref) error, end func(), err error) {
	<-ctx.Done()
	return nil, nil, ctx.Err()
}

func TestSettleRest_SettlesTheAcknowledgementsThatAttemptsLeft(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.away(true)
	var refs []relay.Ref
	for i := range 2*loadEvents + 1 {
		refs = append(refs, relay.Ref{ID: int64(i), Lane: 1})
	}
	e.ledger.add("orders", refs)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	left, err := SettleRest(ctx, e.Activities)
	require.ErrorIs(t, err, errAway)
	require.Equal(t, len(refs), left)

	e.store.away(false)
	left, err = SettleRest(t.Context(), e.Activities)
	require.NoError(t, err)
	require.Zero(t, left)
	require.Len(t, e.store.settled, len(refs))
}

func TestPublishBatch_LoadsExpiredLanesWhenTheirWorkerHasSettled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(30, 1)
	settled := e.store.pending[:20:20]
	began := time.Now()
	time.AfterFunc(timing.SettleGrace/2, func() { // another worker, which has reached the database
		refs := make([]relay.Ref, len(settled))
		for i, ev := range settled {
			refs[i] = ev.Ref
		}
		_ = e.store.Settle(context.Background(), "orders", refs)
	})
	r := request(1)
	r.Batch.Settling, r.For = true, 0
	result, err := e.publishAs(t, r)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), timing.SettleGrace)
	require.Equal(t, 10, result.Published, "what was published before came twice")
	require.Equal(t, []int16{1}, e.store.releasedLanes(), "and given back in order")
}

func TestPublishBatch_LeavesExpiredLanesUnreleasedWhenItsWorkerStops(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(30, 1)
	stop := make(chan struct{})
	close(stop)
	e.SetWorkerStopChannel(stop)
	r := request(1)
	r.Batch.Settling = true
	_, err := e.publishAs(t, r)
	require.NoError(t, err)
	require.Zero(t, e.publisher.requests)
	require.Nil(t, e.store.released)
	require.Equal(t, 1, e.store.overHeads, "the next claim waits anew")
}
