package activities

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// machine is a machine whose clocks jump when it is suspended.
type machine struct {
	mu   sync.Mutex
	slow timing.Reading // how far each clock is ahead of the real one
}

func (m *machine) read() timing.Reading {
	now := timing.Clock{}.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return timing.Reading{
		Monotonic: now.Monotonic + m.slow.Monotonic, Boot: now.Boot + m.slow.Boot, Wall: now.Wall + m.slow.Wall,
	}
}

func (m *machine) jump(r timing.Reading) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slow = timing.Reading{Monotonic: m.slow.Monotonic + r.Monotonic, Boot: m.slow.Boot + r.Boot, Wall: m.slow.Wall + r.Wall}
}

// suspensions are what the clocks say after a machine has stood still.
var suspensions = map[string]timing.Reading{
	"by its system":                            {Boot: 2 * time.Minute, Wall: 2 * time.Minute},
	"without a clock that counts suspension":   {Wall: 2 * time.Minute},
	"until Temporal has given its batch away":  {Boot: timing.HeartbeatTimeout, Wall: timing.HeartbeatTimeout},
	"as a process only, with all clocks going": {Monotonic: 2 * time.Minute, Boot: 2 * time.Minute, Wall: 2 * time.Minute},
}

func TestSuspension_EndsSendingUntilTheLeaseIsRenewed(t *testing.T) {
	for name, by := range suspensions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, m := newEnv(t), &machine{}
			e.clock.Read = m.read
			e.store.fill(30, 1)
			e.publisher.before = func(_ context.Context, n int, r relay.PublishRequest) {
				if n != 2 {
					return
				}
				require.True(t, r.Deadline().After(time.Now()))
				m.jump(by)
				require.False(t, r.Deadline().After(time.Now()), "a request may start")
				renewals := func() int {
					e.store.mu.Lock()
					defer e.store.mu.Unlock()
					return len(e.store.renewed)
				}
				eventually(t, 10*time.Second, func() bool {
					may, renewed := r.Deadline().After(time.Now()), renewals() > 0
					require.True(t, !may || renewed, "a request may start")
					return may
				}, "it does not go on when it has renewed its lease")
			}
			result, err := e.publish(t, 1)
			require.NoError(t, err)
			require.Equal(t, 30, result.Published)
		})
	}
}

func TestSuspension_EndsSendingForGoodIfTheLeaseIsLost(t *testing.T) {
	e, m := newEnv(t), &machine{}
	e.clock.Read = m.read
	e.store.fill(30, 1)
	e.store.renewErr = relay.ErrClaimLost
	e.publisher.before = func(ctx context.Context, n int, r relay.PublishRequest) {
		if n == 2 {
			m.jump(suspensions["by its system"])
			<-ctx.Done()
			require.False(t, r.Deadline().After(time.Now()))
		}
	}
	_, err := e.publish(t, 1)
	require.Equal(t, TypeClaimLost, asApplicationError(t, err).Type())
}

// Temporal counts from the beginning of an attempt. Another attempt that has the batch by now must
// not lose it again.
func TestSuspension_BeforeTheTakeOverEndsTheAttempt(t *testing.T) {
	e, m := newEnv(t), &machine{}
	e.clock.Read = m.read
	e.store.fill(10, 1)
	e.store.settleErr = func() error {
		m.jump(suspensions["until Temporal has given its batch away"])
		return nil
	}
	tookOver := false
	e.store.takingOver = func(context.Context) error { tookOver = true; return nil }
	e.SetHeartbeatDetails(checkpoint{Unsettled: []relay.Ref{e.store.pending[0].Ref}})
	_, err := e.publish(t, 1)
	require.Equal(t, TypeStopped, asApplicationError(t, err).Type())
	require.False(t, tookOver)
	require.Zero(t, e.publisher.requests)
}

func TestSuspension_DuringTheTakeOverIsNoticed(t *testing.T) {
	e, m := newEnv(t), &machine{}
	e.clock.Read = m.read
	e.store.fill(10, 1)
	e.store.takingOver = func(context.Context) error {
		m.jump(suspensions["until Temporal has given its batch away"])
		return nil
	}
	e.publisher.hold = func(context.Context) {
		e.store.mu.Lock()
		defer e.store.mu.Unlock()
		require.Empty(t, e.store.renewed)
	}
	e.publisher.before = func(_ context.Context, n int, r relay.PublishRequest) {
		if n == 1 {
			require.False(t, r.Deadline().After(time.Now()), "a request may start")
		}
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
}
