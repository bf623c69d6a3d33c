package activities

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// The bounds of the events that a carrier has in hand: read and not settled. After the death of the process, so
// many events are sent again at most. The budget bounds how many of them have their contents in memory.
const (
	carryEvents = 1000
	// carryOne is how many times as many events as there is room left the topics of one destination may have
	// in hand. So one alone gets four fifths of the room, and one that hangs leaves some to others, however
	// many topics it has.
	carryOne = 4
	// carryLeast is the least room for which a topic is read whose destination has much in hand. While the
	// sender has carryUnsent events to send, larger pages are worth waiting for.
	carryLeast   = 40
	carryPortion = 160
	carryUnsent  = 100
)

// laneMode says who has a lane of a share that the carrier holds. A lane without a mode flows: the
// carrier has read all its events, and Look finds the next.
type laneMode int

const (
	// backlog: the carrier has events of the lane to read that Look does not find.
	backlog laneMode = iota + 1
	// leaving: the lane is set apart as soon as nothing of it is in hand.
	leaving
	// apart: the batches of its topic have it.
	apart
)

// carriedLane is a lane that does not flow.
type carriedLane struct {
	mode laneMode
	// backlog: it is read from the next id on. Of the event with that id, the replays below seen were
	// taken.
	after int64
	seen  int64

	cause   string // why it leaves, or left
	ejected bool   // because of a refusal
	since   time.Time
	claimed bool // a batch of its topic had it since
	free    bool // it may come back, as of the last look
}

// passed notes that a lane in backlog need not be read up to an event that is in hand or settled, as far as
// ids are final. A replay may have the same id.
func (l *carriedLane) passed(ref relay.Ref, final int64) {
	after := min(ref.ID-1, final)
	if after < l.after {
		return
	}
	l.after, l.seen = after, 0
	if after == ref.ID-1 {
		l.seen = ref.Replay + 1
	}
}

// carriedEvent is an event in hand, without its content.
type carriedEvent struct {
	place    relay.Place
	cost     int64 // of the budget
	born     time.Time
	answered bool // accepted; its acknowledgement is kept until it is settled
	// key is that of an event of an ordered topic, once keyed says that it is known.
	key   string
	keyed bool
}

// carriedTopic is a topic of which something is in hand, or a lane does not flow.
type carriedTopic struct {
	hand  map[relay.Ref]carriedEvent
	count [relay.Lanes]int // in hand, by lane
	to    *carriedDestination
	// queue are those in hand whose contents are still to be loaded, and loading those whose contents are
	// being loaded, both in the order in which they are to be sent.
	queue, loading []relay.Narrow
	// epoch is another one since the unsent events were forgotten.
	epoch     int
	name      string
	isInLine  bool
	isOrdered bool               // its destination keeps the events of a key in order
	keys      map[string]int     // in hand and without an answer, by key, as far as it is known
	hot       map[string]*hotKey // by key
	allowance *allowance         // of the budget; nil: nothing is in hand
	lanes     map[int16]*carriedLane
	acked     []relay.Ref // to be settled
	settling  []relay.Ref // being settled
	// dropping is set from the decision to forget the unsent events until no request is in flight.
	dropping dropping
	// lost is set while the requests in flight may have events of a share that was lost.
	lost bool
}

// carriedDestination is what the topics of one destination have in hand.
type carriedDestination struct {
	name   string // "" if it is not known
	events int
}

type dropping int

const (
	dropDue   dropping = iota + 1 // the sender does not know it yet
	dropAsked                     // requests are in flight
)

// carriedShare is a share that the carrier holds. A share that is lost and taken again is another one.
type carriedShare struct {
	known  bool      // its exceptions are
	openAt time.Time // it is not read before
	// discovered reports whether all lanes that have pending events were found. From then on, Look
	// feeds the others.
	discovered bool
	leaving    bool // it is given back as soon as nothing of it is in hand
	since      time.Time
	staysUntil time.Time // it does not leave before, except if it must
	count      int       // events in hand
}

// read is one read of the database: the events that were settled since it began. It may still show them
// as pending.
type read struct{ settled map[relay.Ref]bool }

// hands is all that a carrier knows of its shares, and of the events that it has in hand. The carrier's
// goroutines share nothing else.
type hands struct {
	// keeps says why a topic is not published from shares by this worker, "" if it is.
	keeps func(topic string) string
	// destination says where a topic goes, "" if that is not known.
	destination func(topic string) string
	// ordered reports whether a topic's destination keeps the events of a key in order.
	ordered func(topic string) bool
	keyMost int // see keyLimit
	budget  *budget

	mu      sync.Mutex
	shares  [relay.Lanes]*carriedShare
	topics  map[string]*carriedTopic
	to      map[string]*carriedDestination // those that are known
	stopped map[string]bool                // topics that are paused, or held for a recovery
	events  int                            // in hand
	epochs  int                            // the last that was given
	line    []*carriedTopic                // those that have a queue, and perhaps others
	acked   int                            // acknowledgements to settle
	closed  bool                           // nothing is loaded any more
	// final is the id up to which the last look has shown all events that will ever be.
	final int64

	hotKeys int    // of all topics
	turns   uint64 // reads of hot keys

	reads map[*read]bool // under way
	// lost is how many topics are lost. It is read without the lock, before every request.
	lost atomic.Int32

	wakeReader  chan struct{} // there is room, or a share to read
	wakeLoader  chan struct{} // there may be contents to load, and room for them in the budget
	wakeSettler chan struct{} // there is something to settle
	wakeSteward chan struct{} // a lane or a share may be ready to leave
	wakeDropper chan struct{} // a topic is to be dropped
	// told is called with each topic that leaves, and must not block.
	told func(topic, cause string)
}

func newHands(keeps, destination func(topic string) string, ordered func(topic string) bool, b *budget, told func(topic, cause string)) *hands {
	token := func() chan struct{} { return make(chan struct{}, 1) }
	return &hands{
		keeps: keeps, destination: destination, ordered: ordered, keyMost: keyMost, budget: b, told: told,
		topics: make(map[string]*carriedTopic), to: make(map[string]*carriedDestination), reads: make(map[*read]bool),
		wakeReader: token(), wakeLoader: token(), wakeSettler: token(), wakeSteward: token(), wakeDropper: token(),
	}
}

func (h *hands) topic(name string) *carriedTopic {
	t := h.topics[name]
	if t == nil {
		h.epochs++
		t = &carriedTopic{
			hand: make(map[relay.Ref]carriedEvent), lanes: make(map[int16]*carriedLane), to: h.toOf(name), name: name, epoch: h.epochs,
			isOrdered: h.ordered(name),
		}
		h.topics[name] = t
	}
	return t
}

// toOf returns the destination of a topic. A topic without a known one has it alone.
func (h *hands) toOf(topic string) *carriedDestination {
	name := h.destination(topic)
	to := h.to[name]
	if to == nil {
		to = &carriedDestination{name: name}
		if name != "" {
			h.to[name] = to
		}
	}
	return to
}

// tidy forgets a topic of which nothing is left.
func (h *hands) tidy(name string) {
	if t := h.topics[name]; t != nil && len(t.hand)+len(t.lanes)+len(t.hot) == 0 && t.dropping == 0 {
		delete(h.topics, name)
	}
}

// ---- events

// take adds an event to those in hand, if there is room for it. The topic's share has to be held. keyed says
// that the event's key is known.
func (h *hands) take(e relay.Narrow, born time.Time, key string, keyed bool) bool {
	t, ref := h.topic(e.Topic), e.Ref
	if !h.hasRoom(t) {
		return false
	}
	t.hand[ref] = carriedEvent{place: e.Place, born: born, key: key, keyed: keyed}
	t.countKey(key)
	t.count[ref.Lane]++
	t.to.events++
	h.events++
	if s := h.shares[ref.Lane]; s != nil {
		s.count++
	}
	return true
}

// forget removes an event from those in hand.
func (h *hands) forget(t *carriedTopic, ref relay.Ref) {
	e, ok := t.hand[ref]
	if !ok {
		return
	}
	h.free(t, &e)
	delete(t.hand, ref)
	if !e.answered {
		h.uncountKey(t, e.key)
	}
	t.count[ref.Lane]--
	t.to.events--
	h.events--
	if len(t.hand) == 0 && t.allowance != nil {
		t.allowance.leave()
		t.allowance = nil
	}
	s := h.shares[ref.Lane]
	if s != nil {
		s.count--
	}
	if l := t.lanes[ref.Lane]; t.count[ref.Lane] == 0 && l != nil && l.mode == leaving || s != nil && s.leaving && s.count == 0 {
		signal(h.wakeSteward)
	}
	signal(h.wakeReader)
}

// free gives back what an event has cost, because its content is not needed any more.
func (h *hands) free(t *carriedTopic, e *carriedEvent) {
	if e.cost > 0 {
		t.allowance.give(e.cost)
		e.cost = 0
	}
}

// hasRoom reports whether a topic may have one more event in hand.
func (h *hands) hasRoom(t *carriedTopic) bool {
	free := carryEvents - h.events
	return free > 0 && t.to.events < carryOne*free
}

// allowance is how many events of a topic are to be read now; 0 if it is not worth a read. unsent is how many
// events the sender has to send.
func (h *hands) allowance(t *carriedTopic, unsent int) int {
	free := carryEvents - h.events
	// Each event that is taken leaves less room: see hasRoom.
	n := min(free, (carryOne*free-t.to.events+carryOne)/(carryOne+1))
	least := carryLeast
	if unsent >= carryUnsent {
		least = carryPortion
	}
	if n <= 0 || n < least && t.to.events > free {
		return 0
	}
	return n
}

// isNew reports whether an event that a read has found is not in hand, and was not settled since the read
// began.
func (h *hands) isNew(r *read, topic string, ref relay.Ref) bool {
	if t := h.topics[topic]; t != nil {
		if _, is := t.hand[ref]; is {
			return false
		}
	}
	return !r.settled[ref]
}

// beginRead begins a read of the database. Take its answer over before endRead.
func (h *hands) beginRead() *read {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &read{settled: make(map[relay.Ref]bool)}
	h.reads[r] = true
	return r
}

func (h *hands) endRead(r *read) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.reads, r)
}

// settle forgets an event that is settled, or will be by the ledger.
func (h *hands) settle(t *carriedTopic, ref relay.Ref) {
	for r := range h.reads {
		r.settled[ref] = true
	}
	h.forget(t, ref)
}

// putBackEvent makes an event be read again that was in hand, and those behind it. See putBack.
func (h *hands) putBackEvent(topic string, ref relay.Ref, e carriedEvent) {
	t := h.topic(topic)
	if hot := t.hot[e.key]; e.key != "" && hot != nil {
		hot.after = min(hot.after, ref.ID-1)
		signal(h.wakeReader)
		return
	}
	if !e.keyed {
		for _, hot := range t.hot { // it may be of this key
			if hot.lane == ref.Lane {
				hot.after = min(hot.after, ref.ID-1)
			}
		}
	}
	h.putBack(topic, ref, h.final)
}

// putBack makes a lane be read again from an event on, which is not in hand any more.
// No event of the lane that the carrier does not know may be pending, or become pending, up to the id
// final.
func (h *hands) putBack(topic string, ref relay.Ref, final int64) {
	t, s := h.topic(topic), h.shares[ref.Lane]
	if s == nil || !s.known {
		return // its exceptions will be read, and it will be discovered
	}
	after := min(ref.ID-1, final)
	switch l := t.lanes[ref.Lane]; {
	case l == nil:
		t.lanes[ref.Lane] = &carriedLane{mode: backlog, after: after}
	case l.mode == backlog && after <= l.after:
		l.after, l.seen = after, 0
	}
	signal(h.wakeReader)
}

// ---- loading

// load is what is loaded at once.
type load struct {
	events []relay.Narrow
	epochs map[string]int // of its topics
}

// enqueue notes that the contents of events that were taken are to be loaded.
func (h *hands) enqueue(taken []relay.Narrow) {
	for _, e := range taken {
		t := h.topics[e.Topic]
		if t == nil || t.dropping != 0 {
			continue // it leaves because of a later event of the same read
		}
		if !t.isInLine {
			t.isInLine = true
			h.line = append(h.line, t)
		}
		if t.allowance == nil {
			// One bound for all topics of a destination: it may hang.
			t.allowance = h.budget.join(cmp.Or(t.to.name, t.name))
		}
		t.queue = append(t.queue, e)
	}
	if len(taken) > 0 {
		signal(h.wakeLoader)
	}
}

// toLoad returns the events whose contents are to be loaded next, which have taken their cost of the budget.
// Topics take turns. If the budget has no room, wakeLoader gets a token as soon as it has.
func (h *hands) toLoad() load {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, bytes := load{epochs: make(map[string]int)}, int64(0)
	var waiting, next []*carriedTopic
	for i, t := range h.line {
		if len(l.events) >= contentEvents || bytes >= contentBytes {
			waiting = append(waiting, h.line[i:]...)
			break
		}
		if len(t.queue) == 0 {
			t.isInLine = false
			continue
		}
		n := t.allowance.poll(portionOf(t.queue, contentEvents-len(l.events), contentBytes-bytes), h.wakeLoader)
		for _, e := range t.queue[:n] {
			c := t.hand[e.Ref]
			c.cost = cost(relay.Event{Bytes: e.Bytes})
			t.hand[e.Ref] = c
			bytes += e.Bytes
		}
		if n == 0 {
			waiting = append(waiting, t)
			continue
		}
		l.events, l.epochs[t.name] = append(l.events, t.queue[:n]...), t.epoch
		t.loading = append(t.loading, t.queue[:n]...)
		clear(t.queue[:n]) // their contents, if they came along
		t.queue = t.queue[n:]
		next = append(next, t)
	}
	h.line = slices.Concat(waiting, next)
	return l
}

// portionOf returns the costs of the first events, so many at most, and of so many bytes, but of one at least.
func portionOf(queue []relay.Narrow, most int, mostBytes int64) (costs []int64) {
	bytes := int64(0)
	costs = make([]int64, 0, max(1, min(len(queue), most)))
	for _, e := range queue {
		if bytes += e.Bytes; len(costs) > 0 && (len(costs) >= most || bytes > mostBytes) {
			break
		}
		costs = append(costs, cost(relay.Event{Bytes: e.Bytes}))
	}
	return costs
}

// canAdd returns those of some loaded events that are still to be sent. They are all events of one topic in a
// load.
func (h *hands) canAdd(topic string, epoch int, events []relay.Event) []relay.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[topic]
	if t == nil || t.epoch != epoch || t.dropping != 0 {
		return nil // what is in hand is forgotten when the topic is dropped, or was
	}
	loaded := t.loading[:len(events)]
	if t.loading = t.loading[len(events):]; len(t.loading) == 0 {
		t.loading = nil
	}
	return h.sift(t, loaded, events)
}

// forgetLoads makes the contents that are still to be loaded be forgotten, also those that are being loaded.
func (h *hands) forgetLoads(t *carriedTopic) {
	h.epochs++
	t.epoch, t.queue, t.loading = h.epochs, nil, nil
	if t.allowance != nil {
		t.allowance.withdraw()
	}
}

// unread gives up all events whose contents are not loaded, because they cannot be. They are read again:
// perhaps the database has another history.
func (h *hands) unread() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, t := range h.topics {
		for ref, e := range h.giveUpLoads(t) {
			h.putBackEvent(name, ref, e)
		}
	}
}

// giveUpLoads forgets the events of a topic whose contents are not loaded, and returns them.
func (h *hands) giveUpLoads(t *carriedTopic) (forgotten map[relay.Ref]carriedEvent) {
	events := slices.Concat(t.loading, t.queue)
	if len(events) == 0 {
		return nil
	}
	h.forgetLoads(t)
	forgotten = make(map[relay.Ref]carriedEvent, len(events))
	for _, e := range events {
		if taken, is := t.hand[e.Ref]; is { // or it was left, because of its key
			h.forget(t, e.Ref)
			forgotten[e.Ref] = taken
		}
	}
	return forgotten
}

// answered takes the answer to one request. It returns the acknowledgements of events whose share is
// lost.
func (h *hands) answered(topic string, outcomes []relay.Outcome) (orphans []relay.Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topic(topic)
	var refused *relay.PublishError
	for _, o := range outcomes {
		e, inHand := t.hand[o.Ref]
		switch {
		case o.Err != nil:
			if inHand {
				h.forget(t, o.Ref)
			}
			if refused == nil || endsSending(o.Err) && !endsSending(refused) {
				refused = o.Err
			}
		case h.shares[o.Lane] == nil:
			h.settle(t, o.Ref)
			orphans = append(orphans, o.Ref)
		default:
			if !inHand {
				// It was forgotten too early. The acknowledgement counts all the same.
				e.born = time.Time{}
				t.count[o.Lane]++
				t.to.events++
				h.events++
				h.shares[o.Lane].count++
			}
			h.free(t, &e)
			if !e.answered {
				h.uncountKey(t, e.key)
			}
			e.answered = true
			t.hand[o.Ref] = e
			t.acked = append(t.acked, o.Ref)
			h.acked++
		}
	}
	if refused != nil {
		h.leave(topic, refused.Error(), true)
	}
	h.tidy(topic)
	signal(h.wakeSettler)
	return orphans
}

// latencies returns how long after their writing the events among outcomes were accepted.
func (h *hands) latencies(topic string, outcomes []relay.Outcome) (measured []time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, now := h.topics[topic], time.Now()
	if t == nil {
		return nil
	}
	for _, o := range outcomes {
		// The event of a replay may be of any age.
		if born := t.hand[o.Ref].born; o.Err == nil && o.Replay == 0 && !born.IsZero() {
			measured = append(measured, max(0, now.Sub(born)))
		}
	}
	return measured
}

// ---- settling

// toSettle returns the acknowledgements that are to be settled next.
func (h *hands) toSettle() (all []relay.TopicRefs) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked = 0
	for name, t := range h.topics {
		t.settling = append(t.settling, t.acked...)
		t.acked = t.acked[:0]
		if len(t.settling) > 0 {
			places := make([]relay.Place, len(t.settling))
			for i, ref := range t.settling {
				places[i] = t.hand[ref].place
			}
			all = append(all, relay.TopicRefs{Topic: name, Refs: t.settling, Places: places})
		}
	}
	return all
}

// settled notes that acknowledgements that toSettle has returned are settled.
func (h *hands) settled(done []relay.TopicRefs) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range done {
		t := h.topics[d.Topic]
		if t == nil {
			continue
		}
		for _, ref := range d.Refs {
			h.settle(t, ref)
		}
		t.settling = nil
		h.tidy(d.Topic)
	}
}

// settlesSoon reports whether acknowledgements should not wait for others.
func (h *hands) settlesSoon() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked >= settleEvents || h.closed
}

// rest removes all acknowledgements in hand.
func (h *hands) rest() []relay.TopicRefs {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unsettled(nil)
}

// unsettled removes all acknowledgements in hand, or those in some lanes.
func (h *hands) unsettled(lanes []int16) (all []relay.TopicRefs) {
	for name, t := range h.topics {
		var refs []relay.Ref
		for _, ref := range slices.Concat(t.settling, t.acked) {
			if lanes == nil || slices.Contains(lanes, ref.Lane) {
				refs = append(refs, ref)
			}
		}
		if len(refs) == 0 {
			continue
		}
		h.acked -= len(t.acked)
		gone := func(r relay.Ref) bool { return lanes == nil || slices.Contains(lanes, r.Lane) }
		// The settler may have the slice.
		t.settling = slices.DeleteFunc(slices.Clone(t.settling), gone)
		t.acked = slices.DeleteFunc(slices.Clone(t.acked), gone)
		h.acked += len(t.acked)
		for _, ref := range refs {
			h.settle(t, ref)
		}
		all = append(all, relay.TopicRefs{Topic: name, Refs: refs})
	}
	return all
}

// ---- leaving

// leave makes all lanes of a topic leave that are not apart, and the sender forget its unsent events.
func (h *hands) leave(topic, cause string, ejected bool) {
	t, news := h.topic(topic), false
	for n, s := range h.shares {
		if s == nil || !s.known {
			continue
		}
		lane := int16(n)
		switch l := t.lanes[lane]; {
		case l == nil || l.mode == backlog:
			t.lanes[lane] = &carriedLane{mode: leaving, cause: cause, ejected: ejected}
			h.forgetHot(t, lane)
			news = true
		case l.mode == leaving && ejected && !l.ejected:
			l.cause, l.ejected = cause, true
		}
	}
	if ejected || t.sends() { // after a refusal, the sender holds back later events of the key
		h.drop(t)
	}
	if news {
		h.told(topic, cause)
		signal(h.wakeSteward)
	}
	h.tidy(topic)
}

// drop makes the sender forget the unsent events of a topic.
func (h *hands) drop(t *carriedTopic) {
	if t.dropping != 0 {
		return
	}
	t.dropping = dropDue
	h.forgetLoads(t)
	signal(h.wakeDropper)
}

// sends reports whether events in hand have no answer.
func (t *carriedTopic) sends() bool {
	return len(t.hand) > len(t.acked)+len(t.settling)
}

// toDrop returns a topic that the sender is to be told of.
func (h *hands) toDrop() (topic string, found bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, t := range h.topics {
		if t.dropping == dropDue {
			t.dropping = dropAsked
			return name, true
		}
	}
	return "", false
}

// droppedUnsent notes that only some events of a topic are still in flight: the sender has forgotten the
// others. So a request that hangs keeps only the lanes of its own events.
func (h *hands) droppedUnsent(topic string, inFlight []relay.Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[topic]; t != nil && t.dropping == dropAsked {
		h.giveUp(topic, t, inFlight)
	}
}

// giveUp forgets the events of a topic that have no answer and are not in flight. They are read again.
func (h *hands) giveUp(topic string, t *carriedTopic, inFlight []relay.Ref) {
	for ref, e := range t.hand {
		if !e.answered && !slices.Contains(inFlight, ref) {
			h.forget(t, ref)
			h.putBackEvent(topic, ref, e)
		}
	}
}

// droppedAll notes that no request with events of a topic is in flight.
func (h *hands) droppedAll(topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[topic]
	if t == nil || t.dropping != dropAsked {
		return
	}
	t.dropping = 0
	if t.lost {
		t.lost = false
		h.lost.Add(-1)
	}
	h.giveUp(topic, t, nil)
	h.tidy(topic)
	signal(h.wakeSteward)
	signal(h.wakeReader)
	signal(h.wakeSettler)
}

// apartMost is how many lanes one statement moves.
const apartMost = 500

// toSetApart returns lanes that leave and of which nothing is in hand, of topics that leave for the same
// cause.
func (h *hands) toSetApart() (lanes []relay.TopicLane, cause string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.topics)) {
		t := h.topics[name]
		for _, lane := range slices.Sorted(maps.Keys(t.lanes)) {
			l := t.lanes[lane]
			if l.mode != leaving || t.count[lane] > 0 || len(lanes) > 0 && l.cause != cause || len(lanes) == apartMost {
				continue
			}
			lanes, cause = append(lanes, relay.TopicLane{Topic: name, Lane: lane}), l.cause
		}
	}
	return lanes, cause
}

// areApart notes that lanes were set apart.
func (h *hands) areApart(lanes []relay.TopicLane) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, at := range lanes {
		if t := h.topics[at.Topic]; t != nil {
			if l := t.lanes[at.Lane]; l != nil && l.mode == leaving {
				l.mode, l.since, l.claimed, l.free = apart, time.Now(), false, false
				h.forgetHot(t, at.Lane)
			}
		}
	}
	signal(h.wakeSteward)
}

// toRejoin returns the lanes that may come back.
func (h *hands) toRejoin() (lanes []relay.TopicLane) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.topics)) {
		if h.stopped[name] || h.keeps(name) != "" {
			continue
		}
		for lane, l := range h.topics[name].lanes {
			s := h.shares[lane]
			rested := !l.ejected || l.claimed || time.Since(l.since) >= timing.EjectedFor
			if l.mode == apart && l.free && rested && s != nil && !s.leaving && len(lanes) < apartMost {
				lanes = append(lanes, relay.TopicLane{Topic: name, Lane: lane})
			}
		}
	}
	return lanes
}

// rejoined notes that lanes came back: they are read from their low watermarks on.
func (h *hands) rejoined(lanes []relay.LaneException) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range lanes {
		if t := h.topics[e.Topic]; t != nil {
			if l := t.lanes[e.Lane]; l != nil && l.mode == apart {
				t.lanes[e.Lane] = &carriedLane{mode: backlog, after: e.LowID - 1}
			}
		}
	}
	signal(h.wakeReader)
}

// ---- shares

// held are the lane numbers of the shares, ascending.
func (h *hands) held() []int16 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heldIf(func(*carriedShare) bool { return true })
}

func (h *hands) heldIf(is func(*carriedShare) bool) (lanes []int16) {
	for n, s := range h.shares {
		if s != nil && is(s) {
			lanes = append(lanes, int16(n))
		}
	}
	return lanes
}

// took adds a share. Nothing is loaded of it until its exceptions are known.
func (h *hands) took(lane int16, openAt time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &carriedShare{openAt: openAt, since: time.Now()}
	for name, t := range h.topics { // still in flight, from before the share was lost
		s.count += t.count[lane]
		delete(t.lanes, lane)
		h.forgetHot(t, lane)
		h.tidy(name)
	}
	h.shares[lane] = s
}

// attended takes over what the database says of the shares that were asked for: those that are not
// renewed are lost. It returns their acknowledgements, for the ledger.
func (h *hands) attended(asked []int16, a relay.Shares) (lost []int16, orphans []relay.TopicRefs) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = make(map[string]bool, len(a.Stopped))
	for _, topic := range a.Stopped {
		h.stopped[topic] = true
	}
	var kept []int16
	for _, lane := range asked {
		switch {
		case h.shares[lane] == nil:
		case slices.Contains(a.Mine, lane):
			kept = append(kept, lane)
		default:
			lost = append(lost, lane)
		}
	}
	orphans = h.lose(lost)
	h.learn(kept, a.Exceptions)
	for topic := range h.stopped {
		if t := h.topics[topic]; t != nil && (len(t.hand) > 0 || h.hasMode(t, backlog)) {
			h.leave(topic, "the topic is paused or held for its recovery", false)
		}
	}
	return lost, orphans
}

func (h *hands) hasMode(t *carriedTopic, mode laneMode) bool {
	for _, l := range t.lanes {
		if l.mode == mode {
			return true
		}
	}
	return false
}

// lose forgets shares. Until the requests in flight with events of these are answered, nothing new is
// sent: those that have not left yet must not.
func (h *hands) lose(lanes []int16) (orphans []relay.TopicRefs) {
	if len(lanes) == 0 {
		return nil
	}
	orphans = h.unsettled(lanes)
	for _, lane := range lanes {
		h.shares[lane] = nil
	}
	for name, t := range h.topics {
		sent := 0
		for _, lane := range lanes {
			sent += t.count[lane]
			delete(t.lanes, lane)
			h.forgetHot(t, lane)
		}
		if sent > 0 {
			h.loseTopic(t)
		}
		h.tidy(name)
	}
	return orphans
}

func (h *hands) loseTopic(t *carriedTopic) {
	if !t.sends() {
		return
	}
	h.drop(t)
	if !t.lost {
		t.lost = true
		h.lost.Add(1)
	}
}

// isLosing reports whether requests in flight may have events of a share that was lost.
func (h *hands) isLosing() bool { return h.lost.Load() > 0 }

// know takes over the exceptions of shares that were just taken.
func (h *hands) know(lanes []int16, exceptions []relay.LaneException) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.learn(lanes, exceptions)
}

// learn takes over the exceptions of shares, of which these are all.
func (h *hands) learn(lanes []int16, exceptions []relay.LaneException) {
	listed := make(map[relay.TopicLane]bool, len(exceptions))
	for _, e := range exceptions {
		if s := h.shares[e.Lane]; s == nil || !slices.Contains(lanes, e.Lane) {
			continue
		}
		t := h.topic(e.Topic)
		l := t.lanes[e.Lane]
		switch {
		case e.Apart || e.Claimed:
			listed[e.TopicLane] = true
			h.learnApart(t, l, e)
		case l == nil || l.mode != leaving: // reserved
			// Its events in hand are still sent, so its hot keys stay until it is apart: the queue may have
			// later events of these.
			t.lanes[e.Lane] = &carriedLane{mode: leaving, cause: "an operation needs the lane"}
			signal(h.wakeSteward)
			signal(h.wakeSettler)
		}
		h.tidy(e.Topic)
	}
	for name, t := range h.topics {
		for lane, l := range t.lanes {
			if l.mode == apart && slices.Contains(lanes, lane) && !listed[relay.TopicLane{Topic: name, Lane: lane}] {
				t.lanes[lane] = &carriedLane{mode: backlog} // its batch gave it back
			}
		}
	}
	for _, lane := range lanes {
		if s := h.shares[lane]; s != nil && !s.known {
			s.known = true
			signal(h.wakeReader)
		}
	}
}

func (h *hands) learnApart(t *carriedTopic, l *carriedLane, e relay.LaneException) {
	switch {
	case l == nil || l.mode == backlog:
		// It was an exception when the share was taken. Or the database has lost that it came back,
		// at a failover; then the topic's batches have it.
		l = &carriedLane{mode: apart, ejected: e.Apart, since: time.Now()}
		t.lanes[e.Lane] = l
		h.forgetHot(t, e.Lane)
		if t.count[e.Lane] > 0 {
			h.loseTopic(t)
		}
	case l.mode == leaving && e.Apart && t.count[e.Lane] == 0:
		l.mode, l.since = apart, time.Now() // an earlier statement succeeded after all
		h.forgetHot(t, e.Lane)
	}
	l.claimed = l.claimed || e.Claimed
	l.free = e.Free
}

// leaveMost is how long a share that need not leave waits for its requests in flight. Nothing is read of it
// meanwhile, and other topics must not wait for a destination that hangs.
const leaveMost = 2 * hurryAfter

// leaveShares makes shares leave, and those that are not among them stay. If they need not leave and
// requests hang, they stay until these are over. They stay once, because a destination may always be slow.
func (h *hands) leaveShares(lanes []int16, must bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, s := range h.shares {
		if s == nil {
			continue
		}
		leaves := slices.Contains(lanes, int16(n))
		if leaves && s.leaving && !must && s.count > 0 && s.staysUntil.IsZero() && time.Since(s.since) >= leaveMost {
			s.staysUntil = time.Now().Add(timing.RequestTimeout)
		}
		leaves = leaves && (must || !time.Now().Before(s.staysUntil))
		switch {
		case leaves && !s.leaving:
			s.leaving, s.since = true, time.Now()
			signal(h.wakeSettler)
		case !leaves && s.leaving:
			// Events that came meanwhile were not taken.
			s.leaving, s.discovered = false, false
			signal(h.wakeReader)
		}
	}
}

// hurry makes the sender forget the unsent events for which shares that leave wait.
func (h *hands) hurry(after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, lane := range h.heldIf(func(s *carriedShare) bool { return s.leaving && s.count > 0 && time.Since(s.since) >= after }) {
		for _, t := range h.topics {
			if t.count[lane] > 0 && t.sends() {
				h.drop(t)
			}
		}
	}
}

// close makes all shares leave, for good.
func (h *hands) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.leaveShares(h.held(), true)
	h.hurry(0)
}

// toGiveBack removes the shares that leave and of which nothing is in hand.
func (h *hands) toGiveBack() (lanes []int16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lanes = h.heldIf(func(s *carriedShare) bool { return s.leaving && s.count == 0 })
	lanes = slices.DeleteFunc(lanes, func(lane int16) bool {
		for _, t := range h.topics {
			if l := t.lanes[lane]; l != nil && l.mode == leaving && l.ejected {
				return true // its batches have to know that it was refused
			}
		}
		return false
	})
	for _, lane := range lanes {
		h.shares[lane] = nil
		for name, t := range h.topics {
			delete(t.lanes, lane)
			h.forgetHot(t, lane)
			h.tidy(name)
		}
	}
	return lanes
}

// idle reports whether no share is held and nothing is in hand, and whether all events in hand have
// an answer.
func (h *hands) idle() (over, answered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	answered = true
	for _, t := range h.topics {
		answered = answered && !t.sends() && t.dropping == 0
	}
	return h.events == 0 && len(h.heldIf(func(*carriedShare) bool { return true })) == 0, answered
}

// ---- reading

// readPlan is what there is to read.
type readPlan struct {
	shares [relay.Lanes]*carriedShare // that may be read
	open   []int16                    // of these, those that are discovered
	fresh  []int16                    // and those that are not
	wait   time.Duration              // until another share may be read; 0: none
	room   int                        // events
	pages  []pageOf
	hot    []hotPage
}

// pageOf is a page of a lane to read.
type pageOf struct {
	lane   *carriedLane
	cursor relay.LaneCursor
}

// The size of a read.
const (
	pagesLanes  = 64
	pagesEvents = 400
)

// plan says what there is to read, while the sender has so many events to send. Pages begin with the topic
// behind last.
func (h *hands) plan(last string, unsent int) (p readPlan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.room = carryEvents - h.events
	for n, s := range h.shares {
		lane := int16(n)
		if s == nil || !s.known || s.leaving || h.closed {
			continue
		}
		if wait := time.Until(s.openAt); wait > 0 {
			if p.wait == 0 || wait < p.wait {
				p.wait = wait
			}
			continue
		}
		p.shares[n] = s
		if s.discovered {
			p.open = append(p.open, lane)
		} else {
			p.fresh = append(p.fresh, lane)
		}
	}
	p.pages = h.pages(p, last, unsent)
	p.hot = h.hotPages(p)
	return p
}

// pages chooses the lanes that are read next.
func (h *hands) pages(p readPlan, last string, unsent int) (pages []pageOf) {
	var names []string
	for name, t := range h.topics {
		if t.dropping == 0 && h.hasMode(t, backlog) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	first, found := slices.BinarySearch(names, last)
	if found {
		first++
	}
	left := min(p.room, pagesEvents)
	for i := range names {
		name := names[(first+i)%len(names)]
		t := h.topics[name]
		var lanes []int16
		for _, lane := range slices.Sorted(maps.Keys(t.lanes)) {
			if s := p.shares[lane]; t.lanes[lane].mode == backlog && s != nil && s.discovered {
				lanes = append(lanes, lane)
			}
		}
		want := min(h.allowance(t, unsent), left)
		if len(lanes) == 0 || want <= 0 {
			continue
		}
		if len(names) > 1 { // to others, too
			want = min(want, max(len(lanes), pagesEvents/min(len(names), pagesLanes)))
		}
		for _, lane := range lanes {
			l := t.lanes[lane]
			c := relay.LaneCursor{TopicLane: relay.TopicLane{Topic: name, Lane: lane}, After: l.after, Seen: l.seen, Most: (want + len(lanes) - 1) / len(lanes)}
			pages = append(pages, pageOf{l, c})
		}
		left -= want
		if left <= 0 || len(pages) >= pagesLanes {
			break
		}
	}
	// Events in hand are found again, and must not crowd out the others.
	for begin, end := 0, 0; begin < len(pages); begin = end {
		t := h.topics[pages[begin].cursor.Topic]
		var at [relay.Lanes]*relay.LaneCursor
		for ; end < len(pages) && h.topics[pages[end].cursor.Topic] == t; end++ {
			c := &pages[end].cursor
			if len(t.hot) > 0 {
				c.Most = max(c.Most, hotLeast) // most may be of hot keys
			}
			if t.count[c.Lane] > 0 {
				at[c.Lane] = c
			}
		}
		for ref := range t.hand {
			if c := at[ref.Lane]; c != nil && c.Covers(ref) {
				c.Most++
			}
		}
	}
	return pages
}

// readable reports whether a read may add events of a lane. The share must be the one that the read was
// planned for, and held in its snapshot.
func (h *hands) readable(p readPlan, held []int16, lane int16) bool {
	s := h.shares[lane]
	return s != nil && s == p.shares[lane] && !s.leaving && !h.closed && slices.Contains(held, lane)
}

// mustLeave makes a topic leave that this worker does not publish from its shares.
func (h *hands) mustLeave(topic string) bool {
	cause := h.keeps(topic)
	if cause == "" && h.stopped[topic] {
		cause = "the topic is paused or held for its recovery"
	}
	if cause != "" {
		h.leave(topic, cause, false)
	}
	return cause != ""
}

// discovered takes over which lanes of new shares have pending events. Look finds what comes in the
// others.
func (h *hands) discovered(p readPlan, asked []int16, d relay.Discovered) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range d.First {
		if h.readable(p, d.Held, f.Lane) && !h.mustLeave(f.Topic) {
			h.putBack(f.Topic, relay.Ref{ID: f.Ref.ID, Lane: f.Lane}, d.Final)
		}
	}
	for _, lane := range asked {
		if h.readable(p, d.Held, lane) {
			h.shares[lane].discovered = true
		}
	}
}

// swept takes over which lanes have pending events that no look has found.
func (h *hands) swept(r *read, p readPlan, d relay.Discovered) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range d.First {
		if h.readable(p, d.Held, f.Lane) && h.shares[f.Lane].discovered && h.isNew(r, f.Topic, f.Ref) &&
			!h.isLeft(f.Topic, f.Ref) && !h.mustLeave(f.Topic) {
			// Looks went on during the search, and perhaps in another history of the database.
			h.putBack(f.Topic, relay.Ref{ID: f.Ref.ID, Lane: f.Lane}, min(d.Final, h.final))
		}
	}
}

// forgetHistory makes all shares be discovered again: the database is another one, or none of the shares is
// read any more. The events whose contents are not loaded are forgotten with the hot keys: earlier events of these
// keys may have been left.
func (h *hands) forgetHistory() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.final = 0
	for name, t := range h.topics {
		h.giveUpLoads(t)
		for key := range t.hot {
			h.endHot(t, key)
		}
		h.tidy(name)
	}
	for _, s := range h.shares {
		if s != nil {
			s.discovered = false
		}
	}
}

// looked takes the events of a look that may be sent, and are not left because of their keys.
func (h *hands) looked(r *read, p readPlan, l relay.Looked, keys keys, asked time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var taken []relay.Narrow
	h.final = l.Final
	if n := len(l.Events); l.More && n > 0 {
		h.final = min(l.Final, l.Events[n-1].ID-1)
	}
	for _, lane := range p.open {
		if s := h.shares[lane]; s != nil && s == p.shares[lane] && !slices.Contains(l.Held, lane) {
			// The lease has ended, or an attendance that is under way renews it: the look does not see the
			// renewal before it commits. Later looks do not find these events again.
			s.discovered = false
		}
	}
	for _, e := range l.Events {
		if e.Topic == "" || !e.Pending || !h.readable(p, l.Held, e.Lane) || !h.shares[e.Lane].discovered {
			continue
		}
		t := h.topics[e.Topic]
		if t != nil && t.lanes[e.Lane] != nil {
			continue
		}
		n := relay.Narrow{Topic: e.Topic, Ref: e.Ref, CreatedAt: time.UnixMicro(e.At), Bytes: e.Bytes, Place: e.Place, Content: e.Content}
		var key string
		var keyed bool
		if t != nil {
			key, keyed = keys.of(t, n)
		}
		if !h.isNew(r, e.Topic, e.Ref) || t != nil && !h.admit(t, key, e.Ref) || h.mustLeave(e.Topic) || h.isTooLarge(e.Topic, e.Ref, e.Bytes) {
			continue
		}
		if h.topic(e.Topic).dropping != 0 || !h.take(n, born(relay.Event{Ref: n.Ref, CreatedAt: n.CreatedAt}, asked, l.At), key, keyed) {
			h.putBack(e.Topic, e.Ref, l.Final)
			continue
		}
		taken = append(taken, n)
	}
	h.enqueue(taken)
}

// paged takes the events of pages that may be sent, and are not left because of their keys. A lane whose page
// was not full flows from then on. got reports whether the pages have brought the carrier on.
//
// A page begins at the final id again while later ones are not final. If it is then full of events that were
// left, the lane flows, too, and looks have to find all events above the id again. Without such a page, again
// is above all ids.
func (h *hands) paged(r *read, p readPlan, pages relay.Pages, keys keys, asked time.Time) (got bool, again int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	again = math.MaxInt64
	taken := make([]relay.Narrow, 0, len(pages.Events))
	found, full := byLane(pages)
	for _, page := range p.pages {
		at := page.cursor.TopicLane
		t := h.topics[at.Topic]
		if !h.readable(p, pages.Held, at.Lane) || t == nil || t.lanes[at.Lane] != page.lane || page.lane.mode != backlog ||
			t.dropping != 0 || page.lane.after != page.cursor.After || page.lane.seen != page.cursor.Seen || h.mustLeave(at.Topic) {
			continue
		}
		more, had, left, noRoom := full[at], len(taken), false, false
		for _, e := range found[at] {
			if !h.isNew(r, at.Topic, e.Ref) {
				page.lane.passed(e.Ref, pages.Final)
				continue
			}
			key, keyed := keys.of(t, e)
			if !h.admit(t, key, e.Ref) {
				left = true
				page.lane.passed(e.Ref, pages.Final)
				continue
			}
			if h.isTooLarge(at.Topic, e.Ref, e.Bytes) {
				break
			}
			if !h.take(e, born(relay.Event{Ref: e.Ref, CreatedAt: e.CreatedAt}, asked, pages.At), key, keyed) {
				more, noRoom = true, true
				break
			}
			page.lane.passed(e.Ref, pages.Final)
			taken = append(taken, e)
		}
		if page.lane != t.lanes[at.Lane] {
			h.tidy(at.Topic)
			continue
		}
		if more && !noRoom && left && len(taken) == had && pages.Final <= page.cursor.After {
			more, again = false, min(again, page.cursor.After)
			h.final = min(h.final, again) // see putBack
		}
		got = got || left && (page.lane.after != page.cursor.After || page.lane.seen != page.cursor.Seen)
		if !more {
			delete(t.lanes, at.Lane)
			got = true
		}
		h.tidy(at.Topic)
	}
	h.enqueue(taken)
	return got || len(taken) > 0, again
}

// isTooLarge makes a topic leave that has an event which no destination accepts.
func (h *hands) isTooLarge(topic string, ref relay.Ref, bytes int64) bool {
	err := unsendable(relay.Event{Ref: ref, Bytes: bytes, EventID: "not read"}, nil)
	if err != nil {
		h.leave(topic, err.Error(), true)
	}
	return err != nil
}

// silent makes a topic leave whose destination does not answer. Its batches find out what that means, and
// its unsent events take no room from others.
func (h *hands) silent(topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[topic]; t != nil && t.dropping == 0 {
		h.leave(topic, "the destination has not answered for some seconds", true)
	}
}

// eject makes a topic leave because an event of it cannot be sent.
func (h *hands) eject(topic string, why *relay.PublishError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave(topic, why.Error(), true)
}
