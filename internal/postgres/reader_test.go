package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
)

// reader reads as a worker that holds shares does: lanes that have pending events at first page by page,
// and all others by looks at ids.
type reader struct {
	o      testOutbox
	random *rand.Rand
	broken breakage

	lanes   []int16
	gaps    *relay.Gaps
	last    relay.Ref
	final   int64
	server  time.Time
	most    int
	backlog map[relay.TopicLane]int64 // the cursor of each lane that is read by pages
	inHand  map[relay.TopicLane]map[relay.Ref]bool
	got     func(e relay.TopicEvent)
	more    bool   // the last look was cut
	between func() // runs before a look, or between the two of a broken reader
	taken   int

	// settled has the events whose settlement has ended since the last read began.
	mu       sync.Mutex
	settled  []relay.Narrow
	settling sync.WaitGroup
	waiting  []relay.Narrow // to be settled
}

// breakage breaks one rule of reading, to prove that the tests notice it.
type breakage struct {
	twoSnapshots bool // looks above and below the highest id in two statements
	forgetGaps   bool // takes all ids below the highest one as seen
	finalThough  bool // takes final ids as seen although the answer was cut before them
	lastOnly     bool // reads the next page from the last id, though lower ids may come
}

const readerMost = 50

func newReader(o testOutbox, seed uint64, lanes []int16, got func(relay.TopicEvent)) *reader {
	r := &reader{o: o, random: rand.New(rand.NewPCG(seed, 3)), lanes: lanes, got: got, most: readerMost}
	o.t.Cleanup(r.settling.Wait)
	return r
}

// begin forgets everything and finds lanes with pending events.
func (r *reader) begin(ctx context.Context) error {
	found, err := r.o.Discover(ctx, aWorker, r.lanes)
	if err != nil {
		return err
	}
	r.gaps = relay.NewGaps(found.Final, 1+r.random.IntN(20))
	r.last, r.final, r.server = relay.Ref{}, found.Final, found.Server
	r.backlog, r.inHand = map[relay.TopicLane]int64{}, map[relay.TopicLane]map[relay.Ref]bool{}
	for _, f := range found.First {
		r.backlog[f.TopicLane] = f.Ref.ID - 1
	}
	return nil
}

// end settles everything in hand.
func (r *reader) end(ctx context.Context) error {
	r.settling.Wait()
	err := r.o.SettleTopics(ctx, topicRefs(r.waiting))
	r.waiting, r.settled = nil, nil
	return err
}

// step reads once.
func (r *reader) step(ctx context.Context) error {
	// Only between two reads, and not if the settlement ended during one: its snapshot may still have
	// the event.
	r.mu.Lock()
	for _, e := range r.settled {
		delete(r.inHand[relay.TopicLane{Topic: e.Topic, Lane: e.Ref.Lane}], e.Ref)
	}
	r.settled = nil
	r.mu.Unlock()
	r.taken = 0
	if err := r.page(ctx); err != nil {
		return err
	}
	if err := r.look(ctx); err != nil {
		return err
	}
	if r.random.IntN(3) == 0 && len(r.waiting) > 0 {
		r.random.Shuffle(len(r.waiting), func(i, j int) { r.waiting[i], r.waiting[j] = r.waiting[j], r.waiting[i] })
		n := 1 + r.random.IntN(len(r.waiting))
		some := slices.Clone(r.waiting[:n])
		r.waiting = r.waiting[n:]
		r.settling.Go(func() {
			if err := r.o.SettleTopics(context.WithoutCancel(ctx), topicRefs(some)); err != nil {
				r.o.t.Errorf("settle: %v", err)
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.settled = append(r.settled, some...)
		})
	}
	return nil
}

func (r *reader) page(ctx context.Context) error {
	var cursors []relay.LaneCursor
	for lane, after := range r.backlog {
		if len(cursors) < 8 {
			cursors = append(cursors, relay.LaneCursor{TopicLane: lane, After: after, Most: len(r.inHand[lane]) + 2 + r.random.IntN(10)})
		}
	}
	if len(cursors) == 0 {
		return nil
	}
	most := 40
	for _, lane := range cursors {
		most += len(r.inHand[lane.TopicLane])
	}
	read, err := r.o.Pages(ctx, aWorker, cursors, most)
	if err != nil {
		return err
	}
	if !read.Server.Equal(r.server) {
		return errAnotherHistory
	}
	last := map[relay.TopicLane]int64{}
	for _, e := range read.Events {
		last[relay.TopicLane{Topic: e.Topic, Lane: e.Ref.Lane}] = e.Ref.ID
	}
	for _, c := range cursors {
		if !slices.Contains(read.Full, c.TopicLane) {
			delete(r.backlog, c.TopicLane)
			continue
		}
		if id, any := last[c.TopicLane]; any {
			r.backlog[c.TopicLane] = min(id-1, read.Final)
			if r.broken.lastOnly {
				r.backlog[c.TopicLane] = id - 1
			}
		}
	}
	return r.take(ctx, read.Events)
}

func (r *reader) look(ctx context.Context) error {
	between := r.between
	if between == nil {
		between = func() {}
	}
	ranges := slices.Clone(r.gaps.Ranges())
	if tail := len(ranges) - 1; r.broken.twoSnapshots {
		if err := r.lookIn(ctx, ranges[:tail]); err != nil {
			return err
		}
		between()
		return r.lookIn(ctx, ranges[tail:])
	}
	between()
	return r.lookIn(ctx, ranges)
}

// lookFor asks for all ids that the reader has not seen.
func (r *reader) lookFor() relay.Look {
	return relay.Look{
		Worker: aWorker, Lanes: r.lanes, Ranges: slices.Clone(r.gaps.Ranges()), Last: r.last, Final: r.final, Server: r.server, Most: r.most,
	}
}

func (r *reader) lookIn(ctx context.Context, ranges []relay.IDRange) error {
	l := r.lookFor()
	l.Ranges = ranges
	found, err := r.o.Look(ctx, l)
	if err != nil {
		return err
	}
	if !found.SameHistory {
		return errAnotherHistory
	}
	var narrow []relay.Narrow
	for _, e := range found.Events {
		if e.ID > r.last.ID {
			r.last = e.Ref
		}
		lane := relay.TopicLane{Topic: e.Topic, Lane: e.Lane}
		if _, isBacklog := r.backlog[lane]; e.Pending && !isBacklog {
			narrow = append(narrow, relay.Narrow{Topic: e.Topic, Ref: e.Ref, Bytes: e.Bytes})
		}
	}
	if r.broken.finalThough {
		r.gaps.Final(found.Final)
	}
	r.more, r.final = found.More, found.Final
	if r.gaps.Looked(found) || !found.More {
		r.most = readerMost
	} else {
		r.most *= 2
	}
	if r.broken.forgetGaps {
		r.gaps.Final(r.last.ID)
	}
	return r.take(ctx, narrow)
}

var errAnotherHistory = fmt.Errorf("the history is another one")

// take publishes events that are not in hand yet.
func (r *reader) take(ctx context.Context, events []relay.Narrow) error {
	events = slices.DeleteFunc(events, func(e relay.Narrow) bool {
		return r.inHand[relay.TopicLane{Topic: e.Topic, Lane: e.Ref.Lane}][e.Ref]
	})
	contents, err := r.o.Contents(ctx, events)
	if err != nil {
		return err
	}
	for i, e := range contents {
		lane := relay.TopicLane{Topic: e.Topic, Lane: e.Lane}
		if r.inHand[lane] == nil {
			r.inHand[lane] = map[relay.Ref]bool{}
		}
		r.inHand[lane][e.Ref] = true
		r.waiting = append(r.waiting, events[i])
		r.taken++
		r.got(e)
	}
	return nil
}

// ledger has the events of the producers and those of a reader, by topic and key.
type ledger struct {
	mu              sync.Mutex
	committed, came map[string][]string
	rolledBack      []string
	keys            map[string]*sync.Mutex // an aggregate's row lock, held until the commit
}

func newLedger() *ledger {
	return &ledger{committed: map[string][]string{}, came: map[string][]string{}, keys: map[string]*sync.Mutex{}}
}

func (l *ledger) got(e relay.TopicEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := e.Topic + "/" + e.Key
	l.came[key] = append(l.came[key], e.Payload)
}

func (l *ledger) counts() (committed, came int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.committed {
		committed += len(all)
	}
	for _, all := range l.came {
		came += len(all)
	}
	return committed, came
}

// violations compares both. Events without a key have no order.
func (l *ledger) violations() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, want := range l.committed {
		got := slices.Clone(l.came[key])
		if strings.HasSuffix(key, "/") {
			slices.Sort(got)
			want = slices.Sorted(slices.Values(want))
		}
		if !slices.Equal(want, got) {
			all = append(all, fmt.Sprintf("%s: %d were committed and %d came: %.300v instead of %.300v", key, len(want), len(got), got, want))
		}
	}
	for key := range l.came {
		if _, known := l.committed[key]; !known {
			all = append(all, key+" came, and was not committed")
		}
	}
	return all
}

// lock locks keys in one order, so that producers do not deadlock.
func (l *ledger) lock(keys []string) (unlock func()) {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	var locked []*sync.Mutex
	for _, key := range keys {
		l.mu.Lock()
		if l.keys[key] == nil {
			l.keys[key] = &sync.Mutex{}
		}
		m := l.keys[key]
		l.mu.Unlock()
		m.Lock()
		locked = append(locked, m)
	}
	return func() {
		for _, m := range locked {
			m.Unlock()
		}
	}
}

// written is an event of a transaction.
type written struct{ topic, key, payload string }

// transact writes events in one transaction, as write does, and notes them if they are committed.
func (l *ledger) transact(events []written, commit bool, write func() error) error {
	var keys []string
	for _, e := range events {
		if e.key != "" {
			keys = append(keys, e.topic+"/"+e.key)
		}
	}
	defer l.lock(keys)()
	if err := write(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if commit {
			l.committed[e.topic+"/"+e.key] = append(l.committed[e.topic+"/"+e.key], e.payload)
		} else {
			l.rolledBack = append(l.rolledBack, e.payload)
		}
	}
	return nil
}

const insertEventSQL = `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, 'T', $3)`

// insertSlowlySQL draws its id before it waits, and has no transaction id until then.
const insertSlowlySQL = `INSERT INTO outbox.event (topic, key, type, payload) VALUES ($1, $2, 'T', (SELECT $3 || coalesce(pg_sleep($4)::text, '')))`

// produce runs one producer, which does all that holds an id back.
func (l *ledger) produce(ctx context.Context, o testOutbox, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 9))
	topics := []string{"orders", "audit", "mail"}
	pause := func(most int) { time.Sleep(time.Duration(random.IntN(most)) * time.Millisecond) } // transactions overlap
	for i := 0; ctx.Err() == nil; i++ {
		payload := fmt.Sprintf("%d-%d", seed, i)
		one := func(n int) written {
			key := fmt.Sprint("k", random.IntN(6))
			if random.IntN(8) == 0 {
				key = ""
			}
			return written{topics[random.IntN(len(topics))], key, fmt.Sprint(payload, ".", n)}
		}
		events, commit := []written{one(0)}, random.IntN(5) > 0
		var write func() error
		kind := random.IntN(20)
		switch {
		case kind == 0: // a copy
			events[0].key = fmt.Sprint("copy", payload)
			for n := 1; n < 500+random.IntN(1500); n++ {
				events = append(events, written{events[0].topic, events[0].key, fmt.Sprint(payload, ".", n)})
			}
			write = func() error {
				return l.inTransaction(o, commit, func(tx pgx.Tx) error {
					_, err := tx.CopyFrom(o.t.Context(), pgx.Identifier{"outbox", "event"}, []string{"topic", "key", "type", "payload"},
						pgx.CopyFromSlice(len(events), func(i int) ([]any, error) {
							return []any{events[i].topic, events[i].key, "T", events[i].payload}, nil
						}))
					pause(100)
					return err
				})
			}
		case kind == 1: // prepared, and decided later
			write = func() error { return l.prepare(o, fmt.Sprint("reader-", o.t.Name(), payload), commit, events, pause) }
		case kind < 6: // a slow statement
			write = func() error {
				return l.inTransaction(o, commit, func(tx pgx.Tx) error {
					_, err := tx.Exec(o.t.Context(), insertSlowlySQL, events[0].topic, events[0].key, events[0].payload, random.Float64()/10)
					return err
				})
			}
		default: // one or several events, with a savepoint that is rolled back
			for n := 1; n < random.IntN(4); n++ {
				events = append(events, one(n))
			}
			wait := 5
			if kind == 6 {
				wait = 2000
			}
			write = func() error {
				return l.inTransaction(o, commit, func(tx pgx.Tx) error {
					for _, e := range events {
						if _, err := tx.Exec(o.t.Context(), insertEventSQL, e.topic, e.key, e.payload); err != nil {
							return err
						}
						if random.IntN(4) == 0 {
							if err := rollBackPart(o.t.Context(), tx); err != nil {
								return err
							}
						}
						pause(wait)
					}
					return nil
				})
			}
		}
		if err := l.transact(events, commit, write); err != nil {
			return err
		}
	}
	return nil
}

func rollBackPart(ctx context.Context, tx pgx.Tx) error {
	part, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := part.Exec(ctx, insertEventSQL, "orders", "k", "rolled back to a savepoint"); err != nil {
		return err
	}
	return part.Rollback(ctx)
}

func (l *ledger) inTransaction(o testOutbox, commit bool, write func(tx pgx.Tx) error) error {
	tx, err := o.db.Begin(o.t.Context())
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if err := write(tx); err != nil || !commit {
		return err
	}
	return tx.Commit(o.t.Context())
}

func (l *ledger) prepare(o testOutbox, name string, commit bool, events []written, pause func(int)) error {
	tx, err := o.db.Begin(o.t.Context())
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for _, e := range events {
		if _, err := tx.Exec(o.t.Context(), insertEventSQL, e.topic, e.key, e.payload); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(o.t.Context(), fmt.Sprintf(`PREPARE TRANSACTION '%s'`, name)); err != nil {
		return err
	}
	pause(200)
	end := `ROLLBACK`
	if commit {
		end = `COMMIT`
	}
	_, err = o.db.Exec(context.Background(), fmt.Sprintf(`%s PREPARED '%s'`, end, name))
	return err
}

// oldRounds advances the rounds as version 0.1.0 does.
func (o testOutbox) oldRounds(ctx context.Context) error {
	var r, n roundState
	var holders []string
	var due bool
	if err := o.db.QueryRow(ctx, roundSQL, time.Millisecond).Scan(&r.number, &r.ended, &r.writers, &due, &holders); err != nil {
		return err
	}
	n, changed := r.next(holders, due)
	if !changed {
		return nil
	}
	_, err := o.db.Exec(ctx, oldMoveRoundSQL, r.number, r.ended, r.writers, n.number, n.ended, n.writers)
	return err
}

// readWhileProducing has producers write, rounds of both versions advance, and readers read one after the
// other, for so many reads and events. It returns the violations.
func readWhileProducing(t *testing.T, o testOutbox, seed uint64, reads, events int, b breakage) []string {
	t.Helper()
	o.hold(everyLane...)
	o.roundsAtOnce()
	o.roundsOnlyByHand()
	l := newLedger()
	var producers, advancing sync.WaitGroup
	producing, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for n := range uint64(8) {
		producers.Go(func() {
			if err := l.produce(producing, o, seed*100+n); err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	rounds, stopRounds := context.WithCancel(t.Context())
	for _, advance := range []func(context.Context) error{
		o.oldRounds,
		func(ctx context.Context) error { _, _, err := o.AdvanceRounds(ctx, true); return err },
	} {
		advancing.Go(func() {
			for rounds.Err() == nil {
				if err := advance(rounds); err != nil && rounds.Err() == nil {
					t.Errorf("advance the round: %v", err)
				}
				time.Sleep(3 * time.Millisecond) // rounds are not all that the machine does
			}
		})
	}
	random := rand.New(rand.NewPCG(seed, 5))
	r := newReader(o, seed, everyLane, l.got)
	r.broken = b
	require.NoError(t, r.begin(t.Context()))
	n := 0
	for ended := false; ; n++ {
		if random.IntN(100) == 0 { // another worker takes over
			require.NoError(t, r.end(t.Context()))
			time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond) // a backlog
			require.NoError(t, r.begin(t.Context()))
		}
		require.NoError(t, r.step(t.Context()))
		if ended && r.taken == 0 && !r.more && len(r.backlog) == 0 {
			break // all that was committed before is read now, or is lost
		}
		if committed, _ := l.counts(); !ended && (n >= reads && committed >= events || producing.Err() != nil) {
			stop()
			producers.Wait()
			ended = true
		}
		time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond) // transactions come between the reads
	}
	require.NoError(t, r.end(t.Context()))
	stopRounds()
	advancing.Wait()
	committed, came := l.counts()
	t.Logf("seed %d: %d reads brought %d of %d events", seed, n, came, committed)
	return l.violations()
}

func TestReader_MissesNothingAndKeepsTheOrderOfEachKey(t *testing.T) {
	o := open(t)
	require.Empty(t, readWhileProducing(t, o, uint64(time.Now().UnixNano()), 400, 3000, breakage{}))
	require.Zero(t, o.pending())
	require.Positive(t, o.finalID())
}

// script is one reader with producers in an order that a test says.
type script struct {
	testOutbox
	*ledger
	r *reader
}

func newScript(t *testing.T, b breakage) script {
	t.Helper()
	o, l := open(t), newLedger()
	o.hold(everyLane...)
	o.roundsAtOnce()
	o.roundsOnlyByHand()
	r := newReader(o, 1, everyLane, l.got)
	r.broken = b
	return script{o, l, r}
}

// open draws an id and holds it until the commit. The key is of topic orders.
func (s script) open(key, payload string) (commit func()) {
	s.t.Helper()
	tx, err := s.db.Begin(s.t.Context())
	require.NoError(s.t, err)
	_, err = tx.Exec(s.t.Context(), insertEventSQL, "orders", key, payload)
	require.NoError(s.t, err)
	return func() {
		s.t.Helper()
		require.NoError(s.t, tx.Commit(s.t.Context()))
		s.committed["orders/"+key] = append(s.committed["orders/"+key], payload)
	}
}

func (s script) write(key string, payloads ...string) {
	s.t.Helper()
	for _, payload := range payloads {
		s.open(key, payload)()
	}
}

func (s script) begin() {
	s.t.Helper()
	require.NoError(s.t, s.r.begin(s.t.Context()))
}

func (s script) step() {
	s.t.Helper()
	require.NoError(s.t, s.r.step(s.t.Context()))
}

func numbered(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint("payload ", i))
	}
	return all
}

// Each rule of reading is needed: a reader that breaks it loses events or their order.
func TestReader_NeedsEachOfItsRules(t *testing.T) {
	for name, c := range map[string]struct {
		broken breakage
		sql    string // breaks the rounds
		play   func(s script)
	}{
		"below and above in one snapshot": {broken: breakage{twoSnapshots: true}, play: func(s script) {
			commit := s.open("k", "first")
			s.begin()
			s.write("other", "seen before")
			s.step()
			s.r.between = func() {
				commit()
				s.write("k", "second")
				s.r.between = nil
			}
			s.step()
			s.step()
		}},
		"gaps are kept": {broken: breakage{forgetGaps: true}, play: func(s script) {
			s.begin()
			commit := s.open("k", "first")
			s.write("other", "x")
			s.step()
			commit()
			s.step()
		}},
		"final ids behind a cut were not read": {broken: breakage{finalThough: true}, play: func(s script) {
			s.begin()
			s.write("k", numbered(readerMost+10)...)
			s.endRounds()
			for range 3 {
				s.step()
			}
		}},
		"pages go on from the final id": {broken: breakage{lastOnly: true}, play: func(s script) {
			commit := s.open("k", "first")
			s.write("k", numbered(30)...) // as if of another key of the lane
			s.begin()
			s.step()
			require.NotEmpty(s.t, s.r.backlog)
			s.committed["orders/k"] = nil
			commit()
			s.write("k", "second")
			for len(s.r.backlog) > 0 {
				s.step()
			}
			s.step()
			s.came["orders/k"] = slices.DeleteFunc(s.came["orders/k"], func(p string) bool { return strings.HasPrefix(p, "payload") })
		}},
		"an id is final as of the close of the round": {sql: `
			CREATE FUNCTION outbox.broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			    IF NEW.ended > OLD.ended THEN SELECT last_value INTO NEW.final_id FROM outbox.event_id_seq; END IF;
			    RETURN NEW;
			END $$;
			CREATE TRIGGER broken BEFORE UPDATE ON outbox.round FOR EACH ROW EXECUTE FUNCTION outbox.broken()`, play: func(s script) {
			s.begin()
			commit := s.open("other", "x")
			_, _, err := s.AdvanceRounds(s.t.Context(), true)
			require.NoError(s.t, err)
			commitLate := s.open("k", "late")
			s.write("another", "y")
			commit()
			_, waits, err := s.AdvanceRounds(s.t.Context(), false)
			require.NoError(s.t, err)
			require.False(s.t, waits)
			s.step()
			commitLate()
			s.step()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, breakage{})
			c.play(s)
			require.Empty(t, s.violations())
			s = newScript(t, c.broken)
			if c.sql != "" {
				s.exec(c.sql)
			}
			c.play(s)
			require.NotEmpty(t, s.violations(), "the test does not notice that the rule is broken")
		})
	}
}
