package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func (s *receiptFake) written() int {
	s.receiptMu.Lock()
	defer s.receiptMu.Unlock()
	return len(s.receipts)
}

// keepsReceipts has the topic orders keep receipts.
func (e *env) keepsReceipts() {
	e.cfg.Topics = map[string]TopicPolicy{"orders": {Receipts: time.Hour}, "audit": {}}
}

func TestReceipts_AreOffUnlessTheTopicAsksForThem(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(30, 1)
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	e.receipts.end(t.Context())
	require.Empty(t, e.store.receipts)
}

func TestReceipts_HaveTheMessageOfEachAcceptedEventAndOfNoOther(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.keepsReceipts()
	e.store.fill(30, 1)
	e.publisher.answer = refusing(&relay.PublishError{Code: "InvalidMessageContents", Class: relay.ClassPoison}, 5)
	began := time.Now()
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	eventually(t, 10*time.Second, func() bool { return e.store.written() == 29 }, "they are not written")
	for _, r := range e.store.receipts {
		require.NotEqual(t, int64(5), r.ID)
		require.Equal(t, "orders", r.Topic)
		require.Equal(t, fmt.Sprint("message-", r.ID), r.MessageID)
		require.Equal(t, "a queue", r.Destination)
		require.WithinRange(t, r.At, began, time.Now())
		require.Contains(t, e.publisher.sent, r.Ref)
	}
}

// The statement hangs for longer than a settlement may take.
func TestReceipts_NeitherFailNorDelaySettlements(t *testing.T) {
	t.Parallel()
	for name, receiptsErr := range map[string]func(ctx context.Context, _ []relay.Receipt) error{
		"they hang":        func(ctx context.Context, _ []relay.Receipt) error { <-ctx.Done(); return ctx.Err() },
		"they are refused": func(context.Context, []relay.Receipt) error { return relay.ErrReceiptsRefused },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := metered(t)
			e.keepsReceipts()
			// The fake is under a lock that settlements need as well.
			slow := &slowReceipts{err: receiptsErr}
			e.receipts.store = slow
			e.store.fill(300, 1)
			_, err := e.publish(t, 1)
			require.NoError(t, err)
			require.Equal(t, 300, e.store.settledEvents())
		})
	}
}

// slowReceipts is a store of receipts beside that of events.
type slowReceipts struct {
	err func(ctx context.Context, receipts []relay.Receipt) error
}

func (s *slowReceipts) WriteReceipts(ctx context.Context, receipts []relay.Receipt) error {
	return s.err(ctx, receipts)
}

func newTestReceipts(write func(n int, receipts []relay.Receipt) error) (r *receipts, written func() []int64, m *recorder) {
	var s receiptFake
	tries := 0
	s.receiptsErr = func(_ context.Context, receipts []relay.Receipt) error {
		tries++
		return write(tries, receipts)
	}
	m = &recorder{}
	return newReceipts(&s, m), func() (ids []int64) {
		s.receiptMu.Lock()
		defer s.receiptMu.Unlock()
		for _, r := range s.receipts {
			ids = append(ids, r.ID)
		}
		return ids
	}, m
}

func accepted(from, n int) (outcomes []relay.Outcome) {
	for i := range n {
		outcomes = append(outcomes, relay.Outcome{Ref: relay.Ref{ID: int64(from + i)}, MessageID: "m"})
	}
	return outcomes
}

func numbers(from, n int) (ids []int64) {
	for i := range n {
		ids = append(ids, int64(from+i))
	}
	return ids
}

func TestReceipts_AreCountedByTopicWhenRefusedAndTheNextAreWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, written, m := newTestReceipts(func(n int, _ []relay.Receipt) error {
			if n == 1 {
				return fmt.Errorf("no partition: %w", relay.ErrReceiptsRefused)
			}
			return nil
		})
		r.add("orders", accepted(1, 10))
		r.add("audit", accepted(11, 5))
		time.Sleep(time.Second)
		synctest.Wait()
		slices.Sort(m.others)
		require.Equal(t, []string{"receipts of audit lost: 5", "receipts of orders lost: 10"}, m.others)
		r.add("orders", accepted(16, 10))
		time.Sleep(time.Second)
		require.Equal(t, numbers(16, 10), written())
		r.end(t.Context())
	})
}

func TestReceipts_OutliveAnOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		r, written, m := newTestReceipts(func(int, []relay.Receipt) error {
			if !back.Load() {
				return errAway
			}
			return nil
		})
		r.add("orders", accepted(1, 2500))
		time.Sleep(time.Minute)
		r.add("orders", accepted(2501, 500))
		require.Empty(t, written())
		back.Store(true)
		time.Sleep(10 * timing.ReceiptsEvery)
		require.Equal(t, numbers(1, 3000), written())
		require.Empty(t, m.others)
		r.end(t.Context())
	})
}

func TestReceipts_AreBoundedAndTheRestIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _, m := newTestReceipts(func(int, []relay.Receipt) error { return errAway })
		r.add("orders", accepted(1, receiptsMost+3))
		require.Equal(t, []string{"receipts of orders lost: 3"}, m.others)
		require.Len(t, r.waiting, receiptsMost)
		r.end(t.Context())
		require.Equal(t, fmt.Sprint("receipts of orders lost: ", receiptsMost), m.others[1], "one more try, and no more")
	})
}

func TestSettleRest_WritesTheReceiptsThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, written, m := newTestReceipts(func(int, []relay.Receipt) error { return nil })
		r.add("orders", accepted(1, 2500))
		r.end(t.Context())
		require.Equal(t, numbers(1, 2500), written())
		r.add("orders", accepted(2501, 2))
		require.Equal(t, []string{"receipts of orders lost: 2"}, m.others)
		synctest.Wait()
	})
}

func TestSettleRest_DoesNotWaitForReceiptsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangs := &slowReceipts{err: func(ctx context.Context, _ []relay.Receipt) error { <-ctx.Done(); return ctx.Err() }}
		m := &recorder{}
		r := newReceipts(hangs, m)
		r.add("orders", accepted(1, 10))
		time.Sleep(2 * timing.ReceiptsEvery) // it is being written
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		r.end(ctx)
		require.Equal(t, time.Second, time.Since(began))
		require.Equal(t, []string{"receipts of orders lost: 10"}, m.others)
		time.Sleep(timing.ReceiptsTry) // and the writer ends without harm
		synctest.Wait()
	})
}

func TestEnsurePartitions_SucceedsWithoutReceiptsAndSaysSo(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.keepsReceipts()
	v, err := e.ExecuteActivity(e.EnsurePartitions, PartitionsRequest{Days: 14})
	require.NoError(t, err)
	var done relay.Partitions
	require.NoError(t, v.Get(&done))
	require.Empty(t, done.Left)
	require.Equal(t, map[string]time.Duration{"orders": time.Hour}, e.store.keeps)
	e.store.maintenanceErr = errors.New("may not")
	for _, activity := range []any{e.EnsurePartitions, e.DropExpiredPartitions} {
		v, err := e.ExecuteActivity(activity, PartitionsRequest{Days: 14})
		require.NoError(t, err)
		require.NoError(t, v.Get(&done))
		require.Equal(t, []string{"receipts: may not"}, done.Left)
	}
}
