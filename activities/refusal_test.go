package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func poison(code string) *relay.PublishError {
	return &relay.PublishError{Code: code, Message: "never", Class: relay.ClassPoison}
}

// refusing answers events of these ids with err, and accepts all others.
func refusing(err *relay.PublishError, ids ...int64) func(int, relay.Event) *relay.PublishError {
	return func(_ int, e relay.Event) *relay.PublishError {
		if slices.Contains(ids, e.ID) {
			return err
		}
		return nil
	}
}

func (s *batchFake) deadIDs() (ids []int64) {
	for _, d := range s.dead {
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestAttempt_MakesPoisonADeadLetterAndPublishesTheRest(t *testing.T) {
	e := newEnv(t)
	e.store.fill(100, 1, 2)
	e.publisher.answer = refusing(poison("InvalidMessageContents"), 7, 50)
	r, err := e.publish(t, 1, 2)
	require.NoError(t, err, "the batch is done")
	require.Equal(t, 98, r.Published)
	require.Equal(t, 2, r.Dead)
	require.Equal(t, []int64{7, 50}, e.store.deadIDs())
	require.Equal(t, "default-test-workflow-id", e.store.deadBy)
	require.Equal(t, []int16{1, 2}, e.store.releasedLanes())
	require.Empty(t, e.store.pauses)
}

func TestAttempt_LosesItsClaimIfItMayNotMakeDeadLetters(t *testing.T) {
	e := newEnv(t)
	e.store.fill(10, 1)
	e.store.deadLetterErr = fmt.Errorf("move: %w", relay.ErrClaimLost)
	e.publisher.answer = refusing(poison("InvalidMessageContents"), 7)
	_, err := e.publish(t, 1)
	require.Equal(t, TypeClaimLost, asApplicationError(t, err).Type())
}

func TestLoader_RefusesEventsThatCannotBeSent(t *testing.T) {
	e := newEnv(t)
	e.cfg.Topics = map[string]TopicPolicy{"orders": {OnPoison: BlockKey}}
	e.store.fill(6, 1)
	e.store.pending[4].Key = "before its first dead letter"
	e.store.pending[5].Key = "a replay died"
	e.store.blocked = map[relay.Chain]int64{
		{Key: "before its first dead letter"}: 9, {Key: "blocked"}: 2, {Key: "a replay died", Replay: 7}: 1,
	}
	e.store.pending[0].Bytes, e.store.pending[0].EventID = 9<<20, ""
	e.store.pending[1].EventID = ""
	e.store.pending[2].Key = "blocked"
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 3, r.Published)
	require.Equal(t, 3, r.Dead)
	require.Equal(t, "EventTooLarge: the event has 9437184 bytes, no destination accepts more than 1048576", e.store.dead[0].Err.Error())
	require.Equal(t, relay.CodeEventMissing, e.store.dead[1].Err.Code)
	require.Equal(t, relay.CodeBlocked, e.store.dead[2].Err.Code)
}

func TestLoader_RefusesAnUnreadableEventWithTheReason(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3, 1)
	e.store.pending[1].EventID, e.store.pending[1].Unreadable = "", "payload cannot be read as UTF-8: 0x81"
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, []int{r.Published, r.Dead})
	require.Equal(t, "InvalidCharacter: payload cannot be read as UTF-8: 0x81", e.store.dead[0].Err.Error())
}

func TestLoader_HoldsTheRestOfABlockedKeyOfThePageBack(t *testing.T) {
	e := newEnv(t)
	e.cfg.Topics = map[string]TopicPolicy{"orders": {OnPoison: BlockKey}}
	e.store.pending = []relay.Event{
		{Ref: relay.Ref{ID: 1, Lane: 1}, Key: "k", EventID: "e", Payload: "x"},
		{Ref: relay.Ref{ID: 2, Lane: 1}, Key: "k"}, // it cannot be sent
		{Ref: relay.Ref{ID: 3, Lane: 1}, Key: "k", EventID: "e", Payload: "x"},
		{Ref: relay.Ref{ID: 4, Lane: 1}, Key: "other", EventID: "e", Payload: "x"},
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, []relay.Ref{{ID: 1, Lane: 1}, {ID: 4, Lane: 1}}, e.publisher.sent, "a redrive of 2 would come after 3")
	require.Len(t, e.store.dead, 2)
	require.Equal(t, relay.CodeBlocked, e.store.dead[1].Err.Code)
}

// The budget divides a page, and the dead letter of the first portion is not in the store yet.
func TestLoader_HoldsABlockedKeyBackInAllPortionsOfAPage(t *testing.T) {
	e := newEnv(t)
	e.cfg.Topics = map[string]TopicPolicy{"orders": {OnPoison: BlockKey}}
	e.store.fill(12, 1)
	for i := range e.store.pending {
		e.store.pending[i].Key, e.store.pending[i].Bytes = fmt.Sprint("key-", i), 1<<20
	}
	e.store.pending[0].EventID = "" // it is missing
	e.store.pending[0].Key, e.store.pending[11].Key = "k", "k"
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Len(t, e.publisher.sent, 10, "all but the missing one and the one behind it")
	require.Len(t, e.store.dead, 2)
	require.Equal(t, relay.CodeBlocked, e.store.dead[1].Err.Code)
}

func TestAttempt_HandsATopicOverWhoseDestinationIsAtFault(t *testing.T) {
	for _, class := range []relay.Class{relay.ClassDestination, relay.ClassOurs} {
		e := newEnv(t)
		e.store.fill(100, 1)
		e.publisher.answer = func(int, relay.Event) *relay.PublishError {
			return &relay.PublishError{Code: "AuthorizationError", Message: "not you", Class: class, Whole: true}
		}
		_, err := e.publish(t, 1)
		failure := asApplicationError(t, err)
		require.True(t, failure.NonRetryable())
		require.Equal(t, "AuthorizationError", failure.Type())
		require.Equal(t, []string{"orders by outbox-recovery/orders"}, e.store.pauses)
		require.Equal(t, 1, e.publisher.requests)
		require.Empty(t, e.store.dead)
		require.Equal(t, [][]int16{{1}}, e.store.renewed, "the recovery takes the lanes over")
	}
}

func TestAttempt_KeepsWithTheTopicWhyItIsLeftToItsRecovery(t *testing.T) {
	e := newEnv(t)
	e.store.fill(100, 1)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError {
		return &relay.PublishError{Code: "AuthorizationError", Message: strings.Repeat("ü", 2000), Class: relay.ClassDestination, Whole: true}
	}
	_, err := e.publish(t, 1)
	require.Error(t, err)
	require.Equal(t, []noted{{"orders by outbox-recovery/orders", relay.Failure{
		Code: "AuthorizationError", Message: strings.Repeat("ü", 500) + "…", Destination: e.publisher.Destination("orders"),
	}, 0}}, e.store.noted, "its recovery tries at once")
}

func TestRecovery_SaysWhenItsNextAttemptIsDue(t *testing.T) {
	for name, c := range map[string]struct {
		err  relay.PublishError
		next func(time.Duration) bool
	}{
		"by the retry policy": {relay.PublishError{Code: "NotFound", Class: relay.ClassDestination, Whole: true}, func(d time.Duration) bool { return d == timing.RecoveryPauseFirst }},
		"after throttling": {
			relay.PublishError{Code: "Throttled", Class: relay.ClassRetry, Throttled: true, Whole: true},
			func(d time.Duration) bool { return d >= throttleBackoff/2 && d <= throttleBackoff },
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.store.fill(20, 1)
			e.store.noteErr = fmt.Errorf("nothing depends on it")
			e.publisher.answer = func(int, relay.Event) *relay.PublishError { return &c.err }
			ended := e.recovering(t, 1, 1)
			require.Equal(t, c.err.Code, asApplicationError(t, ended[0]).Type())
			require.Len(t, e.store.noted, 1)
			require.True(t, c.next(e.store.noted[0].next), e.store.noted[0].next)
			require.Equal(t, c.err.Code, e.store.noted[0].Code)
		})
	}
	e := newEnv(t)
	e.store.fill(20, 1)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError {
		return &relay.PublishError{Code: "InternalError", Class: relay.ClassRetry, Whole: true}
	}
	_, err := e.publish(t, 1)
	require.Error(t, err)
	require.Empty(t, e.store.noted, "a batch that is tried again pauses no topic")
}

func TestBackoff_IsThatOfARetryPolicy(t *testing.T) {
	for attempt, want := range map[int32]time.Duration{0: 1, 1: 1, 2: 2, 3: 4, 6: 32, 7: 60, 70: 60} {
		require.Equal(t, want*time.Second, backoff(attempt, timing.RecoveryPauseFirst, timing.RecoveryPauseMost), "after attempt %d", attempt)
	}
}

func TestAttempt_HandsATopicOverAfterThreeWithoutSuccess(t *testing.T) {
	for before, final := range map[int]bool{0: false, 1: false, 2: true} {
		e := newEnv(t)
		e.store.fill(20, 1)
		e.SetHeartbeatDetails(checkpoint{AttemptsWithoutSuccess: before})
		e.publisher.answer = func(int, relay.Event) *relay.PublishError {
			return &relay.PublishError{Code: "InternalError", Class: relay.ClassRetry, Whole: true}
		}
		_, err := e.publish(t, 1)
		require.Equal(t, final, asApplicationError(t, err).NonRetryable(), "%d before", before)
		require.Equal(t, final, len(e.store.pauses) == 1)
	}
}

func TestAttempt_BlamesNoDestinationForAFewEventsThatFailAlone(t *testing.T) {
	e := newEnv(t)
	e.store.fill(2, 1)
	e.SetHeartbeatDetails(checkpoint{AttemptsWithoutSuccess: 5})
	e.publisher.answer = refusing(&relay.PublishError{Code: "InternalError"}, 1, 2)
	_, err := e.publish(t, 1)
	require.False(t, asApplicationError(t, err).NonRetryable())
	require.Empty(t, e.store.pauses)
}

// A request's worth of events, each refused by itself: in a batch that gets nothing
// through it is the destination, in one that did it is not.
func TestAttempt_BlamesTheDestinationOnlyIfNoEventGotThrough(t *testing.T) {
	for published, final := range map[int]bool{0: true, 90: false} {
		e := newEnv(t)
		e.store.fill(aloneLimit, 1)
		e.store.refusedFor = map[int64]time.Duration{1: 100 * time.Hour}
		e.SetHeartbeatDetails(checkpoint{AttemptsWithoutSuccess: attemptsWithoutSuccessLimit - 1, Published: published})
		e.publisher.answer = func(int, relay.Event) *relay.PublishError { return &relay.PublishError{Code: "InternalError"} }
		_, err := e.publish(t, 1)
		require.Equal(t, final, asApplicationError(t, err).NonRetryable())
		require.Equal(t, final, len(e.store.dead) == 0, "what fails together is not given up")
	}
}

func TestAttempt_ExpiresNoEventWhileNoOtherGetsThrough(t *testing.T) {
	e := newEnv(t)
	e.store.fill(1, 1)
	e.store.refusedFor = map[int64]time.Duration{1: 100 * time.Hour}
	e.publisher.answer = refusing(&relay.PublishError{Code: "InternalError"}, 1)
	_, err := e.publish(t, 1)
	require.Error(t, err)
	require.Empty(t, e.store.dead)

	e.store.fill(2, 1) // 1 again, and 2
	_, err = e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 1}, e.store.deadIDs()[:2])
}

// Access may be denied for one event of many, as by a policy on its attributes; and
// what this program builds wrong may be wrong for one event only.
func TestAttempt_KeepsOnlyTheLaneOfAnEventThatNeedsRepair(t *testing.T) {
	for _, class := range []relay.Class{relay.ClassDestination, relay.ClassOurs} {
		e := newEnv(t)
		e.store.fill(10, 1, 2)
		e.store.refusedFor = map[int64]time.Duration{3: 100 * time.Hour}
		e.publisher.answer = refusing(&relay.PublishError{Code: "MalformedInput", Class: class}, 3)
		_, err := e.publish(t, 1, 2)
		require.False(t, asApplicationError(t, err).NonRetryable())
		require.Empty(t, e.store.pauses)
		require.Empty(t, e.store.dead, "the fault is ours, or can be repaired")
		require.Equal(t, []int16{2}, e.store.releasedLanes())
	}
}

func TestAttempt_GivesUpEventsThatFailAloneForTooLong(t *testing.T) {
	e := newEnv(t)
	e.cfg.Topics = map[string]TopicPolicy{"orders": {GiveUpAfter: time.Hour}}
	e.store.fill(20, 1)
	e.store.refusedFor = map[int64]time.Duration{3: time.Hour + 1, 4: time.Hour - 1}
	e.publisher.answer = refusing(&relay.PublishError{Code: "InternalError", Message: "again"}, 3, 4)
	_, err := e.publish(t, 1)
	require.Equal(t, []int64{3}, e.store.deadIDs())
	require.Equal(t, "orders → SQS queue orders-queue: 1 of 20 left: InternalError: again", asApplicationError(t, err).Message())
}

func TestRecovery_NeitherFailsForGoodNorGivesUp(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	e.store.refusedFor = map[int64]time.Duration{3: 100 * time.Hour}
	r := request(1)
	r.Recovering = true
	e.SetHeartbeatDetails(checkpoint{AttemptsWithoutSuccess: 100})
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return &relay.PublishError{Code: "InternalError"} }
	_, err := e.publishAs(t, r)
	require.False(t, asApplicationError(t, err).NonRetryable())
	require.Equal(t, []string{"orders by outbox-recovery/orders"}, e.store.pauses)
	require.Empty(t, e.store.dead)
}

func TestRecovery_IsOverIfAnyEventGotThrough(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	r := request(1)
	r.Recovering = true
	e.publisher.answer = refusing(&relay.PublishError{Code: "InternalError"}, 3)
	result, err := e.publishAs(t, r)
	require.NoError(t, err, "what fails alone is the relay's business")
	require.Equal(t, 19, result.Published)
	require.Equal(t, map[int16]int64{1: 3}, e.store.released)
}

func TestRecovery_IsOverWhenTheEventsLeftFailAlone(t *testing.T) {
	e := newEnv(t)
	e.store.fill(aloneLimit-1, 1)
	r := request(1)
	r.Recovering = true
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return &relay.PublishError{Code: "InternalError"} }
	_, err := e.publishAs(t, r)
	require.NoError(t, err)
	require.Equal(t, []int16{1}, e.store.releasedLanes())
}

func TestRecovery_TakesPoisonForNoSignThatADestinationIsBack(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	e.store.pending[0].EventID = ""
	r := request(1)
	r.Recovering = true
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return &relay.PublishError{Code: "Timeout", Whole: true} }
	_, err := e.publishAs(t, r)
	require.Error(t, err)
	require.Len(t, e.store.dead, 1)
}

// Its destination hangs while it is looked up, until the batch's time is over.
func TestAttempt_FailsIfItCannotLookUpItsDestination(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	e.publisher.err = fmt.Errorf("%w: %w", relay.ErrStopped, &relay.PublishError{Code: "Timeout", Message: "no answer", Whole: true})
	_, err := e.publish(t, 1)
	require.Equal(t, "Timeout", asApplicationError(t, err).Type())
}

func TestRecovery_RepeatsAnAttemptThatWasStoppedBeforeItCouldTell(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	r := request(1)
	r.Recovering = true
	stop := make(chan struct{})
	e.SetWorkerStopChannel(stop)
	e.publisher.hold = func(ctx context.Context) {
		close(stop)
		<-ctx.Done()
	}
	_, err := e.publishAs(t, r)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeStopped, failure.Type())
	require.False(t, failure.NonRetryable())
	require.Nil(t, e.store.released, "the lanes are kept")
}

// Its lease may be over, for example after a suspension: only the attempt itself stops the sending.
func TestRecovery_RepeatsAnAttemptThatFellSilentBeforeItCouldTell(t *testing.T) {
	for name, park := range map[string]bool{"retrying": false, "parking": true} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.store.fill(20, 1)
			e.publisher.err = relay.ErrStopped
			r := request(1)
			r.Recovering, r.Park = true, park
			_, err := e.publishAs(t, r)
			require.Equal(t, TypeStopped, asApplicationError(t, err).Type(), "it is not through")
			require.Nil(t, e.store.released, "the lanes are kept")
		})
	}
}

func TestPublishBatch_PreparesBeforeTemporalGivesItsBatchToAnother(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	e.store.takingOver = func(ctx context.Context) error {
		by, limited := ctx.Deadline()
		require.True(t, limited)
		require.LessOrEqual(t, time.Until(by), timing.StallLimit)
		return context.DeadlineExceeded
	}
	_, err := e.publish(t, 1)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeDatabase, failure.Type())
	require.False(t, failure.NonRetryable())
	require.Nil(t, e.store.released, "the lanes may be another's")
}

func TestDecide_BlamesNoDestinationWhereNoRefusalIsAmbiguous(t *testing.T) {
	var a ambiguity
	require.True(t, a.believe("orders", &belief{}, outcomes(ambiguousPoison(), refs(9, ambiguousLimit))))
	var f facts
	f.believed, _ = a.of("orders", nil, time.Hour)
	require.Nil(t, f.judge().whole)
	f.refused.ambiguous = outcomes(ambiguousPoison(), refs(1, 1))
	require.NotNil(t, f.judge().whole)
}

// judged is an attempt for a lane to which one event was refused with an ambiguous code, and its decision.
func (e *env) judged(t *testing.T, lane int16, id int) (*attempt, decision) {
	t.Helper()
	a := e.newAttempt(request(lane), relay.Lease{Topic: "orders"}, e.clock.Now(), checkpoint{})
	f := a.facts()
	f.refused.ambiguous = outcomes(ambiguousPoison(), refs(id, 1))
	require.NoError(t, a.recordRefusals(t.Context(), &f))
	return a, decide(f)
}

// All batches judge before one of them makes its dead letters.
func TestAmbiguity_LimitHoldsForBatchesAtOnce(t *testing.T) {
	e := newEnv(t)
	first, dead := e.judged(t, 0, 1)
	require.Len(t, dead.deadLetters, 1)
	second, alsoDead := e.judged(t, 1, 2)
	require.Len(t, alsoDead.deadLetters, 1)
	_, third := e.judged(t, 2, 3)
	require.Empty(t, third.deadLetters)
	// Nobody knows whether the commit of a statement without an answer was made.
	e.store.deadLetterErr = errors.New("away")
	require.Error(t, first.carryOut(t.Context(), dead))
	_, again := e.judged(t, 0, 1)
	require.Len(t, again.deadLetters, 1, "the same event")
	_, third = e.judged(t, 2, 3)
	require.Empty(t, third.deadLetters)
	// What certainly made no dead letter does not count.
	e.store.deadLetterErr = relay.ErrClaimLost
	require.Error(t, second.carryOut(t.Context(), alsoDead))
	_, third = e.judged(t, 2, 3)
	require.Len(t, third.deadLetters, 1)
}

// An attempt that has lost its claim and the next one of the batch are refused alike.
func TestAmbiguity_AnAttemptTakesBackOnlyItsOwnBelief(t *testing.T) {
	for name, fails := range map[string]func(e *env, stale *attempt, d decision){
		"its claim is lost": func(e *env, stale *attempt, d decision) {
			e.store.deadLetterErr = relay.ErrClaimLost
			require.ErrorIs(t, stale.carryOut(t.Context(), d), relay.ErrClaimLost)
			e.store.deadLetterErr = nil
		},
		"it judges again, and its claim is lost": func(e *env, stale *attempt, d decision) {
			f := stale.facts()
			f.refused.ambiguous = outcomes(ambiguousPoison(), refs(1, 1))
			require.NoError(t, stale.recordRefusals(t.Context(), &f))
			e.store.deadLetterErr = relay.ErrClaimLost
			require.ErrorIs(t, stale.carryOut(t.Context(), d), relay.ErrClaimLost)
			e.store.deadLetterErr = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			stale, staleDecision := e.judged(t, 0, 1)
			next, d := e.judged(t, 0, 1)
			require.NoError(t, next.carryOut(t.Context(), d))
			dead := len(d.deadLetters)
			fails(e, stale, staleDecision)
			for id := 2; id <= 5; id++ {
				_, d := e.judged(t, int16(id), id)
				dead += len(d.deadLetters)
			}
			require.Equal(t, ambiguousLimit, dead)
		})
	}
}

// An accepted event ends all beliefs. Later ones are those of other attempts.
func TestAmbiguity_NoBeliefOfALaterTimeIsTakenBack(t *testing.T) {
	var a ambiguity
	var stale belief
	refused := outcomes(ambiguousPoison(), refs(1, 1))
	require.True(t, a.believe("orders", &stale, refused))
	a.noteAccepted("orders", time.Now())
	require.True(t, a.believe("orders", &belief{}, refused))
	a.disbelieve(&stale)
	believed, _ := a.of("orders", nil, time.Hour)
	require.Equal(t, 1, believed)
}

// Batches end in any order: the last one may have sent before the destination broke.
func TestAmbiguity_LimitEndsWithAnEventThatWasSentLater(t *testing.T) {
	var a ambiguity
	before := time.Now()
	refused := outcomes(ambiguousPoison(), refs(1, ambiguousLimit+1))
	few, other := refused[:ambiguousLimit], refused[ambiguousLimit:]
	require.True(t, a.believe("orders", &belief{}, few))
	require.True(t, a.believe("orders", &belief{}, few), "they count once")
	a.noteAccepted("orders", before)
	require.False(t, a.believe("orders", &belief{}, other))
	a.noteAccepted("other", time.Now())
	require.False(t, a.believe("orders", &belief{}, other))
	a.noteAccepted("orders", time.Now())
	require.True(t, a.believe("orders", &belief{}, few))
}

// kinds has a queue that is of another kind from one request to the next.
func (e *env) kinds(isWrong func(request int) bool) {
	e.publisher.answer = func(n int, _ relay.Event) *relay.PublishError {
		if isWrong(n) {
			return ambiguousPoison()
		}
		return nil
	}
}

func TestAttempt_MakesNoDeadLettersOfAQueueThatChangesItsKindMeanwhile(t *testing.T) {
	e := newEnv(t)
	e.store.fill(300, 1, 2)
	e.kinds(func(n int) bool { return n > 10 })
	e.keepHeartbeats(t)
	_, err := e.publish(t, 1, 2)
	require.ErrorContains(t, err, "accepted other events; the relay sends the refused events once more")
	require.Positive(t, asApplicationError(t, err).NextRetryDelay())
	_, err = e.publish(t, 1, 2)
	require.ErrorContains(t, err, "every event is refused alike")
	require.True(t, asApplicationError(t, err).NonRetryable(), "the recovery has it")
	require.Empty(t, e.store.deadIDs())
	require.Len(t, e.publisher.sent, 100)
}

func TestAttempt_MakesDeadLettersOfManyThatAreRefusedAgain(t *testing.T) {
	e := newEnv(t)
	e.store.fill(400, 1, 2)
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID > 100 && ev.ID <= 300 {
			return ambiguousPoison()
		}
		return nil
	}
	e.keepHeartbeats(t)
	var err error
	for range 4 {
		if _, err = e.publish(t, 1, 2); err == nil {
			break
		}
		require.False(t, asApplicationError(t, err).NonRetryable(), "others are accepted")
	}
	require.NoError(t, err)
	require.Equal(t, ids(101, 200), e.store.deadIDs())
	require.Len(t, e.publisher.sent, 200)
}

func TestRecovery_MakesNoDeadLettersOfAQueueThatIsRepairedMeanwhile(t *testing.T) {
	e := newEnv(t)
	e.store.fill(300, 1, 2)
	e.kinds(func(n int) bool { return n <= 20 })
	ended := e.recovering(t, 5, 1, 2)
	require.ErrorContains(t, ended[0], "accepted")
	require.NoError(t, ended[len(ended)-1])
	require.Empty(t, e.store.deadIDs())
}

func TestParking_MakesDeadLettersOfRefusedEventsAndPublishesTheRest(t *testing.T) {
	e := newEnv(t)
	e.store.fill(40, 1)
	r := request(1)
	r.Recovering, r.Park = true, true
	e.publisher.answer = refusing(&relay.PublishError{Code: "AccessDenied", Class: relay.ClassDestination}, 1, 2, 40)
	e.publisher.before = func(_ context.Context, _ int, r relay.PublishRequest) { require.True(t, r.Isolate) }
	result, err := e.publishAs(t, r)
	require.NoError(t, err)
	require.Equal(t, 37, result.Published)
	require.Equal(t, []int64{1, 2, 40}, e.store.deadIDs())
	require.Nil(t, e.store.released, "its lanes are kept for what was held back")
	e.publisher.answer = nil
	result, err = e.publishAs(t, r)
	require.NoError(t, err)
	require.Zero(t, result.Dead)
	require.Equal(t, []int16{1}, e.store.releasedLanes())
}

func TestAttempt_BelievesAmbiguousRefusalsOnlyWhileOthersGetThrough(t *testing.T) {
	ambiguous := poison("InvalidParameterValue")
	ambiguous.Ambiguous = true

	e := newEnv(t)
	e.store.fill(10, 1)
	e.publisher.answer = refusing(ambiguous, 1, 2, 3, 4, 5)
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 5, r.Dead)

	e = newEnv(t)
	e.store.fill(10, 1)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguous }
	_, err = e.publish(t, 1)
	require.True(t, asApplicationError(t, err).NonRetryable())
	require.Contains(t, err.Error(), "every event is refused alike")
	require.Empty(t, e.store.dead)
	require.Len(t, e.store.pauses, 1)
}

func TestAttempt_LetsNoTrickleOfAmbiguousRefusalsBecomeDeadLetters(t *testing.T) {
	e := newEnv(t)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguousPoison() }
	final := 0
	for n := range 5 {
		e.store.fill(1, 1)
		e.store.pending[0].ID = int64(n + 1)
		if _, err := e.publish(t, 1); err != nil {
			final++
			e.store.pending = nil
		}
	}
	require.Len(t, e.store.dead, ambiguousLimit)
	require.Equal(t, 5-ambiguousLimit, final)
}

func TestThrottling_StopsSendingAndComesBackLaterWithFewerRequests(t *testing.T) {
	e := newEnv(t)
	e.store.fill(200, 1)
	e.publisher.answer = func(n int, ev relay.Event) *relay.PublishError {
		if n == 3 && ev.ID%2 == 0 {
			return &relay.PublishError{Code: "ThrottlingException", Class: relay.ClassRetry, Throttled: true}
		}
		return nil
	}
	_, err := e.publish(t, 1)
	failure := asApplicationError(t, err)
	require.Equal(t, 3, e.publisher.requests)
	require.GreaterOrEqual(t, failure.NextRetryDelay(), throttleBackoff/2)
	require.LessOrEqual(t, failure.NextRetryDelay(), throttleBackoff)

	for throttled, concurrency := range map[int]int{0: 8, 1: 4, 3: 1, 60: 1} {
		e = newEnv(t)
		e.store.fill(1, 1)
		e.SetHeartbeatDetails(checkpoint{Throttled: throttled})
		e.publisher.before = func(_ context.Context, _ int, r relay.PublishRequest) { require.Equal(t, concurrency, r.Concurrency) }
		r := request(1)
		r.Concurrency = 8
		result, err := e.publishAs(t, r)
		require.NoError(t, err)
		require.Equal(t, throttled, result.Throttled, "the run is told")

		e = newEnv(t)
		e.store.fill(1, 1)
		e.SetHeartbeatDetails(checkpoint{Throttled: throttled})
		e.publisher.before = func(_ context.Context, _ int, r relay.PublishRequest) {
			require.Zero(t, r.Concurrency, "the limiter has lowered its level")
		}
		r.FindLevel = true
		_, err = e.publishAs(t, r)
		require.NoError(t, err)
	}
}

func TestMaxPerSecond_AllowsOneBatchAndPacesIt(t *testing.T) {
	store := &store{}
	a, err := New(Config{Store: store, Publisher: &publisher{}, Topics: map[string]TopicPolicy{"slow": {MaxPerSecond: 20}}})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"slow": 1, "throttled": 2}, a.shares(map[string]int{"slow": 3, "throttled": 2}))
	require.Nil(t, a.pace("orders"))
	pace := a.pace("slow")
	before := time.Now()
	require.Zero(t, pace(10))
	after := time.Now()
	for range 100 { // batches that are stopped before their time use nothing up
		asked := time.Now()
		wait := pace(10)
		require.LessOrEqual(t, wait, max(0, 500*time.Millisecond-asked.Sub(after)))
		require.GreaterOrEqual(t, wait, 500*time.Millisecond-time.Since(before))
	}
}

func TestTenure_IsRenewedAfterAStallBeforeAnythingIsSent(t *testing.T) {
	clock := timing.Clock{}
	x := newTenure(clock, time.Minute, clock.Now())
	require.Greater(t, time.Until(x.deadline()), 50*time.Second)
	at := clock.Now()
	at.Monotonic -= timing.StallLimit + time.Second
	x.aliveAt(at)
	require.Negative(t, time.Until(x.deadline()), "it may have been replaced while it stood still")
	require.True(t, x.stalled())
	x.alive()
	require.Positive(t, time.Until(x.deadline()))
}

func TestFailure_SaysInItsDetailsHowManyEventsGotThrough(t *testing.T) {
	e := newEnv(t)
	e.store.fill(20, 1)
	e.publisher.answer = func(n int, _ relay.Event) *relay.PublishError {
		if n == 2 {
			return &relay.PublishError{Code: "NotFound", Class: relay.ClassDestination, Whole: true, Message: strings.Repeat("x", 3)}
		}
		return nil
	}
	_, err := e.publish(t, 1)
	var r PublishResult
	require.NoError(t, asApplicationError(t, err).Details(&r))
	require.Equal(t, PublishResult{Published: 10, Requests: 2, Destination: "SQS queue orders-queue"}, r)
}

// A lane with few events is read far ahead of a lane with many.
func TestAttempt_MakesNoDeadLettersOfEventsBelowAProvedOne(t *testing.T) {
	e := newEnv(t)
	e.store.fill(650, 2)
	for i := range e.store.pending[600:] {
		e.store.pending[600+i].Lane = 1
	}
	e.publisher.answer = func(n int, ev relay.Event) *relay.PublishError {
		if n > 30 || ev.ID > 600 && ev.ID <= 610 { // the queue breaks
			return ambiguousPoison()
		}
		return nil
	}
	e.keepHeartbeats(t)
	for range 5 {
		_, err := e.publish(t, 1, 2)
		if err == nil || asApplicationError(t, err).NonRetryable() {
			break
		}
	}
	require.NotEmpty(t, e.publisher.sent)
	require.Equal(t, ids(601, 10), e.store.deadIDs(), "the others were refused only since the queue broke")
}

// Each request has left before the first answer, in each attempt.
func TestAttempt_MakesDeadLettersThoughAllRequestsLeaveAtOnce(t *testing.T) {
	e := newEnv(t)
	e.store.fill(30, 1)
	e.keepHeartbeats(t)
	e.publisher.atOnce = true
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID <= 30 {
			return ambiguousPoison()
		}
		return nil
	}
	for i := range 8 {
		e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(100 + i), Lane: 1}, EventID: "e", Payload: "x"})
		if _, err := e.publish(t, 1); err == nil {
			break
		}
	}
	require.Equal(t, ids(1, 30), e.store.deadIDs())
}

// lostAnswers is a store whose first dead letters are committed, and the answer to the commit is lost.
type lostAnswers struct {
	*store
	left int
}

func (s *lostAnswers) DeadLetter(ctx context.Context, l relay.Lease, by string, dead []relay.Outcome) error {
	if err := s.store.DeadLetter(ctx, l, by, dead); err != nil || s.left == 0 {
		return err
	}
	s.left--
	return errAway
}

// Whether dead letters whose commit got no answer exist is not known, so the refusals stay believed.
func TestAttempt_BelievesNoMoreRefusalsAfterACommitWithoutAnAnswer(t *testing.T) {
	e := newEnv(t)
	e.batches = &lostAnswers{store: e.store, left: 3}
	// The queue is of another kind.
	e.publisher.answer = func(int, relay.Event) *relay.PublishError { return ambiguousPoison() }
	for n := range 4 { // a trickle
		e.store.fill(2, 1)
		for i := range e.store.pending {
			e.store.pending[i].ID = int64(10*n + i + 1)
		}
		_, err := e.publish(t, 1)
		require.Error(t, err)
	}
	require.NotEmpty(t, e.store.dead)
	require.LessOrEqual(t, len(e.store.dead), ambiguousLimit)
}
