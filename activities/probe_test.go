package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func ambiguousPoison() *relay.PublishError {
	return &relay.PublishError{Code: "InvalidParameterValue", Message: "never", Class: relay.ClassPoison, Ambiguous: true}
}

// recovering has a recovery make up to n attempts, each with the heartbeat of the
// one before, and returns how each ended.
func (e *env) recovering(t *testing.T, n int, lanes ...int16) (ended []error) {
	t.Helper()
	e.keepHeartbeats(t)
	for range n {
		r := request(lanes...)
		r.Recovering = true
		if e.recoverFor > 0 {
			r.For = e.recoverFor
		}
		_, err := e.publishAs(t, r)
		if ended = append(ended, err); err == nil {
			break
		}
	}
	return ended
}

// keepHeartbeats gives each attempt the heartbeat of the one before.
func (e *env) keepHeartbeats(t *testing.T) {
	t.Helper()
	e.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var last checkpoint
		require.NoError(t, details.Get(&last))
		e.SetHeartbeatDetails(last)
	})
}

// poisonThenGood makes so many events pending that are refused, and then good ones.
func (e *env) poisonThenGood(poison, good int, lanes ...int16) {
	e.store.fill(poison+good, lanes...)
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID <= int64(poison) {
			return ambiguousPoison()
		}
		return nil
	}
}

func TestRecovery_PassesMoreThanAPageOfAmbiguousRefusals(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 50, 1, 2)
	ended := e.recovering(t, 10, 1, 2)
	require.NoError(t, ended[len(ended)-1], "the recovery is over")
	require.Len(t, e.store.deadIDs(), 300)
	require.Len(t, e.publisher.sent, 50)
	require.Empty(t, e.store.pending)
	require.Less(t, len(ended), 8)
}

func TestRecovery_BelievesAmbiguousRefusalsAfterAnAcceptedProbe(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 50, 1)
	ended := e.recovering(t, 1, 1)
	require.ErrorContains(t, ended[0], "the destination refused 300 events and accepted 50 later events; the relay sends the refused events once more")
	require.Positive(t, asApplicationError(t, ended[0]).NextRetryDelay())
	require.Empty(t, e.store.deadIDs(), "the destination may have been repaired while it was asked")

	e.publisher.answer = nil // and it was
	ended = e.recovering(t, 5, 1)
	require.NoError(t, ended[len(ended)-1])
	require.Empty(t, e.store.deadIDs())
	require.Len(t, e.store.pending, 50, "the rest is the relay's")
}

func TestRecovery_DoesNotBelieveAProbeOfLongAgo(t *testing.T) {
	for age, dead := range map[time.Duration]int{time.Second: 20, provedFor + time.Second: 0} {
		e := newEnv(t)
		e.poisonThenGood(20, 0, 1)
		e.SetHeartbeatDetails(checkpoint{AmbiguousTo: 20, ProvedAt: time.Now().Add(-age), Evidence: &relay.Ref{ID: 20, Lane: 1, At: 1019}})
		e.recovering(t, 1, 1)
		require.Len(t, e.store.deadIDs(), dead, "%v ago", age)
	}
}

// After a failover the ids that were refused alike are those of other events.
func TestRecovery_ForgetsAmbiguousRefusalsOfEventsThatAreLost(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(20, 0, 1)
	e.store.replaced = true
	e.SetHeartbeatDetails(checkpoint{AmbiguousTo: 20, ProbedTo: 5000, ProvedAt: time.Now(), GivenUp: 1, Evidence: &relay.Ref{ID: 20, Lane: 1, At: 7}})
	e.recovering(t, 1, 1)
	require.Empty(t, e.store.deadIDs())
	require.Zero(t, e.store.probes[0].After, "it probes from the start")
}

func TestRecovery_StaysWhereEveryProbeIsRefusedAlikeAndGoesOnFromThere(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(3000, 0, 1, 2)
	ended := e.recovering(t, 2, 1, 2)
	require.Empty(t, e.store.deadIDs())
	require.ErrorContains(t, ended[0], "every event is refused alike, also 410 probes behind the first page")
	require.Equal(t, []relay.Probe{
		{Events: 100},
		{After: 350, Events: 100},
		{After: 450, Events: 100},
		{After: 550, Events: 100},
		{Newest: true, Events: 10},
		{After: 650, Events: 100},
		{After: 750, Events: 100},
		{After: 850, Events: 100},
		{After: 950, Events: 100},
		{Newest: true, Events: 10},
	}, e.store.probes)
	require.Len(t, e.store.renewed[len(e.store.renewed)-1], 2, "its lanes are kept")
}

func TestRecovery_ProbesLanesThatItsBatchDoesNotHave(t *testing.T) {
	e := newEnv(t)
	e.store.fill(300, 1)
	for i := range 50 {
		e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(301 + i), Lane: 7}, EventID: "e"})
	}
	e.store.free = map[int16]int64{7: 0}
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.Lane == 1 {
			return ambiguousPoison()
		}
		return nil
	}
	e.recovering(t, 1, 1)
	require.Len(t, e.publisher.sent, 50)
	require.Equal(t, []int16{7}, e.store.releasedLanes(), "given back")
	require.Equal(t, []int16{1}, e.store.renewed[len(e.store.renewed)-1], "kept")
	e.recovering(t, 5, 1)
	require.Len(t, e.store.deadIDs(), 300)
}

func TestRecovery_ProbesThoughItsPageHasUsedItsTimeUp(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 50, 1)
	e.publisher.before = func(_ context.Context, n int, _ relay.PublishRequest) {
		if n <= 25 {
			time.Sleep(timing.SendGrace / 5) // five times as long as there is, for all of the page
		}
	}
	e.recoverFor = time.Nanosecond
	ended := e.recovering(t, 1, 1)
	require.ErrorContains(t, ended[0], "later events")
	require.NotEmpty(t, e.publisher.sent)
}

// Low watermarks must not pass what was not loaded.
func TestRecovery_ReleasesNoLaneBehindEventsThatItOnlyProbed(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(0, 0)
	e.store.fill(250, 1)
	for i := range 2000 {
		e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(251 + i), Lane: 7}, EventID: "e"})
	}
	e.store.free = map[int16]int64{7: 251}
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID <= 2200 {
			return ambiguousPoison()
		}
		return nil
	}
	e.recovering(t, 1, 1)
	require.Equal(t, map[int16]int64{7: 251}, e.store.released)
}

// Lane 2 has its first events after the page was read, and the probe may have left out events before these.
func TestRecovery_RaisesNoLowWatermarkOfItsLanesByProbes(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	e.publisher.answer = func(n int, ev relay.Event) *relay.PublishError {
		if ev.Lane == 2 {
			return nil
		}
		if ev.ID == 1 {
			e.store.mu.Lock()
			defer e.store.mu.Unlock()
			e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: 9000, Lane: 2}, EventID: "e"})
		}
		return &relay.PublishError{Code: "InternalError", Message: "again"}
	}
	ended := e.recovering(t, 1, 1, 2)
	require.NoError(t, ended[0], "the destination works")
	require.Equal(t, []relay.Ref{{ID: 9000, Lane: 2}}, e.publisher.sent)
	require.Equal(t, map[int16]int64{1: 1, 2: 0}, e.store.released)
}

func TestRecovery_ProbesAgainFromAPortionThatWasNotSentToItsEnd(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3000, 1)
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID > 400 {
			return &relay.PublishError{Code: "Timeout", Class: relay.ClassRetry, Whole: true}
		}
		return ambiguousPoison()
	}
	e.recovering(t, 1, 1)
	portion := relay.Probe{After: 350, Events: probeEvents}
	require.Equal(t, []relay.Probe{{Events: probeEvents}, portion}, e.store.probes, "nothing is asked behind a refusal of all")
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguousPoison() }
	e.recovering(t, 1, 1)
	require.Equal(t, portion, e.store.probes[2])
}

func TestRecovery_AsksForFirstEventsOfKeysWhereOrderCounts(t *testing.T) {
	e := newEnv(t)
	e.publisher.ordered = true
	e.poisonThenGood(20, 0, 1)
	e.recovering(t, 1, 1)
	require.NotEmpty(t, e.store.probes)
	for _, p := range e.store.probes {
		require.True(t, p.Ordered)
	}
}

func TestRecovery_IsNotOverWhileOthersOfItsPageFailAlone(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 50, 1)
	answer := e.publisher.answer
	e.publisher.answer = func(n int, ev relay.Event) *relay.PublishError {
		if ev.ID%100 == 7 {
			return &relay.PublishError{Code: "InternalError", Message: "again"}
		}
		return answer(n, ev)
	}
	ended := e.recovering(t, 10, 1)
	require.NoError(t, ended[len(ended)-1])
	require.Len(t, e.store.deadIDs(), 297)
	require.Len(t, e.store.pending, 4, "these are the relay's, as ever: %v", e.store.pending)
}

// A destination that refuses an event alone, for ever, with a code that asks for a retry.
func TestRecovery_PassesMoreThanAPageOfEventsThatFailAlone(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 0, 1)
	for i := range 50 {
		e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(301 + i), Lane: 7}, EventID: "e"})
	}
	e.store.free = map[int16]int64{7: 0}
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.Lane == 1 {
			return &relay.PublishError{Code: "InternalError", Message: "again"}
		}
		return nil
	}
	e.store.refusedFor = map[int64]time.Duration{1: 2 * time.Hour, 2: time.Minute}
	ended := e.recovering(t, 3, 1)
	require.NoError(t, ended[len(ended)-1], "the destination works, and the rest is the relay's")
	require.Len(t, e.publisher.sent, 50)
	require.Equal(t, []int64{1}, e.store.deadIDs(), "refused for an hour while others got through")
	require.Len(t, e.store.pending, 299)

	e = newEnv(t)
	e.store.fill(300, 1)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError {
		return &relay.PublishError{Code: "InternalError", Message: "again"}
	}
	e.store.refusedFor = map[int64]time.Duration{1: 2 * time.Hour}
	ended = e.recovering(t, 3, 1)
	require.Error(t, ended[2], "nothing gets through, so it is the destination")
	require.Empty(t, e.store.deadIDs())
}

// Each key of an ordered destination begins with poison, so nothing else may be sent.
func TestRecovery_GivesOneEventUpToTryTheNextOfItsKey(t *testing.T) {
	for name, good := range map[string]bool{"poison": true, "a broken destination": false} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.publisher.ordered = true
			e.store.heads = true
			e.poisonThenGood(20, 0, 1)
			for i := range 20 {
				e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(21 + i), Lane: 1}, EventID: "e"})
			}
			for i := range e.store.pending {
				e.store.pending[i].Key = fmt.Sprint(i % 20)
			}
			if !good {
				e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguousPoison() }
			}
			ended := e.recovering(t, 6, 1)
			if good {
				require.NoError(t, ended[len(ended)-1])
				require.Len(t, e.store.dead, 20)
				sent := make([]int64, len(e.publisher.sent))
				for i, ref := range e.publisher.sent {
					sent[i] = ref.ID
				}
				require.Equal(t, append([]int64{40}, ids(31, 9)...), sent, "the rest is the relay's")
				return
			}
			require.Equal(t, []int64{20, 40}, e.store.deadIDs(), "of one key, so that it goes deep")
			require.ErrorContains(t, ended[5], "every event is refused alike")
		})
	}
}

func TestRecovery_DoesNotProbeWhereTheAnswerIsPlain(t *testing.T) {
	for name, answer := range map[string]*relay.PublishError{
		"denied":    {Code: "AccessDenied", Class: relay.ClassDestination, Whole: true},
		"throttled": {Code: "Throttled", Class: relay.ClassRetry, Throttled: true},
		"silent":    {Code: "Timeout", Class: relay.ClassRetry, Whole: true},
	} {
		e := newEnv(t)
		e.store.fill(300, 1)
		e.publisher.answer = func(int, relay.Event) *relay.PublishError { return answer }
		e.recovering(t, 1, 1)
		require.Empty(t, e.store.probes, name)
	}
	e := newEnv(t)
	e.poisonThenGood(5, 5, 1)
	e.recovering(t, 1, 1)
	require.Empty(t, e.store.probes, "others got through in the first page")
	require.Len(t, e.store.deadIDs(), 5)
}

func TestRecovery_SaysWhenItCouldNotProbe(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 0, 1)
	e.store.probeErr = errors.New("statement timeout")
	ended := e.recovering(t, 1, 1)
	require.ErrorContains(t, ended[0], "InvalidParameterValue: every event is refused alike")
	require.ErrorContains(t, ended[0], "could not probe later events: statement timeout")
}

func TestCheckpoint_OfAnEarlierVersionIsRead(t *testing.T) {
	e := newEnv(t)
	e.poisonThenGood(300, 50, 1, 2)
	e.SetHeartbeatDetails(map[string]any{"published": 3, "attemptsWithoutSuccess": 1})
	ended := e.recovering(t, 10, 1, 2)
	require.NoError(t, ended[len(ended)-1])
	require.Len(t, e.store.deadIDs(), 300, fmt.Sprint(slices.Compact(e.store.deadIDs())))
}

// ProvedAt and AmbiguousTo speak of the attempts before this one.
func TestRecovery_BelievesNoEventThatOnlyThisAttemptRefused(t *testing.T) {
	failsAlone := &relay.PublishError{Code: "InternalError", Message: "again"}
	for name, c := range map[string]struct {
		bad    int64
		answer *relay.PublishError
		proved int // attempts before the destination breaks
	}{
		"behind ambiguous ones":           {bad: 300, answer: ambiguousPoison(), proved: 2},
		"behind ones that fail alone":     {bad: 400, answer: failsAlone, proved: 1},
		"far behind ones that fail alone": {bad: 600, answer: failsAlone, proved: 1},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.store.fill(6000, 1)
			e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
				if ev.ID <= c.bad {
					return c.answer
				}
				return nil
			}
			ended := e.recovering(t, c.proved, 1)
			require.ErrorContains(t, ended[0], "later events")
			require.NotEmpty(t, e.publisher.sent)
			e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguousPoison() }
			e.recovering(t, 6, 1)
			for _, id := range e.store.deadIDs() {
				require.LessOrEqual(t, id, c.bad, "a good event")
			}
			if c.answer == failsAlone {
				require.Empty(t, e.store.deadIDs())
			}
		})
	}
}

func TestRecovery_IsNotOverWhereEverythingFailsAlone(t *testing.T) {
	e := newEnv(t)
	e.store.fill(6000, 1)
	failsAlone := &relay.PublishError{Code: "InternalError", Message: "again"}
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID <= 400 {
			return failsAlone
		}
		return nil
	}
	ended := e.recovering(t, 1, 1)
	require.ErrorContains(t, ended[0], "400 events and accepted")
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return failsAlone }
	ended = e.recovering(t, 1, 1)
	require.Error(t, ended[0], "the destination broke, and its lanes are kept")
}
