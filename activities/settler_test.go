package activities

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// settleFake settles each topic by a function of its own.
type settleFake map[string]func(ctx context.Context) error

func (s settleFake) Settle(ctx context.Context, topic string, _ []relay.Ref) error {
	return s[topic](ctx)
}

func (settleFake) Apart(context.Context) (settle func(context.Context, string, []relay.Ref) error, end func(), err error) {
	return nil, nil, errAway
}

// acknowledged has acknowledgements of two topics to settle.
func acknowledged() *inFlight {
	f := flying(2, "x")
	f.begin(relay.Lease{Topic: "audit", LowID: map[int16]int64{1: 1}}, checkpoint{}, false)
	f.loaded("audit", page(2, "x"), time.Now())
	f.answered("orders", outcomes(nil, refs(10, 2)))
	f.answered("audit", outcomes(nil, refs(10, 2)))
	return f
}

func TestSettler_SettlesTheOtherTopicsWhenOneFails(t *testing.T) {
	for failing, other := range map[string]string{"orders": "audit", "audit": "orders"} {
		t.Run(failing+" fails", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := acknowledged()
			s := settler{flight: f, store: settleFake{
				failing: func(context.Context) error { return errAway },
				other:   func(context.Context) error { cancel(); return nil },
			}}
			require.ErrorIs(t, s.settle(ctx), errAway)
			require.Empty(t, f.checkpoint(other).Unsettled)
			require.Equal(t, refs(10, 2), f.checkpoint(failing).Unsettled, "the next attempt has them")
		})
	}
}

func TestSettler_SaysOfEachTopicWhyItFailed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errLocked := errors.New("the rows are locked")
	s := settler{flight: acknowledged(), store: settleFake{
		"orders": func(context.Context) error { return errAway },
		"audit":  func(context.Context) error { return errLocked },
	}}
	err := s.settle(ctx)
	require.ErrorIs(t, err, errAway)
	require.ErrorIs(t, err, errLocked)
}

// watcher is told of outcomes while watch looks.
type watcher struct {
	noMetrics
	watch func(latencies []time.Duration)
}

func (w watcher) Reported(_ string, _ []relay.Outcome, latencies []time.Duration) { w.watch(latencies) }

// An event that is settled before would be published, and not counted.
func TestSettler_SettlesAnEventAfterItsReceiptAndItsMetrics(t *testing.T) {
	e := newEnv(t)
	e.keepsReceipts()
	var attempt *attempt
	reports := 0
	e.cfg.Metrics = watcher{watch: func(latencies []time.Duration) {
		reports++
		require.Len(t, latencies, 2)
		e.receipts.mu.Lock()
		defer e.receipts.mu.Unlock()
		require.Len(t, e.receipts.waiting, 2)
		require.Empty(t, attempt.flight.next(), "the settler would settle them now")
		require.Empty(t, attempt.flight.wakeSettler, "the settler is awake")
	}}
	attempt = e.newAttempt(request(1, 2), relay.Lease{Topic: "orders", LowID: map[int16]int64{1: 5, 2: 5}}, e.clock.Now(), checkpoint{})
	attempt.flight.loaded("orders", page(2, "x"), time.Now())
	attempt.report(nil, outcomes(nil, refs(10, 2)))
	require.Equal(t, 1, reports)
	require.NotEmpty(t, attempt.flight.wakeSettler)
	require.Equal(t, []acknowledgements{{"orders", refs(10, 2)}}, attempt.flight.next())
}
