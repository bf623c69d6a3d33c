package activities

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// parkingUpTo is a request of a recovery that parks, up to a bound.
func parkingUpTo(upTo int64) PublishRequest {
	r := request(1)
	r.Recovering, r.Park, r.ParkUpTo = true, true, upTo
	return r
}

func denied(int, relay.Event) *relay.PublishError {
	return &relay.PublishError{Code: "AccessDenied", Class: relay.ClassDestination, Whole: true}
}

func TestParking_KnowsItsBoundBeforeItGivesAnEventUp(t *testing.T) {
	e := newEnv(t)
	e.store.fill(40, 1, 2)
	e.publisher.answer = denied
	r := parkingUpTo(0)
	r.Bound = true
	result, err := e.publishAs(t, r)
	require.NoError(t, err)
	require.Equal(t, PublishResult{ParkUpTo: 39, More: true}, result, "the highest id in its own lane")
	require.Zero(t, e.publisher.requests)
	require.Empty(t, e.store.dead)
	require.Equal(t, []string{"orders by outbox-recovery/orders"}, e.store.pauses)
	require.Equal(t, [][]int16{{1}}, e.store.renewed, "its lanes are kept")
	require.Nil(t, e.store.released)

	e.store.highestErr = errAway
	_, err = e.publishAs(t, r)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeDatabase, failure.Type())
	require.False(t, failure.NonRetryable())
	require.Empty(t, e.store.dead)
}

func TestParking_IsOverAtOnceWhereNoEventIsPending(t *testing.T) {
	e := newEnv(t)
	r := parkingUpTo(0)
	r.Bound = true
	result, err := e.publishAs(t, r)
	require.NoError(t, err)
	require.Equal(t, PublishResult{}, result)
	require.Equal(t, []int16{1}, e.store.releasedLanes())
}

// What is written meanwhile has higher ids; what commits late may have lower ones.
func TestParking_StopsAtItsBoundAndEndsWithAnEmptyRound(t *testing.T) {
	e := newEnv(t)
	e.store.fill(40, 1)
	e.publisher.answer = denied
	late := e.store.pending[6]
	e.store.pending = append(e.store.pending[:6:6], e.store.pending[7:]...)

	result, err := e.publishAs(t, parkingUpTo(30))
	require.NoError(t, err)
	require.True(t, result.More)
	require.EqualValues(t, 30, result.ParkUpTo)
	require.Equal(t, 29, result.Dead)
	require.Nil(t, e.store.released, "its lanes are kept for what was held back")

	e.store.pending = append([]relay.Event{late}, e.store.pending...)
	result, err = e.publishAs(t, parkingUpTo(30))
	require.NoError(t, err)
	require.Equal(t, 1, result.Dead)
	require.True(t, result.More)

	result, err = e.publishAs(t, parkingUpTo(30))
	require.NoError(t, err)
	require.False(t, result.More)
	require.Zero(t, result.Dead)
	require.Equal(t, []int16{1}, e.store.releasedLanes())
	ids := e.store.deadIDs()
	require.Len(t, ids, 30)
	require.EqualValues(t, 30, ids[29])
	require.Len(t, e.store.pending, 10)
}

func TestParking_TakesManyPagesInARoundWhileNoEventIsRefused(t *testing.T) {
	e := newEnv(t)
	e.store.fill(3*relay.PageEvents, 1)
	result, err := e.publishAs(t, parkingUpTo(2*relay.PageEvents+1))
	require.NoError(t, err)
	require.Equal(t, 2*relay.PageEvents+1, result.Published)
	require.True(t, result.More, "what commits late is in the next round")
}
