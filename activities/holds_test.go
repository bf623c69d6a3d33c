package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// temporalKnows is what Temporal answers about recoveries, by workflow id.
type temporalKnows struct {
	mu    sync.Mutex
	runs  map[string]RecoveryRun
	errs  map[string]error
	asked []string
}

func (k *temporalKnows) recovery(_ context.Context, workflowID string) (RecoveryRun, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, workflowID)
	return k.runs[workflowID], k.errs[workflowID]
}

// holding is an env whose store has holds, and that asks for their recoveries all the time.
func holding(t *testing.T, k *temporalKnows, found ...relay.RecoveryHold) *env {
	t.Helper()
	e := newEnv(t)
	e.store.holds = found
	e.holds.every, e.cfg.Recovery = time.Nanosecond, k.recovery
	return e
}

func heldFor(topic string, left time.Duration) relay.RecoveryHold {
	return relay.RecoveryHold{Topic: topic, WorkflowID: "r-" + topic, Until: time.Now().Add(left)}
}

func (s *holdFake) gone() []string {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	return slices.Clone(s.abandoned)
}

func TestHolds_OfRecoveriesThatHaveEndedAreEndedByClaims(t *testing.T) {
	k := &temporalKnows{runs: map[string]RecoveryRun{
		"r-completed":  {Ended: true, Completed: true, ClaimID: "c1"},
		"r-terminated": {Ended: true, ClaimID: "c2"},
		"r-unknown":    {Ended: true},
		"r-begins":     {Ended: true},
	}}
	e := holding(t, k, heldFor("completed", time.Minute), heldFor("terminated", time.Minute), heldFor("unknown", time.Minute),
		heldFor("runs", time.Minute), heldFor("begins", timing.HandoverHold-time.Second))
	e.store.claim = func(int) ([]relay.Batch, error) {
		if len(e.store.gone()) < 3 {
			return nil, nil
		}
		return someBatches, nil
	}
	_, err := e.claim(t, time.Hour)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		`r-completed of completed: claim "c1", true`, `r-terminated of terminated: claim "c2", false`, `r-unknown of unknown: claim "", false`,
	}, e.store.gone())
	k.mu.Lock()
	defer k.mu.Unlock()
	require.Contains(t, k.asked, "r-runs")
	require.NotContains(t, k.asked, "r-begins", "its recovery may have to begin yet")
}

func TestHolds_TakeTurnsSoThatNoneStopsAnother(t *testing.T) {
	k := &temporalKnows{runs: map[string]RecoveryRun{}, errs: map[string]error{"r-000": errors.New("no such id")}}
	var all []relay.RecoveryHold
	for i := range 2*holdsMost + 5 {
		all = append(all, heldFor(fmt.Sprintf("%03d", i), time.Minute))
	}
	e := holding(t, k, all...)
	for range 3 {
		_ = e.endHolds(t.Context())
		require.LessOrEqual(t, len(k.asked), holdsMost)
		k.asked = nil
	}
	k.errs = nil
	for range 3 {
		require.NoError(t, e.endHolds(t.Context()))
	}
	seen := slices.Clone(k.asked)
	slices.Sort(seen)
	require.Len(t, slices.Compact(seen), len(all), "each was asked for within three looks")
}

func TestHolds_AreLookedForOnceInAWhileAndOnlyIfTemporalCanBeAsked(t *testing.T) {
	e := newEnv(t)
	e.endHoldsWhenDue(t.Context())
	require.Zero(t, e.holds.next, "Temporal cannot be asked")
	k := &temporalKnows{}
	e.cfg.Recovery, e.holds.every = k.recovery, time.Hour
	e.store.holds = []relay.RecoveryHold{heldFor("orders", time.Minute)}
	_, err := e.claim(t, 50*time.Millisecond)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		e.holds.mu.Lock()
		defer e.holds.mu.Unlock()
		return !e.holds.busy
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, []string{"r-orders"}, k.asked)
}

// Temporal can fail for one recovery for as long as its topic is held.
func TestHolds_EndBesideOneOfWhichTemporalCannotTell(t *testing.T) {
	k := &temporalKnows{
		runs: map[string]RecoveryRun{"r-b": {Ended: true}, "r-c": {Ended: true}},
		errs: map[string]error{"r-a": errors.New("its history cannot be read")},
	}
	e := holding(t, k, heldFor("a", time.Minute), heldFor("b", time.Minute), heldFor("c", time.Minute))
	e.store.claim = func(int) ([]relay.Batch, error) {
		if len(e.store.gone()) < 2 {
			return nil, nil
		}
		return someBatches, nil
	}
	_, err := e.claim(t, 20*time.Second)
	require.NoError(t, err)
	require.Len(t, e.store.gone(), 2)
}
