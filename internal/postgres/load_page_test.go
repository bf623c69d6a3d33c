package postgres

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

func TestLoad_ReturnsEventsAsWritten(t *testing.T) {
	o := open(t)
	const payload = "{\"a\": \"ü\n\"}  "
	o.exec(`INSERT INTO outbox.event (event_id, topic, key, type, payload, content_type, attributes)
	        VALUES ('6f1c7f0e-8a83-4b8b-9a53-0123456789ab', 'orders', 'k 1', 'OrderPlaced', $1, 'text/plain', '{"tenant":"t1"}')`, payload)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	require.False(t, page.More)
	require.Len(t, page.Events, 1)
	e := page.Events[0]
	require.Equal(t, "6f1c7f0e-8a83-4b8b-9a53-0123456789ab", e.EventID)
	require.Equal(t, []string{"k 1", "OrderPlaced", payload, "text/plain"}, []string{e.Key, e.Type, e.Payload, e.ContentType})
	require.Equal(t, map[string]string{"tenant": "t1"}, e.Attributes)
	require.False(t, e.CreatedAt.IsZero())
}

func TestLoad_PagesFollowEachOtherWithoutGapsOrRepeats(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "one", 95)
	_, lease := o.claimOne()
	var ids []int64
	var inHand []relay.Ref
	for pages := 1; ; pages++ {
		page, err := o.Load(t.Context(), lease, inHand, 30)
		require.NoError(t, err)
		for _, e := range page.Events {
			ids, inHand = append(ids, e.ID), append(inHand, e.Ref)
		}
		if !page.More {
			require.GreaterOrEqual(t, pages, 4)
			break
		}
		require.LessOrEqual(t, len(page.Events), 30)
	}
	require.Len(t, ids, 95)
	require.IsIncreasing(t, ids)
}

func TestLoad_CutsAPageByBytesButNeverToNothing(t *testing.T) {
	o := open(t)
	for range 5 {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('big', 'k', 'T', $1)`, strings.Repeat("x", 3<<20))
	}
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 100)
	require.NoError(t, err)
	require.Len(t, page.Events, 3, "8 MiB are reached in the third")
	require.True(t, page.More)

	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('huge', 'k', 'T', $1)`, strings.Repeat("x", 9<<20))
	require.NoError(t, o.Sweep(t.Context()))
	_, lease = o.claimOne()
	page, err = o.Load(t.Context(), lease, nil, 100)
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
}

func TestLoad_ReportsAPendingEventThatIsGone(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	o.exec(`DELETE FROM outbox.event`)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
	require.Empty(t, page.Events[0].EventID)
}

func TestSettle_RemovesExactlyTheNamedEvents(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 10)
	o.exec(`INSERT INTO outbox.pending SELECT topic, lane, id, created_at, bytes, 7 FROM outbox.pending WHERE id = 5`)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 100)
	require.NoError(t, err)
	require.Len(t, page.Events, 11, "a replay is pending beside the first delivery")
	var refs []relay.Ref
	for _, e := range page.Events {
		if e.ID == 5 && e.Replay == 7 || e.ID == 9 {
			refs = append(refs, e.Ref)
		}
	}
	for range 2 { // doing it again changes nothing
		require.NoError(t, o.Settle(t.Context(), "orders", refs))
		require.Equal(t, 9, o.pending())
		require.True(t, query[bool](o, `SELECT EXISTS (SELECT FROM outbox.pending WHERE id = 5 AND replay = 0)`))
	}
}

func TestLoad_PutsAnEventThatCommitsBetweenPagesBeforeLaterOnes(t *testing.T) {
	o := open(t)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	tx := slow(o, "orders", "k") // has id 1
	o.writeKey("orders", "k", 4) // as if of another key of the lane
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 3)
	require.NoError(t, err)
	require.Len(t, page.Events, 3)
	require.NoError(t, tx.Commit(t.Context()))
	o.writeKey("orders", "k", 1) // serialised behind it
	var inHand []relay.Ref
	for _, e := range page.Events {
		inHand = append(inHand, e.Ref)
	}
	page, err = o.Load(t.Context(), lease, inHand, 4)
	require.NoError(t, err)
	require.Len(t, page.Events, 3)
	require.Equal(t, int64(1), page.Events[0].ID)
}

func TestLoad_LeavesOtherLanesRoomBesideLargeEvents(t *testing.T) {
	o := open(t)
	for range 4 {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'big', 'k' || i, 'T', $1 FROM generate_series(1, 8) i`, strings.Repeat("x", 1<<20))
	}
	r := request("x")
	r.PerTopic = 1
	batches, err := o.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, batches, 1)
	lease, err := o.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	lanes := map[int16]bool{}
	page, err := o.Load(t.Context(), lease, nil, 200)
	require.NoError(t, err)
	for _, e := range page.Events {
		lanes[e.Lane] = true
	}
	require.Equal(t, query[int](o, `SELECT count(DISTINCT lane) FROM outbox.pending`), len(lanes), "every lane has its first event in the page")
}

func TestLoad_DatesAPageByTheClockOfItsEvents(t *testing.T) {
	o := open(t)
	o.write("orders", 3)
	_, lease := o.claimOne()
	page, err := o.Load(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	require.Len(t, page.Events, 3)
	var now time.Time
	require.NoError(t, o.db.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now))
	for _, e := range page.Events {
		require.False(t, page.At.Before(e.CreatedAt), "an event is not written after it is read")
	}
	require.False(t, page.At.After(now))
	require.WithinDuration(t, now, page.At, 5*time.Second)
}

func TestFill_LoadsTheContentsOfAPageInPortions(t *testing.T) {
	o := open(t)
	o.write("orders", 10)
	_, lease := o.claimOne()
	page, err := o.Page(t.Context(), lease, nil, 100)
	require.NoError(t, err)
	require.Len(t, page.Events, 10)
	whole, err := o.Load(t.Context(), lease, nil, 100)
	require.NoError(t, err)
	for i, e := range page.Events {
		require.Equal(t, relay.Event{Ref: e.Ref, CreatedAt: e.CreatedAt, Bytes: whole.Events[i].Bytes}, e, "a page has no contents")
		require.Positive(t, e.Bytes)
	}
	for portion := range slices.Chunk(page.Events, 3) {
		require.NoError(t, o.Fill(t.Context(), portion))
	}
	require.Equal(t, whole.Events, page.Events)
	require.NotEmpty(t, page.Events[9].Payload)
}

func TestPage_TellsThatAnOperationWaitsForALane(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "one", 5)
	_, lease := o.claimOne()
	page, err := o.Page(t.Context(), lease, nil, 10)
	require.NoError(t, err)
	require.False(t, page.Reserved)
	for lane := range lease.LowID {
		require.NoError(t, o.Reserve(t.Context(), "orders", []int16{lane}, time.Minute))
	}
	for _, inHand := range [][]relay.Ref{nil, refs(page.Events)} { // also if there is nothing to read
		page, err := o.Page(t.Context(), lease, inHand, 10)
		require.NoError(t, err)
		require.True(t, page.Reserved)
	}
}
