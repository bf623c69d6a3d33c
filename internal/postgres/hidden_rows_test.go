package postgres

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// hide switches row level security on for a table, as somebody does while the relay runs.
func (o testOutbox) hide(table string) {
	o.t.Helper()
	o.exec(`ALTER TABLE outbox.` + table + ` ENABLE ROW LEVEL SECURITY`)
}

func (o testOutbox) show(table string) {
	o.t.Helper()
	o.exec(`ALTER TABLE outbox.` + table + ` DISABLE ROW LEVEL SECURITY`)
}

// changer is the tracer of a pool. It changes policies just before the first run of a statement.
type changer struct {
	mu      sync.Mutex
	changes map[string]func() // by statement
}

// before sets what changes before the next run of a statement.
func (c *changer) before(sql string, change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == nil {
		c.changes = make(map[string]func())
	}
	c.changes[sql] = change
}

func (c *changer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	change := c.changes[d.SQL]
	delete(c.changes, d.SQL)
	c.mu.Unlock() // a change may call before
	if change != nil {
		change()
	}
	return ctx
}
func (c *changer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// changing is a store as the relay's role, in whose statements something changes.
func (o testOutbox) changing(before map[string]func()) testOutbox {
	o.t.Helper()
	return o.changedBy(&changer{changes: before})
}

// changedBy is changing for changes that are set later. A change must not come in a transaction that advances the
// rounds, which has locked what the change locks.
func (o testOutbox) changedBy(c *changer) testOutbox {
	o.t.Helper()
	s := o.asRelay()
	config := s.pool.Config()
	config.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(o.t.Context(), config)
	require.NoError(o.t, err)
	s.pool.Close()
	s.pool = pool
	s.pinned.end(errNotPinned) // its sessions have no tracer
	s.pinned.instead = pool
	changed := testOutbox{s, o.t, o.db}
	changed.roundsOnlyByHand()
	return changed
}

func TestLoad_OfEventsThatAreHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	s := testOutbox{o.asRelay(), t, o.db}
	_, lease := s.claimOne()
	o.hide("event")
	_, err := s.Load(t.Context(), lease, nil, relay.PageEvents)
	require.ErrorContains(t, err, "row level security")
	o.exec(`CREATE POLICY tenant ON outbox.event USING (topic <> 'orders')`)
	_, err = s.Load(t.Context(), lease, nil, relay.PageEvents)
	require.ErrorContains(t, err, "row level security")
	o.exec(`ALTER POLICY tenant ON outbox.event USING (true)`)
	require.Len(t, s.load(lease), 5, "a policy that shows all")
	o.exec(`DELETE FROM outbox.event`)
	page, err := s.Load(t.Context(), lease, nil, relay.PageEvents)
	require.NoError(t, err, "nothing is hidden: the events are gone")
	require.Len(t, page.Events, 5)
	require.Empty(t, page.Events[0].EventID)
}

// Both looks may miss events that are hidden, and the events may be visible when the check comes that follows.
func TestLoad_OfEventsThatWereHiddenAMomentAgoFindsThem(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	_, lease := o.claimOne()
	page, err := o.Page(t.Context(), lease, nil, relay.PageEvents)
	require.NoError(t, err)
	require.Len(t, page.Events, 5)
	o.hide("event")
	s := o.changing(map[string]func(){hiddenSQL: func() { o.show("event") }})
	require.NoError(t, s.Fill(t.Context(), page.Events))
	for _, e := range page.Events {
		require.NotEmpty(t, e.EventID, "it exists, and must not become a dead letter")
	}
}

func TestLoad_OfEventsThatAreHiddenAgainIsAnError(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	_, lease := o.claimOne()
	page, err := o.Page(t.Context(), lease, nil, relay.PageEvents)
	require.NoError(t, err)
	o.hide("event")
	s := o.changing(map[string]func(){
		hiddenSQL:    func() { o.show("event") },
		lookAgainSQL: func() { o.hide("event") },
	})
	require.ErrorContains(t, s.Fill(t.Context(), page.Events), "row level security")
}

// An event that is not there tells the worker that the database is another one.
func TestExists_OfAnEventThatIsHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	s := testOutbox{o.asRelay(), t, o.db}
	_, lease := s.claimOne()
	ref := s.load(lease)[0]
	o.hide("event")
	_, err := s.Exists(t.Context(), ref)
	require.ErrorContains(t, err, "row level security")
	o.show("event")
	exists, err := s.Exists(t.Context(), relay.Ref{ID: ref.ID + 1, At: ref.At})
	require.NoError(t, err)
	require.False(t, exists)
}

func TestClaim_WhileRowsAreHiddenIsAnError(t *testing.T) {
	for _, table := range []string{"event", "pending", "topic", "dead_letter"} {
		t.Run(table, func(t *testing.T) {
			o := open(t)
			o.write("orders", 5)
			s := testOutbox{o.asRelay(), t, o.db}
			require.NoError(t, s.Sweep(t.Context()))
			if table == "topic" {
				_, err := o.Pause(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "a test"})
				require.NoError(t, err)
				require.Empty(t, s.claim())
			}
			o.hide(table)
			_, err := s.Claim(t.Context(), request("x"))
			require.ErrorContains(t, err, "row level security")
			require.Zero(t, query[int](o, `SELECT count(*) FROM outbox.lane WHERE claim_id IS NOT NULL`))
			o.exec(`CREATE POLICY relay ON outbox.` + table + ` USING (true)`)
			_, err = s.Claim(t.Context(), request("x"))
			require.NoError(t, err, "a policy that shows all")
		})
	}
}

// Such a claim finds no lane, whether rows are hidden or not.
func TestClaim_WhileWorkersHoldAllSharesIsAnErrorIfRowsAreHidden(t *testing.T) {
	for _, table := range []string{"event", "pending", "lane", "topic", "dead_letter", "worker"} {
		t.Run(table, func(t *testing.T) {
			o := open(t)
			s := testOutbox{o.asRelay(), t, o.db}
			s.carrier().take(everyLane...)
			o.write("orders", 5)
			r := request("x")
			r.Carries = true
			claim := func() error {
				batches, err := s.Claim(t.Context(), r)
				require.Empty(t, batches)
				return err
			}
			require.NoError(t, claim())
			o.hide(table)
			require.ErrorContains(t, claim(), "row level security can hide rows of outbox."+table)
			o.exec(`CREATE POLICY relay ON outbox.` + table + ` USING (true)`)
			require.NoError(t, claim(), "a policy that shows all")
		})
	}
}

// A batch that was claimed before must not go on past a pause or a dead letter.
func TestTakeOver_WhileAPauseIsHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	s := testOutbox{o.asRelay(), t, o.db}
	batches := s.claim()
	_, err := o.Pause(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "a test"})
	require.NoError(t, err)
	o.hide("topic")
	_, err = s.TakeOver(t.Context(), batches[0])
	require.ErrorContains(t, err, "row level security")
	o.show("topic")
	lease, err := s.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	require.Equal(t, "ada", lease.PausedBy)
}

func TestBlocked_WhileDeadLettersAreHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 1)
	dead := o.bury("Poison")
	s := o.asRelay()
	o.hide("dead_letter")
	_, err := s.Blocked(t.Context(), "orders", []string{"k"})
	require.ErrorContains(t, err, "row level security")
	o.show("dead_letter")
	blocked, err := s.Blocked(t.Context(), "orders", []string{"k"})
	require.NoError(t, err)
	require.Equal(t, dead[0], blocked[relay.Chain{Key: "k"}])
}

// An operation that sees nothing would end "done" with nothing moved.
func TestOperation_WhileRowsAreHiddenIsAnError(t *testing.T) {
	for _, table := range []string{"event", "dead_letter", "discarded", "pending", "lane"} {
		t.Run(table, func(t *testing.T) {
			o := open(t)
			o.write("orders", 1)
			o.drain(second(o.claimOne()))
			o.write("orders", 1)
			waitFor(t, "the lane to be free of the raise", func() bool { return len(o.bury("Poison")) > 0 })
			s := testOutbox{o.asRelay(), t, o.db}
			for _, kind := range []string{relay.Redrive, relay.Discard, relay.Replay} {
				u := o.begin(kind, relay.Selection{})
				step, err := s.NextStep(t.Context(), u, u.From, 10)
				require.NoError(t, err)
				require.Len(t, step.Moves, 1, kind)
				o.hide(table)
				_, err = s.NextStep(t.Context(), u, u.From, 10)
				require.ErrorContains(t, err, "row level security", kind)
				_, _, err = s.Bounds(t.Context(), u)
				require.ErrorContains(t, err, "row level security", kind)
				_, _, err = s.Move(t.Context(), u, step.Moves)
				require.ErrorContains(t, err, "level security", kind)
				o.show(table)
			}
			o.hide(table)
			_, err := s.CountDead(t.Context(), "orders", relay.Selection{})
			require.ErrorContains(t, err, "row level security")
			_, _, err = s.CountPublished(t.Context(), "orders", relay.Selection{}, nil)
			require.ErrorContains(t, err, "row level security")
		})
	}
}

// Events that count as settled are forgotten, and another worker publishes those that are still pending.
func TestSettle_OfEventsThatWereHiddenAMomentAgoRemovesThem(t *testing.T) {
	settle := map[string]func(s testOutbox, refs []relay.Ref) error{
		"Settle": func(s testOutbox, refs []relay.Ref) error { return s.Settle(t.Context(), "orders", refs) },
		"SettleTopics": func(s testOutbox, refs []relay.Ref) error {
			return s.SettleTopics(t.Context(), []relay.TopicRefs{{Topic: "orders", Refs: refs}})
		},
	}
	for name, settle := range settle {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.write("orders", 5)
			_, lease := o.claimOne()
			refs := o.load(lease)
			o.hide("pending")
			require.NoError(t, settle(o.changing(map[string]func(){hiddenSQL: func() { o.show("pending") }}), refs))
			require.Zero(t, o.pending())
		})
	}
}

func TestBlocked_WhileDeadLettersWereHiddenAMomentAgoFindsThem(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 1)
	dead := o.bury("Poison")
	o.hide("dead_letter")
	s := o.changing(map[string]func(){hiddenSQL: func() { o.show("dead_letter") }})
	blocked, err := s.Blocked(t.Context(), "orders", []string{"k"})
	require.NoError(t, err)
	require.Equal(t, dead[0], blocked[relay.Chain{Key: "k"}])
}

// A look that has missed an event would leave its id out once the id is final.
func TestReads_OfRowsThatWereHiddenAMomentAgoFindThem(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	cursor := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	changing := func(table string) testOutbox {
		o.hide(table)
		return o.changing(map[string]func(){hiddenSQL: func() { o.show(table) }})
	}
	require.Len(t, changing("event").see(everything()).Events, 3)
	require.Len(t, changing("pending").pages(10, cursor).Events, 3)
	require.Len(t, changing("pending").discover(everyLane...).First, 1)
	exists, err := changing("event").Exists(t.Context(), o.pages(10, cursor).Events[0].Ref)
	require.NoError(t, err)
	require.True(t, exists)
	require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
	o.exec(`UPDATE outbox.lane SET apart = true WHERE topic = 'orders' AND lane = $1`, cursor.Lane)
	found, err := changing("lane").Exceptions(t.Context(), everyLane)
	require.NoError(t, err)
	require.Len(t, found, 1)
	shares, err := changing("lane").Attend(t.Context(), relay.Attendance{Worker: aWorker, Lanes: everyLane})
	require.NoError(t, err)
	require.Len(t, shares.Exceptions, 1)
}

// It would end "done", too.
func TestOperation_OfRowsThatWereHiddenAMomentAgoMovesThem(t *testing.T) {
	o := open(t)
	o.write("orders", 1)
	o.drain(second(o.claimOne()))
	o.write("orders", 1)
	waitFor(t, "the lane to be free of the raise", func() bool { return len(o.bury("Poison")) > 0 })
	for kind, table := range map[string]string{relay.Redrive: "dead_letter", relay.Discard: "dead_letter", relay.Replay: "event"} {
		u := o.begin(kind, relay.Selection{})
		changing := func() testOutbox {
			o.hide(table)
			return o.changing(map[string]func(){hiddenSQL: func() { o.show(table) }})
		}
		step, err := changing().NextStep(t.Context(), u, u.From, 10)
		require.NoError(t, err)
		require.Len(t, step.Moves, 1, kind)
		if kind == relay.Replay {
			_, last, err := changing().Bounds(t.Context(), u)
			require.NoError(t, err)
			require.Positive(t, last)
			continue
		}
		count, err := changing().CountDead(t.Context(), "orders", relay.Selection{})
		require.NoError(t, err)
		require.EqualValues(t, 1, count.Events)
	}
}

func second[A, B any](_ A, b B) B { return b }

// At its start, a worker checks row level security when there is none, and the check passes. Hours later somebody
// enables it, and disables it again as soon as the read lets go of its locks. No check came between the two, but the
// read itself says that a policy applied to it, and the one before said that none did.
func TestReads_FindRowsHiddenAMomentAgoAfterACheckOfLongAgo(t *testing.T) {
	for name, read := range map[string]struct {
		table string
		found func(o testOutbox, at relay.LaneCursor) int
	}{
		"Look, events": {"event", func(o testOutbox, _ relay.LaneCursor) int { return len(o.see(everything()).Events) }},
		"Look, pending": {"pending", func(o testOutbox, _ relay.LaneCursor) (n int) {
			for _, e := range o.see(everything()).Events {
				if e.Pending {
					n++
				}
			}
			return n
		}},
		"Pages, pending": {"pending", func(o testOutbox, at relay.LaneCursor) int { return len(o.pages(10, at).Events) }},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			o.hold(everyLane...)
			o.writeKey("orders", "k", 3)
			cursor := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
			var c changer
			s := o.changedBy(&c)
			require.NoError(t, s.Security(t.Context())) // at the start, and with each look of readiness
			require.Equal(t, 3, read.found(s, cursor), "nothing is hidden")
			c.before(hiddenSQL, func() { o.show(read.table) })
			o.hide(read.table)
			require.Equal(t, 3, read.found(s, cursor), "they were hidden")
		})
	}
}

// Another goroutine's check has failed between the look and its own check.
func TestReads_NoticeACheckThatFailedMeanwhile(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.exec(`CREATE POLICY tenant ON outbox.event USING (true)`)
	o.hide("event") // with a policy that shows all
	o.writeKey("orders", "k", 3)
	var c changer
	s := o.changedBy(&c)
	require.Len(t, s.see(everything()).Events, 3)
	c.before(lookSQL, func() {
		o.exec(`ALTER POLICY tenant ON outbox.event USING (false)`)
		require.Error(t, security(t.Context(), o.asRelay().pool, false))
		s.visible.end() // as Security of another goroutine does
	})
	c.before(hiddenSQL, func() { o.exec(`ALTER POLICY tenant ON outbox.event USING (true)`) })
	require.Len(t, s.see(everything()).Events, 3)
}

// If one read asked about fewer tables than another, each would end the other's series.
func TestReads_HaveOneSeriesWhicheverTableHasAPolicy(t *testing.T) {
	for _, table := range []string{"event", "round", "dated"} {
		t.Run(table, func(t *testing.T) {
			o := open(t)
			o.writeKey("orders", "k", 3)
			_, lease := o.claimOne()
			o.hold(everyLane...)
			o.exec(`CREATE POLICY relay ON outbox.` + table + ` USING (true)`)
			o.hide(table)
			s := testOutbox{o.asRelay(), t, o.db}
			s.roundsOnlyByHand()
			s.see(everything())
			series := s.visible.series()
			require.NotZero(t, series)
			_, err := s.Attend(t.Context(), relay.Attendance{Worker: aWorker, Lanes: everyLane})
			require.NoError(t, err)
			s.pages(10, relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10})
			s.discover(everyLane...)
			s.load(lease)
			require.Equal(t, series, s.visible.series())
		})
	}
}

// The next call may find that the policies do not change any more.
func TestReads_AreRepeatedOnceAtMost(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	_, lease := o.claimOne()
	o.hold(everyLane...)
	o.exec(`CREATE POLICY relay ON outbox.event USING (true)`)
	o.hide("event")
	at := relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}
	for sql, read := range map[string]func(s testOutbox) error{
		lookSQL:     func(s testOutbox) error { return failed(s.Look(t.Context(), everything())) },
		pagesSQL:    func(s testOutbox) error { return failed(s.Pages(t.Context(), aWorker, []relay.LaneCursor{at}, 10)) },
		discoverSQL: func(s testOutbox) error { return failed(s.Discover(t.Context(), aWorker, everyLane)) },
		attendSQL: func(s testOutbox) error {
			return failed(s.Attend(t.Context(), relay.Attendance{Worker: aWorker, Lanes: everyLane}))
		},
		pageSQL: func(s testOutbox) error { return failed(s.Page(t.Context(), lease, nil, 10)) },
	} {
		var c changer
		s := o.changedBy(&c)
		runs := 0
		var end func()
		end = func() {
			s.visible.end() // as a read does to which no policy applied
			if runs++; runs < 10 {
				c.before(sql, end)
			}
		}
		c.before(sql, end)
		require.ErrorContains(t, read(s), "row level security")
		require.Equal(t, 2, runs, sql)
		c.before(sql, nil)
		require.NoError(t, read(s))
	}
}

func failed[A any](_ A, err error) error { return err }

// It knows no more than before, and a read of another goroutine need not be repeated for it.
func TestSecurity_EndsNoSeriesIfItIsCancelled(t *testing.T) {
	o := open(t)
	o.exec(`CREATE POLICY relay ON outbox.event USING (true)`)
	o.hide("event")
	s := testOutbox{o.asRelay(), t, o.db}
	s.see(everything())
	series := s.visible.series()
	require.NotZero(t, series)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Security(ctx), context.Canceled)
	require.Equal(t, series, s.visible.series())
	o.exec(`ALTER POLICY relay ON outbox.event USING (false)`)
	require.Error(t, s.Security(t.Context()))
	require.Zero(t, s.visible.series())
}

// If a low watermark rose above a hidden event, the next claim would send the later event of its key first.
func TestWatermark_DoesNotRiseOverAnEventThatIsHidden(t *testing.T) {
	for name, changes := range map[string]map[string]func(o testOutbox){
		"from before":        {raisableSQL: func(o testOutbox) { o.hide("pending") }},
		"just for the raise": {raiseSQL: func(o testOutbox) { o.hide("pending") }},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			require.NoError(t, o.EnsureLanes(t.Context(), []string{"orders"}))
			o.claim()
			o.sweepOnlyByHand()
			o.roundsAtOnce()
			tx := slow(o, "orders", "k") // has id 1
			o.writeKey("orders", "k", 3) // as if of another key of the lane
			require.Equal(t, []int64{2, 3, 4}, o.publishAll())
			require.NoError(t, tx.Commit(t.Context()))

			var c changer
			for sql, change := range changes {
				c.before(sql, func() { change(o) })
			}
			s := o.changedBy(&c)
			s.sweepOnlyByHand()
			s.roundsAtOnce()
			for range 6 { // as often as Claim and Page do
				if _, _, err := s.AdvanceRounds(t.Context(), true); err != nil {
					require.ErrorContains(t, err, "row level security")
				}
			}
			_, err := s.Claim(t.Context(), request("x"))
			require.ErrorContains(t, err, "row level security")
			o.show("pending")

			o.writeKey("orders", "k", 1) // serialised behind it
			require.Equal(t, 2, o.pending())
			require.Equal(t, []int64{1, 5}, o.publishAll(), "in order")
		})
	}
}

// A dead letter without its key would block nothing, and its redrive would take along nothing behind it.
func TestDeadLetter_OfAnEventThatIsHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	s := testOutbox{o.asRelay(), t, o.db}
	_, lease := s.claimOne()
	dead := refusedAs("Poison", s.load(lease)[0])
	o.hide("event")
	require.ErrorContains(t, s.DeadLetter(t.Context(), lease, "relay-1", dead), "row level security")
	require.Equal(t, 3, o.pending())
	o.exec(`CREATE POLICY relay ON outbox.event USING (true)`)
	require.NoError(t, s.DeadLetter(t.Context(), lease, "relay-1", dead), "a policy that shows all")
	require.Equal(t, "k", query[string](o, `SELECT key FROM outbox.dead_letter`))
}

// An event that is missing has no key. A carrier would send one of a hot key before those it has left.
func TestKeys_OfEventsThatAreHiddenIsAnError(t *testing.T) {
	o := open(t)
	o.hold(everyLane...)
	o.writeKey("orders", "k", 3)
	s := testOutbox{o.asRelay(), t, o.db}
	events := s.pages(10, relay.LaneCursor{TopicLane: o.laneOf("orders", "k"), Most: 10}).Events
	o.hide("event")
	_, err := s.Keys(t.Context(), events)
	require.ErrorContains(t, err, "row level security")
	o.show("event")
	o.exec(`DELETE FROM outbox.event WHERE id = $1`, events[1].Ref.ID)
	keys, err := s.Keys(t.Context(), events)
	require.NoError(t, err)
	require.Equal(t, []string{"k", "", "k"}, keys)
}

// It would send the third event of a key before the first.
func TestBatch_WhilePartOfAKeyIsHiddenReadsNothing(t *testing.T) {
	o := open(t)
	o.writeKey("orders", "k", 3)
	s := testOutbox{o.asRelay(), t, o.db}
	_, lease := s.claimOne()
	o.exec(`CREATE POLICY part ON outbox.pending USING (id > 1)`)
	o.hide("pending")
	for name, read := range map[string]func() error{
		"Page":    func() error { return failed(s.Page(t.Context(), lease, nil, 10)) },
		"Probe":   func() error { return failed(s.Probe(t.Context(), lease, nil, relay.Probe{Events: 10, Ordered: true})) },
		"Highest": func() error { return failed(s.Highest(t.Context(), lease)) },
	} {
		require.ErrorContains(t, read(), "row level security", name)
	}
}

func TestDelivered_OfEventsThatWereHiddenAMomentAgoCountsThem(t *testing.T) {
	o := open(t)
	operation := o.redriven(3)
	o.hide("pending")
	s := o.changing(map[string]func(){hiddenSQL: func() { o.show("pending") }})
	d, err := s.Delivered(t.Context(), operation, 3)
	require.NoError(t, err)
	require.EqualValues(t, 3, d.Pending)
}

// A batch that was claimed before must not go on past a pause, although the pause is visible again.
func TestTakeOver_WhileAPauseWasHiddenAMomentAgoSeesIt(t *testing.T) {
	o := open(t)
	o.write("orders", 5)
	s := o.changing(map[string]func(){hiddenSQL: func() { o.show("topic") }})
	batches := o.claim()
	_, err := o.Pause(t.Context(), relay.Operation{Topic: "orders", By: "ada", Reason: "a test"})
	require.NoError(t, err)
	o.hide("topic")
	lease, err := s.TakeOver(t.Context(), batches[0])
	require.NoError(t, err)
	require.Equal(t, "ada", lease.PausedBy)
}
