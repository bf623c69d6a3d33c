package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

func asApplicationError(t *testing.T, err error) *temporal.ApplicationError {
	t.Helper()
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	return failure
}

func TestAttempt_PublishesItsLanesPageAfterPage(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3000, 1, 2, 3)
	r, err := e.publish(t, 1, 2, 3)
	require.NoError(t, err)
	require.Equal(t, 3000, r.Published)
	require.Empty(t, e.store.pending)
	require.Len(t, e.store.settled, 3000)
	require.Equal(t, []int16{1, 2, 3}, e.store.releasedLanes())
	require.Equal(t, map[int16]int64{1: 2999, 2: 3000, 3: 3001}, e.store.released, "the low watermarks are behind the settled events")
}

func TestAttempt_HasAPageOfUnsettledEventsAtMost(t *testing.T) {
	e := newEnv(t)
	e.store.fill(2000, 1)
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 2000, r.Published)
	require.LessOrEqual(t, e.store.open+loadEvents, relay.PageEvents)
}

func TestAttempt_LoadsLargePayloadsFewAtATime(t *testing.T) {
	e := newEnv(t)
	e.cfg.PollEvery = time.Millisecond
	for i := range 40 {
		e.store.pending = append(e.store.pending, relay.Event{
			Ref: relay.Ref{ID: int64(i + 1), Lane: int16(i % 16)}, EventID: "e", Payload: strings.Repeat("x", 1<<20),
		})
	}
	lanes := make([]int16, 16)
	for i := range lanes {
		lanes[i] = int16(i)
	}
	blocked := make(chan struct{})
	e.publisher.before = func(_ context.Context, n int, _ relay.PublishRequest) {
		if n == 1 {
			go func() { time.Sleep(100 * time.Millisecond); close(blocked) }() // so long nothing may be loaded
			<-blocked
			e.store.mu.Lock()
			defer e.store.mu.Unlock()
			if e.store.loads != 1 {
				t.Errorf("%d loads while 40 MiB are open", e.store.loads)
			}
			if e.store.filled > DefaultPayloadBudget/payloadCopies {
				t.Errorf("%d bytes are in memory", e.store.filled)
			}
		}
	}
	r, err := e.publish(t, lanes...)
	require.NoError(t, err)
	require.Equal(t, 40, r.Published)
}

func TestAttempt_StaysOnItsLanesForEventsThatComeNext(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3, 1)
	came := 3
	e.publisher.before = func(context.Context, int, relay.PublishRequest) {
		if came < 50 { // a producer that writes one event each time one is published
			came++
			e.store.mu.Lock()
			defer e.store.mu.Unlock()
			e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(came), Lane: 1}, EventID: "e", Payload: "x"})
		}
	}
	v, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{
		Batch: relay.Batch{Topic: "orders", Lanes: []int16{1}}, For: 5 * time.Second, Stay: 100 * time.Millisecond,
	})
	require.NoError(t, err)
	var r PublishResult
	require.NoError(t, v.Get(&r))
	require.Equal(t, 50, r.Published)
	require.Equal(t, map[int16]int64{1: 51}, e.store.released)
}

func TestAttempt_GivesItsLanesToAnOperationWhileEventsGoOnComing(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3, 1)
	came := 3
	e.publisher.before = func(context.Context, int, relay.PublishRequest) {
		came++
		e.store.mu.Lock()
		defer e.store.mu.Unlock()
		e.store.pending = append(e.store.pending, relay.Event{Ref: relay.Ref{ID: int64(came), Lane: 1}, EventID: "e", Payload: "x"})
	}
	e.store.reserved = func(published int) bool { return published >= 20 }
	began := time.Now()
	_, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{
		Batch: relay.Batch{Topic: "orders", Lanes: []int16{1}}, For: 30 * time.Second, Stay: 10 * time.Second,
	})
	require.NoError(t, err)
	require.Less(t, time.Since(began), 10*time.Second, "it does not wait for its end")
	require.Contains(t, e.store.released, int16(1))
}

func TestAttempt_SendsAnEventThatCommitsLateBeforeLaterOnesOfItsKey(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3*loadEvents, 1)
	late := e.store.pending[0] // its transaction is open when the first page is loaded
	after := relay.Event{Ref: relay.Ref{ID: 9999, Lane: 1}, EventID: "e", Payload: "x"}
	e.store.pending = e.store.pending[1:]
	e.publisher.before = func(_ context.Context, n int, _ relay.PublishRequest) {
		if n == 1 {
			e.store.mu.Lock()
			defer e.store.mu.Unlock()
			e.store.pending = append([]relay.Event{late}, append(e.store.pending, after)...)
		}
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Less(t, slices.Index(e.publisher.sent, late.Ref), slices.Index(e.publisher.sent, after.Ref))
	require.Contains(t, e.publisher.sent, late.Ref)
}

func TestAttempt_PublishesTheOthersWhenOneEventIsRefused(t *testing.T) {
	e := newEnv(t)
	e.store.fill(250, 1)
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.ID <= 10 { // a whole request's worth, each for itself
			return &relay.PublishError{Code: "InternalError", Message: "try again"}
		}
		return nil
	}
	_, err := e.publish(t, 1)
	require.Equal(t, "orders → SQS queue orders-queue: 10 of 250 left: InternalError: try again", asApplicationError(t, err).Message())
	require.Len(t, e.store.settled, 240)
}

func TestAttempt_SendsOnlyALittleLongerThanItLoads(t *testing.T) {
	e := newEnv(t)
	e.store.fill(250, 1)
	e.publisher.before = func(context.Context, int, relay.PublishRequest) { time.Sleep(300 * time.Millisecond) } // a slow destination
	began := time.Now()
	v, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{Batch: relay.Batch{Topic: "orders", Lanes: []int16{1}}})
	require.NoError(t, err)
	var r PublishResult
	require.NoError(t, v.Get(&r))
	require.Less(t, r.Published, 100)
	require.Less(t, time.Since(began), 7*time.Second, "all of it takes 7.5 s")
	require.Equal(t, map[int16]int64{1: int64(r.Published + 1)}, e.store.released, "what was not sent is for the next claim")
}

func TestAttempt_EndsWhenItsTimeIsOverThoughItsLanesHoldMore(t *testing.T) {
	e := newEnv(t)
	e.store.fill(5000, 1)
	v, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{Batch: relay.Batch{Topic: "orders", Lanes: []int16{1}}, For: 0})
	require.NoError(t, err)
	var r PublishResult
	require.NoError(t, v.Get(&r))
	require.Equal(t, loadEvents, r.Published, "one load")
	require.Equal(t, []int16{1}, e.store.releasedLanes())
}

func TestAttempt_KeepsTheLanesOfRefusedEventsAndReleasesTheOthers(t *testing.T) {
	e := newEnv(t)
	e.store.fill(30, 1, 2, 3)
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.Lane == 2 && ev.ID > 10 {
			return &relay.PublishError{Code: "InternalError", Message: "try again"}
		}
		return nil
	}
	_, err := e.publish(t, 1, 2, 3)
	failure := asApplicationError(t, err)
	require.Equal(t, "InternalError", failure.Type())
	require.False(t, failure.NonRetryable())
	require.Equal(t, "orders → SQS queue orders-queue: 7 of 30 left: InternalError: try again", failure.Message())
	require.Equal(t, []int16{1, 3}, e.store.releasedLanes())
	require.Equal(t, [][]int16{{2}}, e.store.renewed, "past the next attempt")
	require.Len(t, e.store.settled, 23)
}

func TestAttempt_SendsNoMoreWhenAWholeRequestIsRefused(t *testing.T) {
	e := newEnv(t)
	e.store.fill(200, 1)
	e.publisher.answer = func(n int, _ relay.Event) *relay.PublishError {
		if n > 2 {
			return &relay.PublishError{Code: "NotFound", Message: "no such topic", Whole: true}
		}
		return nil
	}
	_, err := e.publish(t, 1)
	require.Equal(t, "orders → SQS queue orders-queue: 180 of 200 left: NotFound: no such topic", asApplicationError(t, err).Message())
	require.Equal(t, 3, e.publisher.requests)
}

func TestPublishBatch_PublishesNothingOfALostClaim(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3, 1)
	e.store.takeOverIs = fmt.Errorf("take over: %w", relay.ErrClaimLost)
	_, err := e.publish(t, 1)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeClaimLost, failure.Type())
	require.True(t, failure.NonRetryable())
	require.Zero(t, e.publisher.requests)
}

func TestPublishBatch_ReleasesTheLanesOfAPausedTopicAndSendsNothing(t *testing.T) {
	for _, recovering := range []bool{false, true} {
		e := newEnv(t)
		e.store.fill(30, 1, 2)
		e.store.pausedBy = "ada"
		batch := request(1, 2)
		batch.Recovering, batch.RecoveryID = recovering, "r"
		r, err := e.publishAs(t, batch)
		require.NoError(t, err)
		require.Equal(t, PublishResult{PausedBy: "ada"}, r)
		require.Len(t, e.store.pending, 30)
		require.Zero(t, e.publisher.requests)
		require.Equal(t, map[int16]int64{1: 0, 2: 0}, e.store.released, "the low watermarks stay")
		require.Empty(t, e.store.pauses, "its recovery's own pause is not renewed")
	}
}

func TestAttempt_StopsWhenItHasLostALaneAndReleasesTheOthers(t *testing.T) {
	e := newEnv(t)
	e.cfg.Lease = 2 * time.Second // so that it renews at the first tick
	e.store.fill(500, 1)
	e.store.renewErr = relay.ErrClaimLost
	e.publisher.before = func(ctx context.Context, n int, _ relay.PublishRequest) {
		if n == 3 {
			<-ctx.Done() // until the renewal has told it
		}
	}
	_, err := e.publish(t, 1)
	require.Equal(t, TypeClaimLost, asApplicationError(t, err).Type())
	require.LessOrEqual(t, e.publisher.requests, 3)
}

func TestTenure_EndsAMarginBeforeTheLease(t *testing.T) {
	e := newEnv(t)
	e.store.fill(1, 1)
	began := time.Now()
	e.publisher.before = func(_ context.Context, _ int, r relay.PublishRequest) {
		require.WithinDuration(t, began.Add(timing.Lease-timing.LeaseMargin), r.Deadline(), 2*time.Second)
		require.False(t, r.Deadline().After(time.Now().Add(timing.Lease-timing.LeaseMargin)))
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
}

func TestAttempt_EndsBetweenRequestsWhenItsWorkerStops(t *testing.T) {
	e := newEnv(t)
	e.store.fill(400, 1, 2)
	stop := make(chan struct{})
	e.SetWorkerStopChannel(stop)
	e.publisher.before = func(ctx context.Context, n int, _ relay.PublishRequest) {
		if n == 5 {
			close(stop)
			<-ctx.Done()
		}
	}
	r, err := e.publish(t, 1, 2)
	require.NoError(t, err, "what was sent is done, and the rest is for the next claim")
	require.Equal(t, 50, r.Published, "the request under way is waited for")
	require.Len(t, e.store.settled, 50)
	require.Equal(t, []int16{1, 2}, e.store.releasedLanes())
	for _, ev := range e.store.pending {
		require.GreaterOrEqual(t, ev.ID, e.store.released[ev.Lane], "no pending event is below the low watermark")
	}
}

func TestHeartbeat_HandsUnsettledAcknowledgementsToTheNextAttempt(t *testing.T) {
	e := newEnv(t)
	e.store.fill(10, 1)
	e.store.settleErr = func() error { return errAway }
	_, err := e.publish(t, 1)
	require.Equal(t, TypeDatabase, asApplicationError(t, err).Type())
	require.Nil(t, e.store.released, "the claim is kept")

	next := newEnv(t)
	next.store.pending = e.store.pending
	var refs []relay.Ref
	for _, ev := range e.store.pending {
		refs = append(refs, ev.Ref)
	}
	next.SetHeartbeatDetails(checkpoint{Published: 10, Unsettled: refs})
	r, err := next.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 10, r.Published, "over all attempts")
	require.Zero(t, next.publisher.requests, "nothing is sent again")
	require.Len(t, next.store.settled, 10)
}

// A seat's heartbeat has no acknowledgements: see TestSummary_SaysWhatAPersonNeeds.
func TestHeartbeat_OfAPageOfAcknowledgementsHas64KiBAtMost(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.store.fill(4*relay.PageEvents, 14, 15)
	for i := range e.store.pending {
		ref := &e.store.pending[i].Ref
		ref.ID, ref.Replay, ref.At = math.MaxInt64-int64(len(e.store.pending)-i), math.MaxInt64, time.Now().UnixMicro()
	}
	e.store.settleErr = func() error { return errAway }
	before := checkpoint{Open: make([]int64, passedMost), Evidence: &e.store.pending[0].Ref}
	for i := range before.Open {
		before.Open[i] = math.MaxInt64
	}
	e.SetHeartbeatDetails(before)
	unsettled, size := 0, 0
	e.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var last checkpoint
		require.NoError(t, details.Get(&last))
		text, err := json.Marshal(last)
		require.NoError(t, err)
		unsettled, size = max(unsettled, len(last.Unsettled)), max(size, len(text))
		require.Len(t, last.Open, passedMost)
	})
	_, err := e.publish(t, 14, 15)
	require.Equal(t, TypeDatabase, asApplicationError(t, err).Type())
	t.Logf("%d acknowledgements have %d bytes", unsettled, size)
	require.Greater(t, unsettled, relay.PageEvents/2)
	require.LessOrEqual(t, unsettled, relay.PageEvents)
	require.LessOrEqual(t, size, 64<<10)
}

func TestFailure_AsksForARetryWithinSecondsWhenTheDatabaseIsAway(t *testing.T) {
	e := newEnv(t)
	e.store.fill(10, 1)
	e.store.loadErr = func(int) error { return errors.New("load events: connection refused") }
	_, err := e.publish(t, 1)
	require.Equal(t, timing.DatabaseRetryPauseFirst, asApplicationError(t, err).NextRetryDelay())
	for attempt, want := range map[int32]time.Duration{2: time.Second, 4: timing.DatabaseRetryPauseMost, 5: timing.DatabaseRetryPauseMost, 1 << 30: timing.DatabaseRetryPauseMost} {
		require.Equal(t, want, databaseDelay(attempt))
	}
}

func TestSettler_OutlastsADatabaseThatFailsForAMoment(t *testing.T) {
	e := newEnv(t)
	e.store.fill(10, 1)
	failures := 3
	e.store.settleErr = func() error {
		if failures > 0 {
			failures--
			return errAway
		}
		return nil
	}
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 10, r.Published)
}

func TestAttempt_KeepsItsClaimWhenALoadFails(t *testing.T) {
	e := newEnv(t)
	e.store.fill(1000, 1)
	e.store.loadErr = func(n int) error {
		if n == 2 {
			return errAway
		}
		return nil
	}
	_, err := e.publish(t, 1)
	require.Equal(t, TypeDatabase, asApplicationError(t, err).Type())
	require.Len(t, e.store.settled, loadEvents, "what was loaded before is published and settled")
	require.Nil(t, e.store.released)
}

func TestFailure_IsShortAndHoldsNoPayload(t *testing.T) {
	e := newEnv(t)
	e.store.fill(5, 1)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError {
		return &relay.PublishError{Code: "InvalidParameter", Message: strings.Repeat("läng ", 2000)}
	}
	for topic := range 6 { // wherever the end cuts a character
		r := request(1)
		r.Batch.Topic += strings.Repeat("s", topic)
		_, err := e.publishAs(t, r)
		message := asApplicationError(t, err).Message()
		require.Less(t, len(message), 1024)
		require.Contains(t, message, " → SQS queue orders")
		require.True(t, utf8.ValidString(message), "Temporal refuses it")
		require.NotContains(t, message, "secret payload")
	}
}

func TestFailure_OfAStoppedAttemptNamesItsDestination(t *testing.T) {
	e := newEnv(t)
	e.store.fill(5, 1)
	e.publisher.err = relay.ErrStopped
	r := request(1)
	r.Recovering = true
	_, err := e.publishAs(t, r)
	require.Equal(t, "orders → SQS queue orders-queue: stopped before anything was sent", asApplicationError(t, err).Message())
}

func TestFailure_LeavesErrorsOfTemporalAsTheyAre(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, failure(ctx, fmt.Errorf("load: %w", ctx.Err()), nil), context.Canceled)
	require.NoError(t, failure(ctx, nil, nil))
	var app *temporal.ApplicationError
	require.ErrorAs(t, failure(t.Context(), errors.New("x"), nil), &app)
}

func TestLoader_RaisesALowWatermarkOnceItsRoundHasEndedAndAPageWasRead(t *testing.T) {
	store := &store{}
	a := &Activities{cfg: Config{Publisher: &publisher{}}, batches: store, budget: newBudget(DefaultPayloadBudget)}
	attempt := a.newAttempt(PublishRequest{Batch: relay.Batch{Topic: "orders"}}, relay.Lease{Topic: "orders", LowID: map[int16]int64{1: 1}}, timing.Reading{}, checkpoint{})
	l := attempt.newLoader(nil, time.Now())
	low, read := l.lease.LowID, &attempt.flight.topics["orders"].read
	beyond := map[int16]int64{1: 1000}
	raise := func(before extent, page relay.Page, first map[int16]int64) extent {
		t.Helper()
		l.before = before
		require.NoError(t, l.raise(t.Context(), page, first))
		return l.before
	}
	read.Loaded(relay.Ref{ID: 99, Lane: 1, At: 7})
	noted := raise(extent{}, relay.Page{Round: 5, Ended: 4}, beyond)
	require.Equal(t, int64(1), low[1])

	read.Loaded(relay.Ref{ID: 199, Lane: 1, At: 8})
	require.Equal(t, noted, raise(noted, relay.Page{Round: 6, Ended: 4}, beyond))
	require.Equal(t, int64(1), low[1], "a writer of its round still writes")
	again := raise(noted, relay.Page{Round: 6, Ended: 5, More: true}, nil)
	require.Equal(t, int64(1), low[1], "the page says nothing of this lane")
	require.Equal(t, extent{relay.Read{Next: map[int16]int64{1: 200}, Last: relay.Ref{ID: 199, Lane: 1, At: 8}}, 6}, again)
	store.replaced = true
	raise(noted, relay.Page{Round: 6, Ended: 5}, beyond)
	require.Equal(t, int64(1), low[1], "the database gives these ids again")
	store.replaced = false
	raise(noted, relay.Page{Round: 6, Ended: 5}, map[int16]int64{1: 42})
	require.Equal(t, int64(42), low[1], "an event that came late is not skipped")
	raise(noted, relay.Page{Round: 6, Ended: 5}, beyond)
	require.Equal(t, int64(100), low[1], "as far as had been read then, not now")
}

func TestPublishBatch_SettlesNothingOfAHeartbeatWithoutTimes(t *testing.T) {
	e := newEnv(t)
	e.store.fill(4, 1)
	e.SetHeartbeatDetails(map[string]any{"published": 2, "unsettled": []map[string]any{{"id": 1, "lane": 1}, {"id": 2, "lane": 1, "at": 1001}}})
	_, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, int64(2), e.store.settled[0].ID, "the other id may be another event's now")
	require.Len(t, e.publisher.sent, 3)
}

func TestPublishBatch_StopsWhenItsLeaseIsGoneFromTheDatabase(t *testing.T) {
	e := newEnv(t)
	e.store.fill(4, 1)
	e.store.loadErr = func(int) error { return relay.ErrClaimLost }
	_, err := e.publish(t, 1)
	require.Equal(t, TypeClaimLost, asApplicationError(t, err).Type())
	require.Empty(t, e.publisher.sent)
}
