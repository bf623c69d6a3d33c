package postgres

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/testenv"
)

func (o testOutbox) discover(lanes ...int16) relay.Discovered {
	o.t.Helper()
	found, err := o.Discover(o.t.Context(), aWorker, lanes)
	require.NoError(o.t, err)
	return found
}

func (o testOutbox) pages(most int, cursors ...relay.LaneCursor) relay.Pages {
	o.t.Helper()
	read, err := o.Pages(o.t.Context(), aWorker, cursors, most)
	require.NoError(o.t, err)
	return read
}

// laneOf is the lane of a key.
func (o testOutbox) laneOf(topic, key string) relay.TopicLane {
	o.t.Helper()
	return relay.TopicLane{Topic: topic, Lane: query[int16](o, `SELECT max(lane) FROM outbox.event WHERE topic = $1 AND key = $2`, topic, key)}
}

func TestDiscover_FindsTheFirstPendingEventOfEachLane(t *testing.T) {
	o := open(t)
	o.hold(3, 4)
	require.Equal(t, relay.Discovered{Held: []int16{3, 4}, Server: o.see(everything()).Server}, o.discover(3, 4, 5))
	o.write("orders", 100)
	o.write("audit", 100)
	o.endRounds()
	o.exec(`UPDATE outbox.pending SET replay = 9 WHERE id = 1`)
	found := o.discover(everyLane...)
	require.EqualValues(t, 200, found.Final)
	require.Len(t, found.First, query[int](o, `SELECT count(DISTINCT (topic, lane)) FROM outbox.pending`))
	for i, f := range found.First {
		require.Equal(t, query[int64](o, `SELECT min(id) FROM outbox.pending WHERE topic = $1 AND lane = $2`, f.Topic, f.Lane), f.Ref.ID)
		require.Equal(t, query[int64](o, `SELECT replay FROM outbox.pending WHERE id = $1`, f.Ref.ID), f.Ref.Replay)
		require.Equal(t, f.Lane, f.Ref.Lane)
		if i > 0 {
			before := found.First[i-1]
			require.True(t, before.Topic < f.Topic || before.Topic == f.Topic && before.Lane < f.Lane)
		}
	}
	for _, f := range o.discover(7).First {
		require.EqualValues(t, 7, f.Lane)
	}
}

// Else looks would read the backlog, too.
func TestDiscover_MakesTheIdsOfABacklogFinal(t *testing.T) {
	o := open(t)
	o.write("orders", 100)
	o.exec(`UPDATE outbox.round SET closed_at = now() - interval '1 hour'`) // no worker ran
	require.EqualValues(t, 100, o.discover(everyLane...).Final)
}

func TestDiscover_FindsEventsOfAnyTime(t *testing.T) {
	o := open(t)
	for _, far := range farTimes {
		o.writeAt("audit", far, far)
	}
	found := map[int64]bool{}
	for _, f := range o.discover(everyLane...).First {
		page := o.pages(100, relay.LaneCursor{TopicLane: f.TopicLane, After: f.Ref.ID - 1, Most: 100})
		contents, err := o.Contents(t.Context(), page.Events)
		require.NoError(t, err)
		for i, e := range contents {
			found[e.ID] = true
			require.Equal(t, "far", e.Payload)
			require.Equal(t, page.Events[i].Ref, e.Ref)
		}
		require.NoError(t, o.SettleTopics(t.Context(), topicRefs(page.Events)))
	}
	require.Len(t, found, len(farTimes))
	require.Zero(t, o.pending())
}

func TestDiscover_OfATopicThatIsNotUTF8MakesDeadLettersAndStopsNoOther(t *testing.T) {
	o := openASCII(t)
	o.writeKey("orders", "k", 5)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
	        SELECT convert_from('\x6f72fc64657273'::bytea, 'SQL_ASCII'), 'k' || i, 'T', 'x' FROM generate_series(1, 20) i`)
	found := o.discover(everyLane...)
	require.Len(t, found.First, 1)
	require.Equal(t, "orders", found.First[0].Topic)
	require.Equal(t, 5, o.pending())
}

func TestDiscover_OfATopicThatCannotBeConvertedStopsNoOther(t *testing.T) {
	o := encoded(t, "WIN1252")
	testenv.Unchecked(t, o.db)
	o.writeKey("orders", "k", 5)
	o.exec(`INSERT INTO outbox.event (topic, type, payload) VALUES ($1, 'T', 'x')`, oddTexts["WIN1252"])
	found := o.discover(everyLane...)
	require.Len(t, found.First, 1)
	require.Equal(t, "orders", found.First[0].Topic)
	require.Equal(t, 5, o.pending())
}

func TestPages_ReadLanesOneAfterTheOtherFromTheirCursors(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 10) // 1 to 10
	o.writeKey("audit", "k", 3)   // 11 to 13
	o.endRounds()
	orders, audit := o.laneOf("orders", "k"), o.laneOf("audit", "k")
	o.hold(orders.Lane)
	held := []int16{orders.Lane}
	read := o.pages(100, relay.LaneCursor{TopicLane: audit, After: 11, Most: 5}, relay.LaneCursor{TopicLane: orders, After: 4, Most: 4})
	require.Equal(t, held, read.Held)
	require.EqualValues(t, 13, read.Final)
	require.Equal(t, o.see(everything()).Server, read.Server)
	require.Equal(t, []relay.TopicLane{orders}, read.Full)
	var ids []int64
	for _, e := range read.Events {
		ids = append(ids, e.Ref.ID)
		require.Equal(t, e.Ref.ID > 10, e.Topic == "audit")
		require.Equal(t, map[string]int16{"orders": orders.Lane, "audit": audit.Lane}[e.Topic], e.Ref.Lane)
		require.Equal(t, query[int64](o, `SELECT bytes FROM outbox.pending WHERE id = $1`, e.Ref.ID), e.Bytes)
		require.Equal(t, e.Ref.At, e.CreatedAt.UnixMicro())
	}
	require.Equal(t, []int64{12, 13, 5, 6, 7, 8}, ids)

	read = o.pages(2, relay.LaneCursor{TopicLane: audit, After: 11, Most: 5}, relay.LaneCursor{TopicLane: orders, Most: 4})
	require.Len(t, read.Events, 2)
	require.Equal(t, []relay.TopicLane{audit, orders}, read.Full, "it was cut, so both may have more")
	read = o.pages(100, relay.LaneCursor{TopicLane: audit, After: 13, Most: 5})
	require.Empty(t, read.Events)
	require.Empty(t, read.Full)
}

func TestPages_LeaveOutReplaysThatWereSeen(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	lane := o.laneOf("orders", "k")
	o.exec(`INSERT INTO outbox.pending SELECT topic, lane, id, created_at, bytes, n FROM outbox.pending, unnest('{7,8}'::bigint[]) n WHERE id = 2`)
	replays := func(after, seen int64) (found [][2]int64) {
		c := relay.LaneCursor{TopicLane: lane, After: after, Seen: seen, Most: 10}
		for _, e := range o.pages(10, c).Events {
			found = append(found, [2]int64{e.Ref.ID, e.Ref.Replay})
			require.True(t, c.Covers(e.Ref))
		}
		return found
	}
	require.Equal(t, [][2]int64{{2, 0}, {2, 7}, {2, 8}, {3, 0}}, replays(1, 0))
	require.Equal(t, [][2]int64{{2, 7}, {2, 8}, {3, 0}}, replays(1, 1))
	require.Equal(t, [][2]int64{{2, 8}, {3, 0}}, replays(1, 8))
	require.Equal(t, [][2]int64{{3, 0}}, replays(1, 9))
	require.Equal(t, [][2]int64{{2, 0}, {2, 7}, {2, 8}, {3, 0}}, replays(0, 1), "the event 1 was seen, not 2")
	require.False(t, relay.LaneCursor{After: 1, Seen: 8}.Covers(relay.Ref{ID: 2, Replay: 7}))
	require.False(t, relay.LaneCursor{After: 1}.Covers(relay.Ref{ID: 1, Replay: 7}))
}

func TestPages_BringTheContentsOfSmallEventsAlong(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload, content_type, attributes)
	        SELECT 'orders', 'k', 'T' || i, repeat('x', i), 'text/plain', CASE i % 2 WHEN 1 THEN '{"a": "b"}' ELSE '{}' END::jsonb
	        FROM unnest('{10,11,20000,12}'::int[]) i`)
	o.writeAt("orders", "k", "2020-01-01 00:00Z")
	cursor := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	first := o.pages(10, cursor).Events
	require.Len(t, first, 5)
	for _, e := range first {
		require.Nil(t, e.Content, "it is not known yet from when they are")
	}
	whole, err := o.Contents(t.Context(), first)
	require.NoError(t, err)

	cursor.Most = 4
	o.pages(10, cursor) // of today only
	cursor.Most = 10
	along := 0
	for i, e := range o.pages(10, cursor).Events {
		if e.Content == nil {
			require.True(t, e.Bytes > relay.AlongBytes || e.CreatedAt.Year() == 2020, "event %d", e.Ref.ID)
			continue
		}
		along++
		require.Equal(t, whole[i].Event, *e.Content)
	}
	require.Equal(t, 3, along)
}

func TestPages_OfManyEventsBringFewerBytesAlong(t *testing.T) {
	o := open(t)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) SELECT 'orders', 'k', 'T', repeat('x', i) FROM unnest('{4000,10000,16000}'::int[]) i`)
	cursor := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	o.pages(10, cursor) // it learns from when they are
	for most, want := range map[int]int{10: 3, alongTotal / 11_000: 2, alongEvents: 1, alongEvents + 1: 0} {
		along := 0
		for _, e := range o.pages(most, cursor).Events {
			if e.Content != nil {
				along++
			}
		}
		require.Equal(t, want, along, "a read of %d events", most)
	}
}

// Contents finds out which of them it is.
func TestPages_OfATextThatCannotBeConvertedComeWithoutContents(t *testing.T) {
	o := encoded(t, "WIN1252")
	testenv.Unchecked(t, o.db)
	o.writeKey("orders", "k", 3)
	o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', 'k', 'T', $1)`, oddTexts["WIN1252"])
	cursor := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	for range 2 {
		read := o.pages(10, cursor).Events
		require.Len(t, read, 4)
		contents, err := o.Contents(t.Context(), read)
		require.NoError(t, err)
		require.NotEmpty(t, contents[3].Unreadable)
	}
}

// The planner's cache between the events and their contents costs more than it saves: no event comes twice.
func TestPages_PlanHasNoCacheOfContents(t *testing.T) {
	o := open(t)
	o.write("orders", 20_000)
	o.exec(`ANALYZE outbox.event`)
	o.exec(`ANALYZE outbox.pending`)
	var cursors []relay.LaneCursor
	for n := range int16(relay.Lanes) {
		cursors = append(cursors, relay.LaneCursor{TopicLane: relay.TopicLane{Topic: "orders", Lane: n}, Most: 100})
	}
	o.pages(500, cursors...)
	d := o.paged.Load()
	topics, numbers, after, seen, mosts := cursorColumns(cursors, 500)
	rows, err := o.pool.Query(t.Context(), `EXPLAIN `+pagesSQL, aWorker, everyLane, topics, numbers, after, mosts, 500,
		earliest(d.from), latest(d.to), alongBytes(500), seen)
	require.NoError(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	text := strings.Join(plan, "\n")
	require.NotContains(t, text, "Memoize")
	// A partition without events, such as that of the next day an hour before midnight, costs nothing to scan.
	for _, table := range append(query[[]string](o, `SELECT array_agg(DISTINCT tableoid::regclass::text) FROM outbox.event`), "outbox.pending") {
		require.NotContains(t, text, "Seq Scan on "+strings.TrimPrefix(table, "outbox.")+" ", "\n"+text)
	}
}

// While a transaction holds a snapshot, what was settled cannot be cleaned up. Neither a look nor a page of a
// shared lane may read it again each time.
func TestShares_ReadNoSettledRowsUnderAHeldSnapshot(t *testing.T) {
	const topics = 200
	o := open(t)
	o.hold(everyLane...)
	holder, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer holder.Rollback(t.Context())
	_, err = holder.Exec(t.Context(), `SELECT count(*) FROM outbox.pending`)
	require.NoError(t, err)
	write := func(each int) {
		t.Helper()
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
		        SELECT 'topic-' || t, 'k', 'T', 'x' FROM generate_series(1, $1::int) i, generate_series(1, $2::int) t`, each, topics)
	}
	write(150)
	o.exec(`DELETE FROM outbox.pending`)
	o.endRounds()
	seen := query[int64](o, `SELECT max(id) FROM outbox.event`)
	write(1)
	look := everything()
	look.Ranges[0].From = seen + 1
	require.Len(t, o.see(look).Events, topics)
	dated := o.dates.Load()
	looked := func(after int64) int {
		t.Helper()
		return pagesOf(o, lookSQL, aWorker, everyLane, []int64{after + 1}, []int64{math.MaxInt64}, int64(0), timestamp(0),
			earliest(dated.from), latest(dated.to), 100*topics, alongBytes(topics))
	}
	var cursors []relay.LaneCursor
	for n := range topics {
		cursors = append(cursors, relay.LaneCursor{TopicLane: o.laneOf(fmt.Sprint("topic-", n+1), "k"), After: seen, Most: 100})
	}
	require.Len(t, o.pages(topics, cursors...).Events, topics)
	read := func(after int64) int {
		t.Helper()
		d := o.paged.Load()
		of := slices.Clone(cursors)
		for i := range of {
			of[i].After = after
		}
		names, numbers, after_, met, mosts := cursorColumns(of, topics)
		return pagesOf(o, pagesSQL, aWorker, everyLane, names, numbers, after_, mosts, topics, earliest(d.from), latest(d.to), alongBytes(topics), met)
	}
	t.Logf("pages read by a look: %d, from the beginning %d; by a page of each lane: %d, from the beginning %d", looked(seen), looked(0), read(seen), read(0))
	require.Greater(t, looked(0), 20*looked(seen))
	require.Greater(t, read(0), 20*read(seen))
}

func TestPages_OfRowsThatAreHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	s := testOutbox{o.asRelay(), t, o.db}
	lane := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	require.Len(t, s.pages(10, lane).Events, 3)
	require.Len(t, s.discover(everyLane...).First, 1)
	for _, table := range []string{"pending", "lane", "share", "round"} {
		o.hide(table)
		_, err := s.Pages(t.Context(), aWorker, []relay.LaneCursor{lane}, 10)
		require.ErrorContains(t, err, "row level security")
		_, err = s.Discover(t.Context(), aWorker, everyLane)
		require.ErrorContains(t, err, "row level security")
		o.show(table)
	}
	narrow := s.pages(10, lane).Events
	o.hide("event")
	_, err := s.Contents(t.Context(), narrow)
	require.ErrorContains(t, err, "row level security")
	o.show("event")
	o.hide("pending")
	require.ErrorContains(t, s.SettleTopics(t.Context(), topicRefs(narrow)), "row level security")
}

// topicRefs are events by topic.
func topicRefs(events []relay.Narrow) (done []relay.TopicRefs) {
	at := map[string]int{}
	for _, e := range events {
		i, known := at[e.Topic]
		if !known {
			i = len(done)
			at[e.Topic] = i
			done = append(done, relay.TopicRefs{Topic: e.Topic})
		}
		done[i].Refs, done[i].Places = append(done[i].Refs, e.Ref), append(done[i].Places, e.Place)
	}
	return done
}

func TestContents_AreOfSeveralTopicsInTheAskedOrder(t *testing.T) {
	o := open(t)
	empty, err := o.Contents(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, empty)
	o.write("orders", 2)
	o.write("audit", 2)
	var wanted []relay.Narrow
	for _, e := range o.see(everything()).Events {
		wanted = append([]relay.Narrow{{Topic: e.Topic, Ref: e.Ref, Bytes: e.Bytes}}, wanted...)
	}
	wanted = append(wanted, relay.Narrow{Topic: "orders", Ref: relay.Ref{ID: 99, At: wanted[0].Ref.At}})
	got, err := o.Contents(t.Context(), wanted)
	require.NoError(t, err)
	for i, want := range []string{"audit payload 2", "audit payload 1", "orders payload 2", "orders payload 1", "orders "} {
		require.Equal(t, want, got[i].Topic+" "+got[i].Payload)
		require.Equal(t, wanted[i].Ref, got[i].Ref)
	}
	require.Empty(t, got[4].EventID, "it is missing")
}

func TestSettleTopics_RemovesExactlyTheGivenEvents(t *testing.T) {
	o := open(t)
	require.NoError(t, o.SettleTopics(t.Context(), nil))
	o.write("orders", 3)
	o.write("audit", 3)
	found := o.see(everything()).Events
	again := found[2].Ref
	again.Replay = 5
	other := found[4].Ref
	other.At++
	done := []relay.TopicRefs{
		{Topic: "orders", Refs: []relay.Ref{found[1].Ref, found[0].Ref, again}},
		{Topic: "audit", Refs: []relay.Ref{found[3].Ref, other}},
		{Topic: "orders", Refs: nil},
	}
	for range 2 {
		require.NoError(t, o.SettleTopics(t.Context(), done))
		require.Equal(t, []int64{3, 5, 6}, query[[]int64](o, `SELECT array_agg(id ORDER BY id) FROM outbox.pending`))
	}
	require.NoError(t, o.SettleTopics(t.Context(), []relay.TopicRefs{{Topic: "audit", Refs: []relay.Ref{found[2].Ref}}}))
	require.Equal(t, 3, o.pending(), "it is of another topic")
}

// Places are only hints.
func TestSettleTopics_SettlesEventsThatAreNotInTheirPlaces(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 6)
	found := o.see(everything()).Events
	paged := o.pages(10, relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}).Events
	d := relay.TopicRefs{Topic: "orders"}
	for i, e := range paged {
		require.NotZero(t, e.Place)
		require.Equal(t, e.Place, found[i].Place)
		d.Refs, d.Places = append(d.Refs, e.Ref), append(d.Places, e.Place)
	}
	some := func(from, to int) []relay.TopicRefs {
		return []relay.TopicRefs{{Topic: d.Topic, Refs: d.Refs[from:to], Places: d.Places[from:to]}}
	}
	left := func() []int64 {
		return query[[]int64](o, `SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM outbox.pending`)
	}
	require.NoError(t, o.SettleTopics(t.Context(), some(0, 2)))
	require.Equal(t, []int64{3, 4, 5, 6}, left())
	require.NoError(t, o.SettleTopics(t.Context(), some(0, 2)), "a second call changes nothing")

	d.Places[2], d.Places[3] = d.Places[4], relay.Place{} // another event is there now
	require.NoError(t, o.SettleTopics(t.Context(), some(2, 4)))
	require.Equal(t, []int64{5, 6}, left())

	o.exec(`UPDATE outbox.pending SET bytes = bytes + 1 WHERE id = 5`) // it moves
	d.Places[5].Block = 1 << 20
	require.NoError(t, o.SettleTopics(t.Context(), some(4, 6)))
	require.Empty(t, left())
}

// Two workers may settle the same events at once, in any order.
func TestSettleTopics_OfTwoAtOnceDoesNotDeadlock(t *testing.T) {
	o := open(t)
	for range 5 {
		o.write("orders", 200)
		o.write("audit", 200)
		l := everything()
		l.Ranges[0] = relay.IDRange{From: query[int64](o, `SELECT min(id) FROM outbox.pending`), To: math.MaxInt64}
		var narrow, backwards []relay.Narrow
		for _, e := range o.see(l).Events {
			n := relay.Narrow{Topic: e.Topic, Ref: e.Ref}
			n.Place = e.Place
			narrow, backwards = append(narrow, n), append([]relay.Narrow{n}, backwards...)
		}
		errs := make(chan error, 2)
		for _, events := range [][]relay.Narrow{narrow, backwards} {
			go func() { errs <- o.SettleTopics(t.Context(), topicRefs(events)) }()
		}
		require.NoError(t, <-errs)
		require.NoError(t, <-errs)
		require.Zero(t, o.pending())
	}
}

// narrow are events by their ids.
func (o testOutbox) narrow(ids ...int64) (events []relay.Narrow) {
	o.t.Helper()
	for _, id := range ids {
		at := query[int64](o, `SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM outbox.event WHERE id = $1`, id)
		events = append(events, relay.Narrow{Topic: "orders", Ref: relay.Ref{ID: id, At: at}})
	}
	return events
}

func TestKeys_AreInTheAskedOrder(t *testing.T) {
	o := open(t)
	none, err := o.Keys(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, none)
	o.writeKey("orders", "a", 2)
	o.writeKey("audit", "b", 1)
	o.writeKey("orders", "", 1)
	asked := o.narrow(3, 2, 4, 1)
	missing := asked[0]
	missing.Ref.ID = 99
	asked = append(asked, missing)
	keys, err := o.Keys(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, []string{"b", "a", "", "a", ""}, keys)
}

func TestKeys_OneThatCannotBeReadHidesNoOther(t *testing.T) {
	for encoding, strange := range oddTexts {
		t.Run(encoding, func(t *testing.T) {
			o := encoded(t, encoding)
			testenv.Unchecked(t, o.db)
			o.writeKey("orders", "k", 3)
			o.exec(`INSERT INTO outbox.event (topic, key, type, payload) VALUES ('orders', $1, 'T', 'x')`, strange)
			o.writeKey("orders", "k", 2)
			keys, err := o.Keys(t.Context(), o.narrow(1, 2, 3, 4, 5, 6))
			require.NoError(t, err)
			require.Equal(t, []string{"k", "k", "k", "", "k", "k"}, keys)
		})
	}
}
