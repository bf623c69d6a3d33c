package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
)

func asApplicationError(t *testing.T, err error) *temporal.ApplicationError {
	t.Helper()
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	return failure
}

func TestABatchPublishesAllThatItsLanesHoldPageAfterPage(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3000, 1, 2, 3)
	r, err := e.publish(t, 1, 2, 3)
	require.NoError(t, err)
	require.Equal(t, 3000, r.Published)
	require.Empty(t, e.store.pending)
	require.Len(t, e.store.settled, 3000)
	require.Equal(t, []int16{1, 2, 3}, e.store.releasedLanes())
	require.Equal(t, map[int16]int64{1: 2999, 2: 3000, 3: 3001}, e.store.released, "the marks are behind what was settled")
}

func TestNoMoreThanAPageIsLoadedAndUnsettled(t *testing.T) {
	e := newEnv(t)
	e.store.fill(2000, 1)
	e.publisher.before = func(context.Context, int, relay.PublishRequest) {
		e.store.mu.Lock()
		defer e.store.mu.Unlock()
		if open := e.store.loads*loadEvents - len(e.store.settled); open > relay.PageEvents {
			t.Errorf("%d events are loaded and not settled", open)
		}
	}
	r, err := e.publish(t, 1)
	require.NoError(t, err)
	require.Equal(t, 2000, r.Published)
}

func TestABatchEndsWhenItsTimeIsOverEvenIfItsLanesHoldMore(t *testing.T) {
	e := newEnv(t)
	e.store.fill(5000, 1)
	v, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{Batch: relay.Batch{Topic: "orders", Lanes: []int16{1}}, For: 0})
	require.NoError(t, err)
	var r PublishResult
	require.NoError(t, v.Get(&r))
	require.Equal(t, loadEvents, r.Published, "one load")
	require.Equal(t, []int16{1}, e.store.releasedLanes())
}

func TestRefusedEventsKeepTheirLanesAndTheOthersAreReleased(t *testing.T) {
	e := newEnv(t)
	e.store.fill(30, 1, 2, 3)
	e.publisher.answer = func(_ int, ev relay.Event) *relay.PublishError {
		if ev.Lane == 2 && ev.ID > 10 {
			return &relay.PublishError{Code: "Throttled", Message: "slow down"}
		}
		return nil
	}
	_, err := e.publish(t, 1, 2, 3)
	failure := asApplicationError(t, err)
	require.Equal(t, "Throttled", failure.Type())
	require.False(t, failure.NonRetryable())
	require.Equal(t, "orders: 7 of 30 left: Throttled: slow down", failure.Message())
	require.Equal(t, []int16{1, 3}, e.store.releasedLanes())
	require.Equal(t, [][]int16{{2}}, e.store.renewed, "past the next attempt")
	require.Len(t, e.store.settled, 23)
}

func TestWhenAWholeRequestIsRefusedTheRestIsNotSent(t *testing.T) {
	e := newEnv(t)
	e.store.fill(200, 1)
	e.publisher.answer = func(n int, _ relay.Event) *relay.PublishError {
		if n > 2 {
			return &relay.PublishError{Code: "NotFound", Message: "no such topic"}
		}
		return nil
	}
	_, err := e.publish(t, 1)
	require.Equal(t, "orders: 180 of 200 left: NotFound: no such topic", asApplicationError(t, err).Message())
	require.Equal(t, 3, e.publisher.requests)
}

func TestAnEventThatIsGoneIsAFailureThatCanBeSeen(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3, 1)
	e.store.pending[1].EventID = ""
	_, err := e.publish(t, 1)
	require.Equal(t, relay.CodeEventMissing, asApplicationError(t, err).Type())
	require.Len(t, e.publisher.sent, 2, "it is not sent, and the others are")
}

func TestAClaimInOtherHandsIsNotRetriedAndPublishesNothing(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3, 1)
	e.store.takeOverIs = fmt.Errorf("take over: %w", relay.ErrClaimLost)
	_, err := e.publish(t, 1)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeClaimLost, failure.Type())
	require.True(t, failure.NonRetryable())
	require.Zero(t, e.publisher.requests)
}

func TestAnAttemptWhoseLeaseIsInOtherHandsStopsAndReleasesNothing(t *testing.T) {
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
	require.Nil(t, e.store.released)
	require.LessOrEqual(t, e.publisher.requests, 3)
}

func TestTheDeadlineOfRequestsIsTheLeasesEndLessAMargin(t *testing.T) {
	e := newEnv(t)
	e.store.fill(1, 1)
	began := time.Now()
	e.publisher.before = func(_ context.Context, _ int, r relay.PublishRequest) {
		require.WithinDuration(t, began.Add(60*time.Second-leaseMargin), r.Deadline(), 2*time.Second)
		require.False(t, r.Deadline().After(time.Now().Add(60*time.Second-leaseMargin)))
	}
	_, err := e.publish(t, 1)
	require.NoError(t, err)
}

func TestAStoppingWorkerEndsTheBatchBetweenRequestsAndReleasesIt(t *testing.T) {
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
		require.GreaterOrEqual(t, ev.ID, e.store.released[ev.Lane], "nothing pending is below the mark")
	}
}

func TestAcknowledgementsThatCannotBeSettledAreHandedToTheNextAttempt(t *testing.T) {
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

func TestADatabaseThatFailsForAMomentCausesNoNewAttempt(t *testing.T) {
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

func TestALoadThatFailsKeepsTheClaimForTheNextAttempt(t *testing.T) {
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

func TestFailuresAreShortAndHoldNoPayload(t *testing.T) {
	e := newEnv(t)
	e.store.fill(5, 1)
	e.publisher.answer = func(int, relay.Event) *relay.PublishError {
		return &relay.PublishError{Code: "InvalidParameter", Message: strings.Repeat("long ", 2000)}
	}
	_, err := e.publish(t, 1)
	message := asApplicationError(t, err).Message()
	require.Less(t, len(message), 1024)
	require.NotContains(t, message, "secret payload")
}

func TestErrorsOfTemporalItselfStayAsTheyAre(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, failure(ctx, fmt.Errorf("load: %w", ctx.Err())), context.Canceled)
	require.NoError(t, failure(ctx, nil))
	var app *temporal.ApplicationError
	require.ErrorAs(t, failure(t.Context(), errors.New("x")), &app)
}
