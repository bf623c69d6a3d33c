package postgres

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

// aWorker holds shares in tests.
const aWorker = "0b9ad1f2-3f0e-4bb8-9a33-5f3c0a6f0001"

var everyLane = []int16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// hold gives shares to aWorker for an hour, and takes the others from it.
func (o testOutbox) hold(lanes ...int16) {
	o.t.Helper()
	o.exec(`UPDATE outbox.share SET worker = CASE WHEN lane = ANY ($2::smallint[]) THEN $1::uuid END,
	            leased_until = CASE WHEN lane = ANY ($2::smallint[]) THEN now() + interval '1 hour' END,
            renewed_at = CASE WHEN lane = ANY ($2::smallint[]) THEN now() END`, aWorker, lanes)
}

// roundsOnlyByHand lets no look or claim advance the rounds.
func (o testOutbox) roundsOnlyByHand() {
	o.rounds.mu.Lock()
	defer o.rounds.mu.Unlock()
	o.rounds.due = time.Now().Add(time.Hour)
}

// everything asks for all ids.
func everything() relay.Look {
	return relay.Look{Worker: aWorker, Lanes: everyLane, Ranges: []relay.IDRange{{From: 1, To: math.MaxInt64}}, Most: 1000}
}

func (o testOutbox) see(l relay.Look) relay.Looked {
	o.t.Helper()
	found, err := o.Look(o.t.Context(), l)
	require.NoError(o.t, err)
	return found
}

func foundIDs(found []relay.Found) (ids []int64) {
	for _, e := range found {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestLook_BringsTheContentsOfSmallEventsAlong(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes)
	        SELECT 'orders', 'k', 'T' || i, repeat('x', i), 'text/plain', CASE i % 2 WHEN 1 THEN '{"a": "b"}' ELSE '{}' END::jsonb
	        FROM unnest('{10,11,20000,12,13}'::int[]) i`)
	o.hold(o.laneOf("orders", "k").Lane)
	o.exec(`DELETE FROM outbox.pending WHERE id = 4`)
	ask := everything()
	for _, e := range o.see(ask).Events {
		require.Nil(t, e.Content, "it was not asked for")
	}
	ask.Along, ask.Lanes = true, []int16{o.laneOf("orders", "k").Lane}
	ask.Most = 10
	var wanted []relay.Narrow
	found := o.see(ask).Events
	for _, e := range found {
		wanted = append(wanted, relay.Narrow{Topic: "orders", Ref: e.Ref, CreatedAt: time.UnixMicro(e.At), Bytes: e.Bytes})
	}
	whole, err := o.Contents(t.Context(), wanted)
	require.NoError(t, err)
	for i, e := range found {
		switch e.ID {
		case 3, 4: // large; not pending
			require.Nil(t, e.Content)
		default:
			want := whole[i].Event
			want.CreatedAt, e.Content.CreatedAt = want.CreatedAt.UTC(), e.Content.CreatedAt.UTC()
			require.Equal(t, want, *e.Content)
		}
	}
	require.Len(t, found, 5)

	ask.Lanes = slices.DeleteFunc(slices.Clone(everyLane), func(n int16) bool { return n == ask.Lanes[0] })
	for _, e := range o.see(ask).Events {
		require.Nil(t, e.Content, "the event is in a lane of another worker")
	}
}

func TestLook_OfATextThatCannotBeConvertedBringsNoContents(t *testing.T) {
	o := encoded(t, "WIN1252")
	o.hold(everyLane...)
	testenv.Unchecked(t, o.db)
	o.writeKey("orders", "k", 2)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', $1)`, oddTexts["WIN1252"])
	ask := everything()
	ask.Along = true
	found := o.see(ask).Events
	require.Equal(t, []int64{1, 2, 3}, foundIDs(found))
	for _, e := range found {
		require.True(t, e.Pending)
		require.Nil(t, e.Content)
	}
}

func TestLook_FindsEventsOfAllTopicsByTheirIDs(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.write("orders", 3)
	o.write("audit", 2)
	got := o.see(everything())
	require.Equal(t, []int64{1, 2, 3, 4, 5}, foundIDs(got.Events))
	for i, e := range got.Events {
		require.True(t, e.Pending)
		require.Equal(t, []string{"orders", "orders", "orders", "audit", "audit"}[i], e.Topic)
		require.Equal(t, query[int16](o, `SELECT lane FROM outbox.event WHERE id = $1`, e.ID), e.Lane)
		require.Equal(t, query[int64](o, `SELECT bytes FROM outbox.pending WHERE id = $1`, e.ID), e.Bytes)
		require.Equal(t, query[time.Time](o, `SELECT created_at FROM outbox.event WHERE id = $1`, e.ID).UnixMicro(), e.At)
		require.Zero(t, e.Replay)
	}
	require.False(t, got.More)
	require.True(t, got.SameHistory)
	require.Equal(t, everyLane, got.Held)
	require.WithinDuration(t, time.Now(), got.At, time.Minute)
}

func TestLook_ReadsTheAskedRangesAscendingUpToALimit(t *testing.T) {
	o := open(t)
	o.write("orders", 20)
	l := everything()
	l.Ranges = []relay.IDRange{{From: 2, To: 3}, {From: 7, To: 7}, {From: 15, To: math.MaxInt64}}
	got := o.see(l)
	require.Equal(t, []int64{2, 3, 7, 15, 16, 17, 18, 19, 20}, foundIDs(got.Events))
	require.False(t, got.More)
	l.Most = 4
	got = o.see(l)
	require.Equal(t, []int64{2, 3, 7, 15}, foundIDs(got.Events))
	require.True(t, got.More)
	l.Ranges = nil
	require.Empty(t, o.see(l).Events)
}

// A producer may date an event days away from its insert, and a later event of its key otherwise. The
// bounds of a look are known from the one before.
func TestLook_FindsEventsOfAnyDateInTheOrderOfTheirIDs(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	require.Len(t, o.see(everything()).Events, 1)
	for _, age := range []string{"5 days", "0", "13 hours", "-3 days", "7 hours", "0", "4 days"} {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at) VALUES ('orders', 'k', 'T', '{}', now() - $1::interval)`, age)
	}
	got := o.see(everything())
	require.Equal(t, []int64{1, 2, 3, 4, 5, 6, 7, 8}, foundIDs(got.Events))
	for _, e := range got.Events {
		require.True(t, e.Pending, e)
		require.Equal(t, query[time.Time](o, `SELECT created_at FROM outbox.event WHERE id = $1`, e.ID).UnixMicro(), e.At)
	}
	require.False(t, got.More)
	l := everything()
	l.Ranges = []relay.IDRange{{From: 2, To: 2}, {From: 4, To: 6}, {From: 8, To: math.MaxInt64}}
	require.Equal(t, []int64{2, 4, 5, 6, 8}, foundIDs(o.see(l).Events))
	for most := 1; most <= 4; most++ {
		l.Most = most
		got = o.see(l)
		require.True(t, got.More)
		require.Equal(t, []int64{2, 4, 5, 6, 8}[:len(got.Events)], foundIDs(got.Events), "nothing is left out that has a lower id")
		require.NotEmpty(t, got.Events)
	}
	l.Lanes = []int16{(query[int16](o, `SELECT lane FROM outbox.event WHERE id = 2`) + 1) % relay.Lanes}
	for _, e := range o.see(l).Events {
		require.False(t, e.Pending, e)
	}
}

// The list of events that are dated otherwise has those of a day, and all whose ids are not final.
func TestLook_ForgetsDatedEventsThatNoLookAsksFor(t *testing.T) {
	o := open(t)
	for _, inserted := range []string{"25 hours", "25 hours", "1 hour"} {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload, created_at) VALUES ('orders', 'k', 'T', '{}', now() - interval '5 days')`)
		o.exec(`UPDATE outbox.dated SET inserted_at = now() - $1::interval WHERE id = (SELECT max(id) FROM outbox.dated)`, inserted)
	}
	o.write("orders", 1)
	require.Equal(t, 3, query[int](o, `SELECT count(*) FROM outbox.dated`), "not one that is dated now")
	o.exec(`UPDATE outbox.round SET final_id = 1`)
	require.NoError(t, o.forgetDated(t.Context()))
	require.Equal(t, "2,3", query[string](o, `SELECT string_agg(id::text, ',' ORDER BY id) FROM outbox.dated`))
}

// A producer may have imported millions of old events.
func TestLook_ForgetsManyDatedEventsInSmallParts(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.dated (id, created_at, topic, lane, inserted_at)
	        SELECT n, now() - interval '9 days', 'orders', 1, now() - interval '2 days' FROM generate_series(1, $1) n`, 2*forgetAtOnce+7)
	o.exec(`INSERT INTO outbox.dated (id, created_at, topic, lane, inserted_at) VALUES (1000000, now() - interval '9 days', 'orders', 1, now())`)
	o.exec(`UPDATE outbox.round SET final_id = 2000000`)
	o.exec(`CREATE TABLE deleted (rows bigint)`)
	o.exec(`CREATE FUNCTION note_deleted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO deleted SELECT count(*) FROM gone; RETURN NULL; END'`)
	o.exec(`CREATE TRIGGER note_deleted AFTER DELETE ON outbox.dated REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note_deleted()`)
	require.NoError(t, o.forgetDated(t.Context()))
	require.Equal(t, "1000000", query[string](o, `SELECT string_agg(id::text, ',') FROM outbox.dated`))
	require.Equal(t, forgetAtOnce, query[int](o, `SELECT max(rows) FROM deleted`))
}

// An id that is not of a pending event in the worker's lanes is seen, too: it is no gap.
func TestLook_SaysOnlyTheIDOfAnEventThatIsNotForTheWorker(t *testing.T) {
	o := open(t)
	o.write("orders", 32)
	all := o.see(everything()).Events
	settled := all[0]
	require.NoError(t, o.Settle(t.Context(), settled.Topic, []relay.Ref{settled.Ref}))
	l := everything()
	l.Lanes = slices.DeleteFunc(slices.Clone(everyLane), func(n int16) bool { return n == all[1].Lane })
	got := o.see(l).Events
	require.Equal(t, foundIDs(all), foundIDs(got))
	for i, e := range got {
		ours := i > 0 && all[i].Lane != all[1].Lane
		require.Equal(t, ours, e.Pending, e)
		require.Equal(t, ours, e.Topic != "", e)
		require.Equal(t, all[i].At, e.At)
	}
}

// A pending row with the id of an event may be its replay, or of another history.
func TestLook_TakesNoOtherRowForAnEvent(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 2)
	o.exec(`UPDATE outbox.pending SET replay = 7 WHERE id = 1`)
	o.exec(`UPDATE outbox.pending SET created_at = created_at + interval '1 microsecond' WHERE id = 2`)
	for _, e := range o.see(everything()).Events {
		require.False(t, e.Pending, e)
	}
}

func TestLook_TellsWhichSharesTheWorkerHolds(t *testing.T) {
	o := open(t)
	require.Empty(t, o.see(everything()).Held)
	o.hold(3, 9)
	require.Equal(t, []int16{3, 9}, o.see(everything()).Held)
	l := everything()
	l.Lanes = []int16{9, 10}
	require.Equal(t, []int16{9}, o.see(l).Held)
	o.exec(`UPDATE outbox.share SET leased_until = now() - interval '1 millisecond' WHERE lane = 9`)
	require.Equal(t, []int16{3}, o.see(everything()).Held)
}

// A worker of before a failover knows ids that the database gives to other events now.
func TestLook_TellsIfTheHistoryIsAnother(t *testing.T) {
	o := open(t)
	o.write("orders", 3)
	l := everything()
	l.Last = o.see(l).Events[2].Ref
	require.True(t, o.see(l).SameHistory)
	o.restore()
	require.False(t, o.see(l).SameHistory)
	o.write("orders", 3)
	require.False(t, o.see(l).SameHistory, "the same id, but another event")
}

func TestLook_TellsIfFewerIDsAreFinalOrAnotherServerAnswers(t *testing.T) {
	o := open(t)
	o.roundsOnlyByHand()
	o.write("orders", 3)
	o.endRounds()
	l := everything()
	first := o.see(l)
	l.Final, l.Server = first.Final, first.Server
	require.True(t, o.see(l).SameHistory)
	l.Final++
	require.False(t, o.see(l).SameHistory)
	l.Final, l.Server = first.Final, first.Server.Add(time.Microsecond)
	require.False(t, o.see(l).SameHistory)
}

// The ids of transactions that rolled back are final, but the standby did not know that they were drawn.
// So it has every event that the worker knows, and gives ids again that the worker has ruled out.
func TestReader_ReadsAnewAfterAStandbyIsPromoted(t *testing.T) {
	db := testenv.Failover(t)
	o := openBy(t, db.URL, db.URL)
	o.roundsAtOnce()
	o.roundsOnlyByHand()
	o.hold(everyLane...)
	l := newLedger()
	r := newReader(o, 1, everyLane, l.got)
	require.NoError(t, r.begin(t.Context()))
	o.write("orders", 5)
	o.endRounds()
	require.NoError(t, r.step(t.Context()))
	require.NoError(t, r.end(t.Context()))
	db.CatchUp()
	db.Lag()
	tx := slow(o, "orders", "k")
	_, err := tx.Exec(t.Context(), `INSERT INTO outbox.event (topic, type, payload) SELECT 'orders', 'T', 'x' FROM generate_series(1, 200)`)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	o.endRounds()
	require.NoError(t, r.step(t.Context()))
	require.Equal(t, []relay.IDRange{{From: 207, To: math.MaxInt64}}, r.gaps.Ranges())

	db.Promote()
	retry := func(do func() error) {
		waitFor(t, "the new primary", func() bool { err := do(); return err == nil || errors.Is(err, errAnotherHistory) })
	}
	retry(func() error {
		_, err := o.db.Exec(t.Context(), insertEventSQL, "orders", "k", "of the new primary")
		return err
	})
	id := query[int64](o, `SELECT max(id) FROM outbox.event`)
	require.Less(t, id, int64(207), "an id that the reader has ruled out")
	o.exec(`UPDATE outbox.round SET final_id = $1`, id)

	fromMemory := r.lookFor()
	fromMemory.Server, fromMemory.Final = time.Time{}, 0
	var found relay.Looked
	retry(func() (err error) { found, err = o.Look(t.Context(), fromMemory); return err })
	require.True(t, found.SameHistory, "the last event does not tell the histories apart")
	require.Empty(t, found.Events, "so the event would be missed")

	require.ErrorIs(t, r.step(t.Context()), errAnotherHistory)
	require.NoError(t, r.begin(t.Context()))
	require.NoError(t, r.step(t.Context()))
	require.Contains(t, l.came["orders/k"], "of the new primary")
}

func TestLook_OfRowsThatAreHiddenIsAnError(t *testing.T) {
	for _, table := range []string{"event", "pending", "lane", "share", "round"} {
		t.Run(table, func(t *testing.T) {
			o := open(t)
			o.write("orders", 5)
			s := testOutbox{o.asRelay(), t, o.db}
			require.Len(t, s.see(everything()).Events, 5)
			o.hide(table)
			_, err := s.Look(t.Context(), everything())
			require.ErrorContains(t, err, "row level security")
			o.exec(`CREATE POLICY relay ON outbox.` + table + ` USING (true)`)
			require.Len(t, s.see(everything()).Events, 5, "a policy that shows all")
		})
	}
}

func TestLook_OfATopicThatIsNotUTF8MakesDeadLettersAndStopsNoOther(t *testing.T) {
	o := openASCII(t)
	o.hold(everyLane...)
	o.write("orders", 5)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT convert_from('\x6f72fc64657273'::bytea, 'SQL_ASCII'), 'k' || i, 'T', 'x' FROM generate_series(1, 20) i`)
	got := o.see(everything())
	require.Len(t, got.Events, 25)
	for i, e := range got.Events {
		require.Equal(t, i < 5, e.Topic == "orders" && e.Pending, e)
		require.Equal(t, i >= 5, e.Topic == "" && !e.Pending, e)
	}
	require.Equal(t, 5, o.pending())
	require.Equal(t, "InvalidCharacter 20 topic is not valid UTF-8 at byte 2", query[string](o,
		`SELECT code || ' ' || count(*) || ' ' || min(message) FROM outbox.dead_letter WHERE key <> '' GROUP BY code`))
}

func TestLook_OfATopicThatCannotBeConvertedMakesDeadLettersAndStopsNoOther(t *testing.T) {
	for encoding, strange := range oddTexts {
		t.Run(encoding, func(t *testing.T) {
			o := encoded(t, encoding)
			testenv.Unchecked(t, o.db)
			o.hold(everyLane...)
			o.write("orders", 5)
			o.exec(`INSERT INTO outbox.event (topic, type, payload) VALUES ($1, 'T', 'x')`, strange)
			got := o.see(everything())
			require.Len(t, got.Events, 6)
			for i, e := range got.Events {
				require.Equal(t, i < 5, e.Topic == "orders" && e.Pending, e)
			}
			require.Equal(t, 5, o.pending())
			require.Equal(t, 1, query[int](o, `SELECT count(*) FROM outbox.dead_letter WHERE code = 'InvalidCharacter'`))
		})
	}
}

// One event with a far time is found as any other, or a later one of its key would come first.
func TestLook_FindsEventsWithFarTimesAndFailsAtNone(t *testing.T) {
	o := open(t)
	o.roundsOnlyByHand()
	o.write("orders", 1)
	for _, far := range farTimes {
		o.writeAt("audit", "far", far)
	}
	o.write("orders", 1)
	for range 2 {
		got := o.see(everything())
		require.Contains(t, foundIDs(got.Events), int64(1))
		require.Contains(t, foundIDs(got.Events), int64(2+len(farTimes)))
		for _, e := range got.Events {
			require.True(t, e.Pending, e)
		}
	}
	o.endRounds()
	o.see(everything())
	ids := foundIDs(o.see(everything()).Events)
	require.Len(t, ids, 2+len(farTimes))
	require.True(t, slices.IsSorted(ids))
}

// A transaction may stay open for days. Its events are of the day of their insert.
func TestLook_FindsAnEventThatWasInsertedLongBeforeItsCommit(t *testing.T) {
	o := open(t)
	o.roundsOnlyByHand()
	o.write("orders", 1)
	o.endRounds()
	o.see(everything())
	require.Len(t, o.see(everything()).Events, 1)
	// As if the last round had been closed ten days ago, and an event was inserted since.
	o.exec(`UPDATE outbox.round SET final_id_at = now() - interval '10 days'`)
	testenv.Unchecked(t, o.db)
	o.writeAt("orders", "k", query[string](o, `SELECT (now() - interval '9 days')::text`))
	o.exec(`DELETE FROM outbox.dated`) // as it was then
	require.Equal(t, []int64{1, 2}, foundIDs(o.see(everything()).Events))
	require.Equal(t, []int64{1, 2}, foundIDs(o.see(everything()).Events))
	o.exec(`UPDATE outbox.round SET final_id_at = now()`)
	o.see(everything())
	require.Equal(t, []int64{1}, foundIDs(o.see(everything()).Events), "it was inserted before the last round")
}

func TestLook_WithoutARoundFindsEvents(t *testing.T) {
	o := open(t)
	o.exec(`TRUNCATE outbox.round`)
	o.write("orders", 3)
	for range 2 {
		got := o.see(everything())
		require.Len(t, got.Events, 3)
		require.Zero(t, got.Final)
	}
}

// The planner leaves out the partitions of other days, or a look takes milliseconds.
func TestLook_PlansForFewPartitions(t *testing.T) {
	o := open(t)
	o.roundsOnlyByHand()
	o.write("orders", 1)
	o.endRounds()
	o.see(everything())
	d := o.dates.Load()
	require.NotNil(t, d)
	rows, err := o.pool.Query(t.Context(), `EXPLAIN `+lookSQL, aWorker, everyLane, []int64{1}, []int64{math.MaxInt64},
		int64(1), timestamp(o.see(everything()).Events[0].At), earliest(d.from), latest(d.to), 10, relay.AlongBytes)
	require.NoError(t, err)
	partitions := 0
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		if slices.ContainsFunc([]string{" Scan using event_", " Scan on event_"}, func(s string) bool { return strings.Contains(line, s) }) {
			partitions++
		}
	}
	require.NoError(t, rows.Err())
	require.Positive(t, partitions)
	require.LessOrEqual(t, partitions, 6, "three or four days, and the day of the last event")
}

// While nothing happens, looks start no rounds, so the database rests.
func TestLook_ClosesARoundAfterEventsAndThenRests(t *testing.T) {
	o := open(t)
	o.roundsAtOnce()
	o.write("orders", 3)
	waitFor(t, "the ids to be final", func() bool {
		got := o.see(everything())
		return got.Final == 3
	})
	l := everything()
	l.Ranges = []relay.IDRange{{From: 4, To: math.MaxInt64}}
	waitFor(t, "the rounds to rest", func() bool {
		o.see(l)
		o.rounds.mu.Lock()
		defer o.rounds.mu.Unlock()
		return !o.rounds.busy && !o.rounds.wanted && !o.rounds.waits
	})
}

func TestLook_EndsInTime(t *testing.T) {
	o := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := o.Look(ctx, everything())
	require.ErrorIs(t, err, context.Canceled)
}
