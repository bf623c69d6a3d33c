package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// world is a small model of all that carriers work with: a database with its leases, producers whose
// transactions commit late, destinations, and the batches of single topics. It runs in a bubble of
// synctest, so that its clock is quick and time passes only when everybody waits. Each call of the
// database is one moment: it sees all that was committed before.
//
// The world notes where a rule is broken: who sends an event of a lane that is not its own, and which
// event arrives before an earlier one of its key.
type world struct {
	mu       sync.Mutex
	rng      *rand.Rand
	problems []string
	base

	all      map[relay.Ref]*message // that were ever committed
	opened   map[*write]bool
	writers  map[string]*chain    // by key
	arrived  map[*message]int     // how often
	repeats  int                  // arrivals of events that had arrived
	poison   map[*message]bool    // refused for ever
	broken   map[string]time.Time // topics that refuse everything, until then
	hanging  map[string]time.Time
	away     time.Time     // the database does not answer until then
	alone    time.Duration // for so long, claims leave a share alone that its holder has lost or given back
	detours  float64       // share of requests that take long before they leave
	flaky    float64       // share of calls that fail
	slow     time.Duration
	replaced time.Time // when the database was replaced by an earlier state
	history  int
	lookMost int
	large    int64                        // events have up to so many bytes; 0: all are small
	along    float64                      // share of pages whose small events come with their contents; 0: all
	keyMost  int                          // events of a key in hand; 0: as in production
	inHand   map[string]map[*message]bool // by worker: sent and not settled
	handMost int
	calls    map[string]int
	rows     int // of pages
	onCall   func(worker, port string) error
	onDone   func(worker, port string) // the statement is committed, and its answer is on the way
	deadly   bool                      // batches whose context ends die, and keep their lanes
	apartLog []string
	prepare  func(p *process) // before it starts
	carried  int              // events that left carriers
}

// base is what is in the database.
type base struct {
	nextID  int64
	final   int64
	events  map[relay.Ref]*message
	ids     map[int64]*message
	pending map[relay.Ref]*message
	dead    map[relay.Ref]*message
	shares  [relay.Lanes]shareRow
	workers map[string]workerRow
	lanes   map[relay.TopicLane]laneRow
	stopped map[string]bool
}

type shareRow struct {
	worker string
	until  time.Time
}

type workerRow struct {
	seated bool
	seen   time.Time
}

type laneRow struct {
	apart    bool
	claim    string
	until    time.Time
	reserved time.Time
	low      int64
}

// message is an event, whatever database has it.
type message struct {
	relay.Ref
	topic, key string
	bytes      int64
	number     int // in its key
	dead       bool
	passed     int  // events of its key with a lower number need not wait for it
	lost       bool // with a history of the database
}

// chain is the events of a key in the order of their commits.
type chain struct{ events []*message }

// write is a transaction of a producer.
type write struct {
	messages []*message
	history  int
}

func (b base) clone() base {
	b.events, b.ids, b.pending, b.dead = maps.Clone(b.events), maps.Clone(b.ids), maps.Clone(b.pending), maps.Clone(b.dead)
	b.workers, b.lanes, b.stopped = maps.Clone(b.workers), maps.Clone(b.lanes), maps.Clone(b.stopped)
	return b
}

func newWorld(seed uint64) *world {
	return &world{
		rng: rand.New(rand.NewPCG(seed, 14)),
		base: base{
			events: map[relay.Ref]*message{}, ids: map[int64]*message{}, pending: map[relay.Ref]*message{}, dead: map[relay.Ref]*message{},
			workers: map[string]workerRow{}, lanes: map[relay.TopicLane]laneRow{}, stopped: map[string]bool{},
		},
		all: map[relay.Ref]*message{}, opened: map[*write]bool{}, writers: map[string]*chain{}, arrived: map[*message]int{}, poison: map[*message]bool{},
		broken: map[string]time.Time{}, hanging: map[string]time.Time{}, lookMost: 7, inHand: map[string]map[*message]bool{},
		calls: map[string]int{}, slow: 3 * time.Millisecond, alone: 2 * time.Second,
	}
}

func (w *world) problem(format string, args ...any) {
	if len(w.problems) < 20 {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// float and upTo draw under the lock.
func (w *world) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.Float64() < p
}

func (w *world) upTo(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rng.Int64N(int64(d) + 1))
}

func (w *world) pick(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// ---- producers

func laneOf(topic, key string) (lane int16) {
	for _, c := range topic + key {
		lane = (lane*31 + int16(c)) % relay.Lanes
	}
	return lane
}

// begin draws ids for events of some keys.
// size is that of the next event. Few are large.
func (w *world) size() int64 {
	if w.large > 0 && w.rng.IntN(10) == 0 {
		return 1 + w.rng.Int64N(w.large)
	}
	return 100
}

func (w *world) begin(topic string, keys ...string) *write {
	w.mu.Lock()
	defer w.mu.Unlock()
	tx := &write{history: w.history}
	for _, key := range keys {
		w.nextID++
		lane := laneOf(topic, key)
		tx.messages = append(tx.messages, &message{
			Ref: relay.Ref{ID: w.nextID, Lane: lane, At: time.Now().UnixMicro()}, topic: topic, key: topic + "/" + key, bytes: w.size(),
		})
	}
	w.opened[tx] = true
	return tx
}

// commit commits a transaction, unless the database was replaced since.
func (w *world) commit(tx *write) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.opened, tx)
	if tx.history != w.history {
		return false
	}
	for _, m := range tx.messages {
		w.events[m.Ref], w.pending[m.Ref], w.all[m.Ref], w.ids[m.ID] = m, m, m, m
		c := w.writers[m.key]
		if c == nil {
			c = &chain{}
			w.writers[m.key] = c
		}
		m.number = len(c.events)
		c.events = append(c.events, m)
	}
	return true
}

func (w *world) rollBack(tx *write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.opened, tx)
}

// write commits an event at once.
func (w *world) write(topic, key string) *message {
	tx := w.begin(topic, key)
	w.commit(tx)
	return tx.messages[0]
}

// round makes ids final that no transaction can use any more.
func (w *world) round() {
	final := w.nextID
	for tx := range w.opened {
		if tx.history == w.history {
			for _, m := range tx.messages {
				final = min(final, m.ID-1)
			}
		}
	}
	w.final = max(w.final, final)
}

// ---- the history

func (w *world) remember() base {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clone()
}

// replace makes the database what it was before. Ids come again.
func (w *world) replace(by base) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ref, m := range w.events {
		if by.events[ref] != m {
			m.lost = true
		}
	}
	for key, c := range w.writers {
		c.events = slices.DeleteFunc(slices.Clone(c.events), func(m *message) bool { return m.lost })
		w.writers[key] = c
	}
	w.base = by.clone()
	for _, m := range w.events {
		isDead := w.dead[m.Ref] == m
		if m.dead && !isDead {
			// The refusal is lost. Later events of the key may have been read since, and do not wait.
			m.passed = len(w.writers[m.key].events)
		}
		m.dead = isDead
	}
	w.history++
	w.replaced = time.Now()
}

// ---- destinations

// owns reports whether a carrier has a lane now.
func (w *world) owns(worker string, at relay.TopicLane) bool {
	s, l := w.shares[at.Lane], w.lanes[at]
	return s.worker == worker && !s.until.Before(time.Now()) && !l.apart && l.claim == ""
}

// leaves notes that a request with events leaves a worker.
func (w *world) leaves(worker string, events []*message, owns func(at relay.TopicLane) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range events {
		at := relay.TopicLane{Topic: m.topic, Lane: m.Lane}
		if !owns(at) && time.Since(w.replaced) > timing.ShareLease {
			s, l := w.shares[at.Lane], w.lanes[at]
			w.problem("%v: %s sends event %d of lane %v, which is not its own: share %s until %v, lane %+v", time.Now().Format("05.000"), worker, m.ID, at, s.worker, s.until.Format("05.000"), l)
		}
		if !strings.HasPrefix(worker, "batch") {
			w.carried++
		}
		hand := w.inHand[worker]
		if hand == nil {
			hand = map[*message]bool{}
			w.inHand[worker] = hand
		}
		hand[m] = true
		w.handMost = max(w.handMost, len(hand))
	}
}

// arrives notes that a destination has accepted an event.
func (w *world) arrives(m *message) {
	w.arrived[m]++
	if w.arrived[m] > 1 {
		w.repeats++
		return
	}
	if m.lost {
		return
	}
	for _, earlier := range w.writers[m.key].events {
		if earlier == m {
			break
		}
		if w.arrived[earlier] == 0 && !earlier.dead && m.number >= earlier.passed {
			w.problem("%v: event %d of key %s arrives before event %d of that key", time.Now().Format("05.000"), m.ID, m.key, earlier.ID)
		}
	}
}

// answer is what the destination says to one event.
func (w *world) answer(m *message) *relay.PublishError {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.broken[m.topic].After(time.Now()):
		return &relay.PublishError{Code: "AccessDenied", Message: "not allowed to send to " + m.topic, Class: relay.ClassDestination, Whole: true}
	case w.poison[m]:
		return &relay.PublishError{Code: "InvalidMessageContents", Class: relay.ClassPoison}
	}
	w.arrives(m)
	return nil
}

// delay is how long the destination takes, and whether it hangs.
func (w *world) delay(topic string) (d time.Duration, hangs bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hanging[topic].After(time.Now()) {
		return timing.RequestTimeout, true
	}
	return time.Duration(w.rng.Int64N(int64(20 * time.Millisecond))), false
}

func (w *world) forget(m *message) {
	for _, hand := range w.inHand {
		delete(hand, m)
	}
}

// ---- the database

// process is a worker process, with its own way to the database and to the destinations.
type process struct {
	*world
	id    string
	state sync.Mutex
	dead  bool
	froze chan struct{} // closed when it goes on; nil: it does
	stop  context.CancelFunc
	done  chan struct{}
	*carrier
	acts *Activities
}

// gate waits while the process stands still. It reports false once it is dead.
func (p *process) gate() bool {
	for {
		p.state.Lock()
		dead, froze := p.dead, p.froze
		p.state.Unlock()
		if dead || froze == nil {
			return !dead
		}
		<-froze
	}
}

func (p *process) freeze() (thaw func()) {
	c := make(chan struct{})
	p.state.Lock()
	p.froze = c
	p.state.Unlock()
	return func() {
		p.state.Lock()
		p.froze = nil
		p.state.Unlock()
		close(c)
	}
}

// call runs one statement: it may take its time before and after, fail, or be given up by its caller and
// succeed all the same.
func (p *process) call(ctx context.Context, port string, run func() error) error {
	if !p.gate() {
		return errAway
	}
	w := p.world
	w.mu.Lock()
	w.calls[port]++
	before, after := time.Duration(w.rng.Int64N(int64(w.slow)+1)), time.Duration(w.rng.Int64N(int64(w.slow)+1))
	fails := w.rng.Float64() < w.flaky
	afterwards := w.rng.IntN(2) == 0
	away := time.Until(w.away)
	hook := w.onCall
	w.mu.Unlock()
	if hook != nil {
		if err := hook(p.id, port); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timing.StatementTimeout)
	defer cancel()
	if away > 0 {
		if afterwards { // it does not answer at all
			pause(ctx, away)
		}
		pause(ctx, 2*time.Millisecond)
		return cmp.Or(ctx.Err(), errAway)
	}
	if !pause(ctx, before) {
		return ctx.Err()
	}
	if fails && !afterwards {
		return errAway
	}
	w.mu.Lock()
	err := run()
	done := w.onDone
	w.mu.Unlock()
	if done != nil {
		done(p.id, port)
	}
	if !pause(ctx, after) {
		return ctx.Err()
	}
	if fails || !p.gate() {
		return errAway
	}
	return err
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (w *world) live(n int) bool {
	return w.shares[n].worker != "" && !w.shares[n].until.Before(time.Now())
}

func (w *world) heldBy(worker string, lanes []int16) (held []int16) {
	for _, n := range lanes {
		if w.live(int(n)) && w.shares[n].worker == worker {
			held = append(held, n)
		}
	}
	return held
}

func (w *world) exceptions(lanes []int16) (list []relay.LaneException) {
	for at, l := range w.lanes {
		reserved := l.reserved.After(time.Now())
		if slices.Contains(lanes, at.Lane) && (l.apart || l.claim != "" || reserved) {
			list = append(list, relay.LaneException{
				TopicLane: at, Apart: l.apart, Claimed: l.claim != "", Reserved: reserved,
				Free: l.apart && l.claim == "" && !reserved && !w.stopped[at.Topic], LowID: l.low,
			})
		}
	}
	return list
}

func (p *process) Attend(ctx context.Context, a relay.Attendance) (s relay.Shares, err error) {
	err = p.call(ctx, "Attend", func() error {
		p.workers[a.Worker] = workerRow{a.Seated, time.Now()}
		s.Mine = p.heldBy(a.Worker, a.Lanes)
		for _, n := range s.Mine {
			p.shares[n].until = time.Now().Add(timing.ShareLease)
		}
		for _, id := range slices.Sorted(maps.Keys(p.workers)) {
			if time.Since(p.workers[id].seen) < timing.WorkerGone {
				s.Workers = append(s.Workers, relay.Worker{ID: id, Seated: p.workers[id].seated})
			}
		}
		for n := range p.shares {
			if p.live(n) {
				s.Holders[n] = p.shares[n].worker
			}
		}
		s.Exceptions = p.exceptions(s.Mine)
		s.Stopped = slices.Sorted(maps.Keys(p.stopped))
		return nil
	})
	return s, err
}

func (p *process) Leave(ctx context.Context, worker string) error {
	return p.call(ctx, "Leave", func() error {
		for n := range p.shares {
			if p.shares[n].worker == worker {
				p.shares[n] = shareRow{until: time.Now()}
			}
		}
		delete(p.workers, worker)
		return nil
	})
}

func (p *process) TakeShares(ctx context.Context, worker string, lanes []int16) (taken []relay.TakenShare, err error) {
	err = p.call(ctx, "TakeShares", func() error {
		for _, n := range lanes {
			if !p.live(int(n)) {
				taken = append(taken, relay.TakenShare{Lane: n, Settling: p.shares[n].worker != ""})
				p.shares[n] = shareRow{worker, time.Now().Add(timing.ShareLease)}
			}
		}
		return nil
	})
	return taken, err
}

func (p *process) GiveBackShares(ctx context.Context, worker string, lanes []int16) error {
	return p.call(ctx, "GiveBackShares", func() error {
		for _, n := range lanes {
			if p.shares[n].worker == worker {
				p.shares[n] = shareRow{until: time.Now()}
			}
		}
		return nil
	})
}

func (p *process) Exceptions(ctx context.Context, lanes []int16) (list []relay.LaneException, err error) {
	err = p.call(ctx, "Exceptions", func() error {
		list = p.exceptions(lanes)
		return nil
	})
	return list, err
}

func (p *process) SetApart(ctx context.Context, worker string, lanes []relay.TopicLane, low []int64, cause string) (done []relay.TopicLane, err error) {
	err = p.call(ctx, "SetApart", func() error {
		for i, at := range lanes {
			if len(p.heldBy(worker, []int16{at.Lane})) > 0 {
				l := p.lanes[at]
				l.apart, l.low = true, max(l.low, low[i])
				p.lanes[at] = l
				done = append(done, at)
				p.apartLog = append(p.apartLog, at.Topic+": "+cause)
			}
		}
		return nil
	})
	return done, err
}

func (p *process) Rejoin(ctx context.Context, worker string, lanes []relay.TopicLane) (joined []relay.LaneException, err error) {
	err = p.call(ctx, "Rejoin", func() error {
		for _, e := range p.exceptions(p.heldBy(worker, []int16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})) {
			if slices.Contains(lanes, e.TopicLane) && e.Free {
				l := p.lanes[e.TopicLane]
				l.apart = false
				p.lanes[e.TopicLane] = l
				joined = append(joined, e)
			}
		}
		return nil
	})
	return joined, err
}

func (p *process) Offer(context.Context) (int, error) { return 0, errors.New("not asked here") }

func byID(a, b *message) int { return cmp.Compare(a.ID, b.ID) }

func (p *process) Look(ctx context.Context, l relay.Look) (found relay.Looked, err error) {
	err = p.call(ctx, "Look", func() error {
		if p.rng.IntN(20) == 0 {
			p.round()
		}
		found = relay.Looked{Held: p.heldBy(l.Worker, l.Lanes), Final: p.final, At: time.Now()}
		found.Server = p.server()
		found.SameHistory = (l.Last == relay.Ref{} || p.events[l.Last] != nil) && (l.Server.IsZero() || l.Server.Equal(found.Server))
		var all []*message
		most := min(l.Most, p.lookMost)
		for _, r := range l.Ranges {
			for id := r.From; id <= min(r.To, p.nextID) && len(all) < most; id++ {
				if m := p.ids[id]; m != nil {
					all = append(all, m)
				}
			}
		}
		found.More = len(all) >= most
		along := l.Along && (p.along == 0 || p.rng.Float64() < p.along)
		for _, m := range all {
			f := relay.Found{Ref: m.Ref, Bytes: m.bytes}
			if p.pending[m.Ref] != nil && slices.Contains(l.Lanes, m.Lane) {
				f.Topic, f.Pending = m.topic, true
				if along && m.bytes <= relay.AlongBytes && m.ID%3 > 0 {
					f.Content = m.content()
				}
			}
			found.Events = append(found.Events, f)
		}
		return nil
	})
	return found, err
}

// server is when the server of the database was started, which has another one after it was replaced.
func (w *world) server() time.Time { return time.Unix(int64(w.history), 0) }

func (w *world) pendingOf(at relay.TopicLane) (list []*message) {
	for _, m := range w.pending {
		if m.topic == at.Topic && m.Lane == at.Lane {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, byID)
	return list
}

func (p *process) Discover(ctx context.Context, worker string, lanes []int16) (d relay.Discovered, err error) {
	err = p.call(ctx, "Discover", func() error {
		d = relay.Discovered{Held: p.heldBy(worker, lanes), Final: p.final, Server: p.server()}
		first := map[relay.TopicLane]*message{}
		for _, m := range p.pending {
			at := relay.TopicLane{Topic: m.topic, Lane: m.Lane}
			if slices.Contains(d.Held, m.Lane) && (first[at] == nil || m.ID < first[at].ID) {
				first[at] = m
			}
		}
		for at, m := range first {
			d.First = append(d.First, relay.FirstPending{TopicLane: at, Ref: m.Ref})
		}
		return nil
	})
	return d, err
}

func (p *process) Pages(ctx context.Context, worker string, lanes []relay.LaneCursor, _ int) (pages relay.Pages, err error) {
	err = p.call(ctx, "Pages", func() error {
		pages = relay.Pages{Final: p.final, At: time.Now(), Server: p.server()}
		along := p.along == 0 || p.rng.Float64() < p.along
		for _, c := range lanes {
			if len(p.heldBy(worker, []int16{c.Lane})) == 0 {
				continue
			}
			pages.Held = append(pages.Held, c.Lane)
			n := 0
			for _, m := range p.pendingOf(c.TopicLane) {
				if !c.Covers(m.Ref) {
					continue
				}
				p.rows++
				e := relay.Narrow{Topic: m.topic, Ref: m.Ref, CreatedAt: time.UnixMicro(m.At), Bytes: m.bytes}
				if along && m.bytes <= relay.AlongBytes && m.ID%3 > 0 {
					e.Content = m.content()
				}
				pages.Events = append(pages.Events, e)
				if n++; n == c.Most {
					pages.Full = append(pages.Full, c.TopicLane)
					break
				}
			}
		}
		return nil
	})
	return pages, err
}

func (p *process) Keys(ctx context.Context, events []relay.Narrow) (keys []string, err error) {
	err = p.call(ctx, "Keys", func() error {
		for _, n := range events {
			key := ""
			if m := p.events[n.Ref]; m != nil {
				key = m.key
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

// content is what a read of the message's content returns.
func (m *message) content() *relay.Event {
	return &relay.Event{Ref: m.Ref, EventID: "e", Key: m.key, Bytes: m.bytes}
}

func (p *process) Contents(ctx context.Context, events []relay.Narrow) (list []relay.TopicEvent, err error) {
	err = p.call(ctx, "Contents", func() error {
		for _, n := range events {
			if m := p.events[n.Ref]; m != nil {
				list = append(list, relay.TopicEvent{Topic: m.topic, Event: *m.content()})
			}
		}
		return nil
	})
	return list, err
}

func (w *world) settleRefs(refs []relay.Ref) {
	for _, ref := range refs {
		if m := w.pending[ref]; m != nil {
			delete(w.pending, ref)
			w.forget(m)
			if w.arrived[m] == 0 {
				w.problem("event %d was settled and did not arrive", m.ID)
			}
		}
	}
}

func (p *process) SettleTopics(ctx context.Context, done []relay.TopicRefs) error {
	return p.call(ctx, "SettleTopics", func() error {
		for _, d := range done {
			p.settleRefs(d.Refs)
		}
		return nil
	})
}

// Settle is what the ledger uses.
func (p *process) Settle(ctx context.Context, _ string, refs []relay.Ref) error {
	return p.call(ctx, "Settle", func() error {
		p.settleRefs(refs)
		return nil
	})
}

func (p *process) Apart(context.Context) (func(context.Context, string, []relay.Ref) error, func(), error) {
	return p.Settle, func() {}, nil
}

// ---- processes

// holdsPayloads reports whether something of the budget is taken, or is waited for.
func (p *process) holdsPayloads() bool {
	b := p.acts.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held != 0 || b.batches > 0 || len(b.waiting) > 0
}

// start starts a worker process.
func (w *world) start(id string, cfg Config) *process {
	p := &process{world: w, id: id, done: make(chan struct{})}
	cfg.Metrics, cfg.PollEvery = noMetrics{}, 20*time.Millisecond
	p.acts = &Activities{cfg: cfg, clock: timing.Clock{Read: virtual}, ledger: newLedger(p), receipts: newReceipts(nil, noMetrics{}), budget: newBudget(cmp.Or(cfg.PayloadBudget, DefaultPayloadBudget))}
	p.carrier = newCarrier(p.acts, carrierConfig{
		worker: id, name: id, shares: p, reads: p, sender: p, log: slog.New(slog.DiscardHandler),
	})
	p.hands.ordered = func(string) bool { return true }
	if w.keyMost > 0 {
		p.hands.keyMost = w.keyMost
	}
	if w.prepare != nil {
		w.prepare(p)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		defer close(p.done)
		p.run(ctx)
		ended, cancel := context.WithTimeout(context.Background(), timing.ShutdownTimeout)
		defer cancel()
		_, _ = SettleRest(ended, p.acts)
	}()
	return p
}

// virtual reads the clock of the bubble. The machine's own clocks go on while a test waits for a processor, and
// leases would end.
func virtual() timing.Reading {
	now := time.Duration(time.Now().UnixNano())
	return timing.Reading{Monotonic: now, Boot: now, Wall: now}
}

// end stops a process in order.
func (p *process) end() {
	p.stop()
	<-p.done
}

// kill ends a process like SIGKILL: nothing leaves it any more.
func (p *process) kill() {
	p.state.Lock()
	p.dead = true
	p.state.Unlock()
	p.stop()
}

// ---- sending

// Open returns a sender that keeps the order of keys, with four requests for each topic.
func (p *process) Open(r relay.SenderRequest) relay.Sender {
	return &fakeStream{SenderRequest: r, process: p, topics: map[string]*fakeOutlet{}}
}

type fakeStream struct {
	relay.SenderRequest
	*process
	mu     sync.Mutex
	report sync.Mutex
	topics map[string]*fakeOutlet
	closed bool
	flying sync.WaitGroup
}

type fakeOutlet struct {
	queue    []relay.Event
	busy     map[string]bool // keys
	blocked  map[string]bool
	inFlight int
	sent     map[relay.Ref]bool // in flight
	dropping bool
	waits    bool // for the deadline
}

func (s *fakeStream) outlet(topic string) *fakeOutlet {
	o := s.topics[topic]
	if o == nil {
		o = &fakeOutlet{busy: map[string]bool{}, blocked: map[string]bool{}, sent: map[relay.Ref]bool{}}
		s.topics[topic] = o
	}
	return o
}

func (s *fakeStream) Add(topic string, events []relay.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.outlet(topic)
	if o.dropping || s.closed {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		if !s.closed {
			s.problem("events were added to a topic that is being dropped")
		}
		return
	}
	o.queue = append(o.queue, events...)
	s.pump(topic, o)
}

func (s *fakeStream) pump(topic string, o *fakeOutlet) {
	for !o.dropping && !s.closed && o.inFlight < 4 {
		if !s.Deadline().After(time.Now()) {
			if !o.waits {
				o.waits = true
				time.AfterFunc(50*time.Millisecond, func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					o.waits = false
					s.pump(topic, o)
				})
			}
			return
		}
		var batch, rest []relay.Event
		for _, e := range o.queue {
			switch {
			case o.blocked[e.Key]: // held back
			case len(batch) < 10 && !o.busy[e.Key]:
				o.busy[e.Key] = true
				batch = append(batch, e)
			default:
				rest = append(rest, e)
			}
		}
		o.queue = rest
		if len(batch) == 0 {
			return
		}
		o.inFlight++
		for _, e := range batch {
			o.sent[e.Ref] = true
		}
		s.flying.Go(func() { s.request(topic, o, batch) })
	}
}

func (s *fakeStream) request(topic string, o *fakeOutlet, batch []relay.Event) {
	w := s.world
	// The way to the wire may take long.
	d := w.upTo(3 * time.Millisecond)
	if w.chance(w.detours) {
		d += w.upTo(5 * time.Second)
	}
	time.Sleep(d)
	alive := s.gate()
	outcomes := make([]relay.Outcome, len(batch))
	for i, e := range batch {
		outcomes[i].Ref = e.Ref
	}
	fail := func(code string) {
		for i := range outcomes {
			outcomes[i].Err = &relay.PublishError{Code: code, Whole: true}
		}
	}
	switch {
	case !alive:
		return // the process is dead
	case !s.Deadline().After(time.Now()):
		fail(relay.CodeTimeout)
	default:
		var messages []*message
		w.mu.Lock()
		for _, e := range batch {
			messages = append(messages, w.all[e.Ref])
		}
		w.mu.Unlock()
		w.leaves(s.id, messages, func(at relay.TopicLane) bool { return w.owns(s.id, at) })
		d, hangs := w.delay(topic)
		if hangs {
			time.Sleep(silentAfter)
			s.silent(topic)
			time.Sleep(d - silentAfter)
			fail(relay.CodeTimeout)
			break
		}
		time.Sleep(d)
		for i, m := range messages {
			outcomes[i].Err = w.answer(m)
		}
	}
	if !s.gate() {
		return
	}
	s.report.Lock()
	defer s.report.Unlock()
	s.Report(topic, outcomes)
	s.mu.Lock()
	o.inFlight--
	for i, e := range batch {
		delete(o.busy, e.Key)
		delete(o.sent, e.Ref)
		if outcomes[i].Err != nil {
			o.blocked[e.Key] = true
		}
	}
	s.pump(topic, o)
	gone := s.tryEnd(topic, o)
	s.mu.Unlock()
	if gone {
		s.Dropped(topic)
	}
}

// silentAfter is when the sender says that a destination does not answer.
const silentAfter = 6 * time.Second

func (s *fakeStream) silent(topic string) {
	if s.gate() {
		s.report.Lock()
		defer s.report.Unlock()
		s.Silent(topic)
	}
}

func (s *fakeStream) tryEnd(topic string, o *fakeOutlet) bool {
	if !o.dropping || o.inFlight > 0 {
		return false
	}
	delete(s.topics, topic)
	return true
}

func (s *fakeStream) Drop(topic string) {
	s.report.Lock()
	defer s.report.Unlock()
	s.mu.Lock()
	o := s.outlet(topic)
	if o.dropping || s.closed {
		s.mu.Unlock()
		return
	}
	o.dropping, o.queue = true, nil
	inFlight := slices.Collect(maps.Keys(o.sent))
	gone := s.tryEnd(topic, o)
	s.mu.Unlock()
	s.Dropping(topic, inFlight)
	if gone {
		s.Dropped(topic)
	}
}

func (s *fakeStream) Backlog() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.topics {
		n += len(o.queue)
	}
	return n
}

func (s *fakeStream) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.flying.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ---- batches of single topics

// batches claims lanes that are not a carrier's, one topic at a time, until ctx ends.
func (w *world) batches(ctx context.Context, id string) {
	for n := 0; ctx.Err() == nil; n++ {
		pause(ctx, 20*time.Millisecond+w.upTo(200*time.Millisecond))
		w.awaitDatabase(ctx)
		claim := fmt.Sprint(id, "-", n)
		lanes, settling := w.claim(claim)
		if len(lanes) == 0 {
			continue
		}
		if settling {
			time.Sleep(timing.SettleGrace)
		}
		w.publishClaim(ctx, claim, lanes)
	}
}

func (w *world) awaitDatabase(ctx context.Context) {
	for {
		w.mu.Lock()
		away := time.Until(w.away)
		w.mu.Unlock()
		if away <= 0 || !pause(ctx, away) {
			return
		}
	}
}

func (w *world) claim(id string) (lanes []relay.TopicLane, settling bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	topics := map[string][]relay.TopicLane{}
	for _, m := range w.pending {
		at := relay.TopicLane{Topic: m.topic, Lane: m.Lane}
		l := w.lanes[at]
		left := !w.live(int(m.Lane)) && time.Since(w.shares[m.Lane].until) > w.alone
		free := l.claim == "" && (l.apart || left) || l.claim != "" && l.until.Before(time.Now())
		if free && !l.reserved.After(time.Now()) && !w.stopped[m.topic] && !slices.Contains(topics[m.topic], at) {
			topics[m.topic] = append(topics[m.topic], at)
		}
	}
	if len(topics) == 0 {
		return nil, false
	}
	names := slices.Sorted(maps.Keys(topics))
	lanes = topics[names[w.rng.IntN(len(names))]]
	for _, at := range lanes {
		l := w.lanes[at]
		settling = settling || l.claim != "" || !l.apart && w.shares[at.Lane].worker != ""
		l.claim, l.until = id, time.Now().Add(timing.ClaimLease)
		w.lanes[at] = l
	}
	return lanes, settling
}

// holds reports whether a claim holds its lanes, and renews it.
func (w *world) holds(id string, lanes []relay.TopicLane) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range lanes {
		l := w.lanes[at]
		if l.claim != id || l.until.Before(time.Now()) {
			return false
		}
		l.until = time.Now().Add(timing.ClaimLease)
		w.lanes[at] = l
	}
	return true
}

func (w *world) publishClaim(ctx context.Context, id string, lanes []relay.TopicLane) {
	for began := time.Now(); w.holds(id, lanes) && ctx.Err() == nil && time.Since(began) < timing.BatchFor; {
		w.mu.Lock()
		var page []*message
		for _, at := range lanes {
			page = append(page, w.pendingOf(at)[:min(20, len(w.pendingOf(at)))]...)
		}
		stopped := w.stopped[lanes[0].Topic]
		w.mu.Unlock()
		refused := false
		for i, m := range page {
			if refused || stopped {
				break
			}
			w.awaitDatabase(ctx)
			if !w.holds(id, lanes) {
				return
			}
			w.leaves("batch "+id, []*message{m}, func(at relay.TopicLane) bool { return w.lanes[at].claim == id })
			d, hangs := w.delay(m.topic)
			switch {
			case hangs:
				d = 5 * time.Second // less than the lease
			case i > 0: // several requests are in flight
				d /= 20
			}
			time.Sleep(d)
			if hangs {
				refused = true
				break
			}
			err := w.answer(m)
			w.mu.Lock()
			switch {
			case err == nil:
				w.settleRefs([]relay.Ref{m.Ref})
			case err.Class == relay.ClassPoison:
				if w.pending[m.Ref] == m {
					delete(w.pending, m.Ref)
					w.dead[m.Ref] = m
					m.dead = true
					w.forget(m)
				}
			default:
				refused = true
			}
			w.mu.Unlock()
		}
		if refused && !stopped {
			pause(ctx, time.Second)
			continue
		}
		if len(page) > 0 && !stopped {
			continue
		}
		break
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil && w.deadly {
		return
	}
	for _, at := range lanes {
		if l := w.lanes[at]; l.claim == id {
			l.claim = ""
			l.low = w.final + 1
			if left := w.pendingOf(at); len(left) > 0 {
				l.low = min(l.low, left[0].ID)
			}
			w.lanes[at] = l
		}
	}
}

// redrive makes dead letters of a lane pending again, like an operation: it reserves the lane, and waits
// until nobody has it.
func (w *world) redrive(ctx context.Context, at relay.TopicLane) {
	for ctx.Err() == nil {
		w.mu.Lock()
		l := w.lanes[at]
		isFree := l.claim == "" && (l.apart || !w.live(int(at.Lane))) || l.claim != "" && l.until.Before(time.Now())
		if isFree {
			for ref, m := range w.dead {
				if m.topic == at.Topic && m.Lane == at.Lane {
					delete(w.dead, ref)
					delete(w.poison, m)
					w.pending[ref] = m
					l.low = min(l.low, m.ID)
				}
			}
			l.reserved = time.Time{}
			w.lanes[at] = l
			w.mu.Unlock()
			return
		}
		l.reserved = time.Now().Add(4 * time.Second)
		w.lanes[at] = l
		w.mu.Unlock()
		pause(ctx, 200*time.Millisecond)
	}
}

// ---- checks

func (w *world) ok(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.problems {
		t.Error(p)
	}
	require.LessOrEqual(t, w.handMost, carryEvents, "events in hand")
	if t.Failed() {
		t.FailNow()
	}
}

// inside describes what a carrier knows of its shares, for failures.
func (p *process) inside() (text string) {
	h := p.hands
	h.mu.Lock()
	defer h.mu.Unlock()
	text = fmt.Sprintf("%s: %d events in hand, lost %d, closed %v, final %d", p.id, h.events, h.lost.Load(), h.closed, h.final)
	for n, s := range h.shares {
		if s != nil {
			text += fmt.Sprintf("\n  share %d %+v", n, *s)
		}
	}
	for name, t := range h.topics {
		text += fmt.Sprintf("\n  topic %s: hand %v, acked %v, settling %v, dropping %d, lost %v", name, t.hand, t.acked, t.settling, t.dropping, t.lost)
		for n, l := range t.lanes {
			text += fmt.Sprintf("\n    lane %d %+v", n, *l)
		}
		for key, hot := range t.hot {
			text += fmt.Sprintf("\n    hot key %s %+v, %d in hand", key, *hot, t.keys[key])
		}
	}
	return text
}

// must notes a problem unless something is so. The bubble has to end before it can be told.
func (w *world) must(so bool, why func() string) {
	if !so {
		text := why()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.problem("%s", text)
	}
}

// drained waits until nothing is pending.
func (w *world) drained(t *testing.T, within time.Duration) {
	t.Helper()
	require.True(t, w.waitFor(within, func() bool { return len(w.pending) == 0 }), "%s", w.rest())
	w.ok(t)
}

func (w *world) rest() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := fmt.Sprintf("%d events are pending:", len(w.pending))
	if n := len(w.apartLog); n > 0 {
		text += fmt.Sprintf(" (lanes were set apart, the last one for %s)", w.apartLog[n-1])
	}
	for _, m := range slices.SortedFunc(maps.Values(w.pending), byID)[:min(5, len(w.pending))] {
		at := relay.TopicLane{Topic: m.topic, Lane: m.Lane}
		text += fmt.Sprintf("\n%d of %v, share %s, lane %+v", m.ID, at, w.shares[m.Lane].worker, w.lanes[at])
	}
	return text
}

func (w *world) waitFor(within time.Duration, is func() bool) bool {
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		so := is()
		w.mu.Unlock()
		if so || time.Now().After(end) {
			return so
		}
	}
}
