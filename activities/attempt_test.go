package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// The stop wakes loops that look at the events in flight.
func TestAttempt_KnowsTheRefusalThatStopsItsSending(t *testing.T) {
	hand := refs(10, 2)
	a := &attempt{topic: "orders", cfg: Config{Metrics: noMetrics{}}, flight: flying(2, "x")}
	stopped := 0
	a.report(func(cause error) {
		stopped++
		require.ErrorIs(t, cause, relay.ErrStopped)
		require.NotNil(t, a.flight.state("orders").refused.whole)
	}, outcomes(&relay.PublishError{Code: "Timeout", Class: relay.ClassRetry, Whole: true}, hand))
	require.Equal(t, 1, stopped)
}

// seeing calls a function before it counts outcomes.
type seeing struct {
	noMetrics
	reported func([]relay.Outcome)
}

func (m seeing) Reported(_ string, outcomes []relay.Outcome, _ []time.Duration) { m.reported(outcomes) }

// A metric that panics ends the attempt, which must not lose an event or a refusal.
func TestScreen_NotesEventsBeforeMetricsCountThem(t *testing.T) {
	flight := flying(0, "")
	counted := 0
	s := screen{topic: "orders", flight: flight, blocks: map[relay.Chain]int64{}, metrics: seeing{reported: func(refused []relay.Outcome) {
		counted += len(refused)
		state := flight.state("orders")
		require.Equal(t, 3, state.loaded)
		require.Len(t, state.inHand, 3)
		require.Len(t, state.refused.all(), 1)
	}}}
	p := page(3, "x")
	p.Events[0].EventID, p.Events[2].EventID = "e", "e"
	ready, err := s.admit(t.Context(), p, time.Now())
	require.NoError(t, err)
	require.Len(t, ready, 2)
	require.Equal(t, 1, counted)
}
