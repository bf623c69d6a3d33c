package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// offers is a ShareStore of which only Offer is asked.
type offers struct {
	ShareStore
	mu    sync.Mutex
	seats []int
	err   error
	asked []time.Time
}

func (o *offers) Offer(context.Context) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, time.Now())
	if len(o.seats) > 0 {
		n, o.seats = o.seats[0], o.seats[1:]
	}
	return n, o.err
}

// newSharingEnv is newEnv with a worker that can hold shares.
func newSharingEnv(t *testing.T, o *offers) *env {
	e := newEnv(t)
	e.carrier = newCarrier(e.Activities, carrierConfig{worker: uuid.NewString(), name: t.Name(), shares: o})
	return e
}

func (e *env) takeSeat(lasts time.Duration) (r PublishResult, err error) {
	v, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{Batch: relay.Batch{ClaimID: "c", Shared: true}, For: lasts})
	if err == nil {
		err = v.Get(&r)
	}
	return r, err
}

func TestSeat_EndsAtItsTimeWithWhatItsWorkerPublished(t *testing.T) {
	e := newSharingEnv(t, &offers{})
	e.carried.add("audit", 2)
	e.carried.add("orders", 3)
	e.carried.add("audit", 2)
	began := time.Now()
	r, err := e.takeSeat(60 * time.Millisecond)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
	require.Equal(t, PublishResult{Published: 7, Topics: []TopicCount{{"audit", 4}, {"orders", 3}}}, r)
	r, err = e.takeSeat(0)
	require.NoError(t, err)
	require.Zero(t, r, "each event is told once")
}

func TestSeat_BringsTheMostRequestsThatItsWorkerMayHaveInFlight(t *testing.T) {
	e := newSharingEnv(t, &offers{})
	require.Zero(t, e.carrier.seating.mostRequests(), "the limiter alone decides")
	for _, most := range []int{64, 0} {
		_, err := e.ExecuteActivity(e.PublishBatch, PublishRequest{Batch: relay.Batch{ClaimID: "c", Shared: true}, Concurrency: most})
		require.NoError(t, err)
		require.Equal(t, most, e.carrier.seating.mostRequests())
	}
}

// attendances is a ShareStore that only counts Attend.
type attendances struct {
	ShareStore
	n int
}

func (a *attendances) Attend(context.Context, relay.Attendance) (relay.Shares, error) {
	a.n++
	return relay.Shares{}, errors.New("on purpose")
}

func TestSeat_IsNotAskedForByAWorkerThatGetsNoTasks(t *testing.T) {
	e := newEnv(t)
	var seen attendances
	waits := true
	c := newCarrier(e.Activities, carrierConfig{worker: uuid.NewString(), shares: &seen, waits: func() bool { return waits }})
	c.keep(t.Context())
	require.Zero(t, seen.n)
	end, ok := c.sit(t.Context(), 0)
	require.True(t, ok)
	c.keep(t.Context())
	require.Equal(t, 1, seen.n, "it has one already")
	end()
	c.keep(t.Context())
	require.Equal(t, 2, seen.n, "it may hold shares for a while")
	c.seating.ended = time.Now().Add(-timing.SeatGrace)
	c.keep(t.Context())
	require.Equal(t, 2, seen.n)
	waits = false
	c.keep(t.Context())
	require.Equal(t, 3, seen.n)
}

func TestSeat_ResultNamesTheBusiestTopicsAndCountsTheOthers(t *testing.T) {
	e := newSharingEnv(t, &offers{})
	for i := range 1000 {
		e.carried.add(fmt.Sprintf("topic-%03d-%s", i, time.Duration(i)), i+1)
	}
	r, err := e.takeSeat(0)
	require.NoError(t, err)
	require.Len(t, r.Topics, seatTopics)
	require.Equal(t, 1000, r.Topics[0].Published)
	require.Equal(t, 1000-seatTopics, r.MoreTopics)
	require.Equal(t, 1000*1001/2, r.Published)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Less(t, len(text), 64<<10)
}

func TestSeat_EndsWhenItsWorkerStops(t *testing.T) {
	e := newSharingEnv(t, &offers{})
	stop := make(chan struct{})
	e.SetWorkerStopChannel(stop)
	time.AfterFunc(20*time.Millisecond, func() { close(stop) })
	_, err := e.takeSeat(time.Hour)
	require.NoError(t, err)
}

func TestSeat_GoesToAnotherWorkerIfItsWorkerNeedsNone(t *testing.T) {
	e := newEnv(t) // cannot hold shares
	_, err := e.takeSeat(time.Hour)
	failure := asApplicationError(t, err)
	require.Equal(t, TypeSeated, failure.Type())
	require.False(t, failure.NonRetryable(), "an earlier version would begin a recovery")
	require.Equal(t, timing.SeatPassedOn, failure.NextRetryDelay())
	require.Equal(t, temporal.ApplicationErrorCategoryBenign, failure.Category())
}

func TestSummary_SaysWhatAPersonNeeds(t *testing.T) {
	require.Equal(t, "lanes 0-7 · 212 topics · 1,043 events",
		Summary{Lanes: []int16{0, 1, 2, 3, 4, 5, 6, 7}, Topics: 212, Published: 1043}.String())
	require.Equal(t, "lane 3 · 1 topic · 1 event", Summary{Lanes: []int16{3}, Topics: 1, Published: 1}.String())
	require.Equal(t, "no lanes yet · 0 topics · 0 events", Summary{}.String())
}

func TestClaimBatches_AnswersWithASeatForEachWorkerThatNeedsOne(t *testing.T) {
	o := &offers{seats: []int{2}}
	e := newSharingEnv(t, o)
	r, err := e.claim(t, time.Hour)
	require.NoError(t, err)
	require.Len(t, r.Batches, 2)
	require.NotEqual(t, r.Batches[0].ClaimID, r.Batches[1].ClaimID)
	for _, b := range r.Batches {
		require.NoError(t, uuid.Validate(b.ClaimID))
		require.Equal(t, relay.Batch{ClaimID: b.ClaimID, Lanes: []int16{}, Shared: true}, b)
	}
	require.Equal(t, 1, e.store.claims, "it claims all the same")
}

func TestClaimBatches_LeavesASlotToBatchesWhenItOffersSeats(t *testing.T) {
	e := newSharingEnv(t, &offers{seats: []int{20}})
	e.store.claim = func(int) ([]relay.Batch, error) { return someBatches, nil }
	r, err := e.claim(t, time.Hour) // of 4
	require.NoError(t, err)
	require.Len(t, r.Batches, 1+3)
	require.Equal(t, someBatches[0], r.Batches[0])
}

func TestClaimBatches_LooksForWorkersWithoutASeatTwiceASecond(t *testing.T) {
	o := &offers{}
	e := newSharingEnv(t, o)
	began := time.Now()
	for time.Since(began) < 1200*time.Millisecond {
		_, err := e.claim(t, 100*time.Millisecond)
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, len(o.asked), 2)
	for i := 1; i < len(o.asked); i++ {
		require.GreaterOrEqual(t, o.asked[i].Sub(o.asked[i-1]), timing.ShareEvery)
	}
}

func TestClaimBatches_FailsForTemporalToRetryWhenItCannotOffer(t *testing.T) {
	e := newSharingEnv(t, &offers{err: errors.New("away")})
	_, err := e.claim(t, time.Hour)
	require.Equal(t, TypeDatabase, asApplicationError(t, err).Type())
}

func TestClaimBatches_TellsWhatItsWorkerPublishedInItsShares(t *testing.T) {
	e := newSharingEnv(t, &offers{})
	for i := range sampleMost + 5 {
		e.carried.add(fmt.Sprint("topic-", i), 100+i)
	}
	r, err := e.claim(t, 0)
	require.NoError(t, err)
	require.Len(t, r.Published, sampleMost)
	require.Equal(t, TopicCount{fmt.Sprint("topic-", sampleMost+4), 100 + sampleMost + 4}, r.Published[0])
	r, err = e.claim(t, 0)
	require.NoError(t, err)
	require.Len(t, r.Published, 5, "the next answer tells of the others")
	r, err = e.claim(t, 0)
	require.NoError(t, err)
	require.Empty(t, r.Published)
}
