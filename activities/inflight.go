package activities

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// inFlight holds, topic by topic, the events that an attempt has loaded and not settled, and the
// answers of their destinations. Loading, sending, settling and the heartbeat share nothing else,
// so it has the attempt's only mutex. The number of events in hand is bounded over all topics. Their
// contents have their part of the budget of the process until they have an outcome.
type inFlight struct {
	mu     sync.Mutex
	budget *budget
	topics map[string]*topicInFlight

	measured []time.Duration // latencies; used again for every answer

	// Each holds a token when there is news.
	wakeSettler chan struct{} // a destination has answered
	wakeLoader  chan struct{} // events were settled or refused
}

// topicInFlight is the part of one topic.
type topicInFlight struct {
	lanes     []int16             // of the lease
	borrowed  map[int16]int64     // lanes borrowed for probing, with the id from which each is read
	hand      map[relay.Ref]event // in hand: loaded and not settled
	read      relay.Read          // behind what was loaded
	acked     []relay.Ref         // acknowledged, to be settled
	settling  []relay.Ref         // being settled now
	refused   refusals
	loaded    int
	accepted  int        // by the destination, in this attempt
	sent      time.Time  // the last request with an accepted event
	published int        // accepted, in all attempts
	noted     checkpoint // for the next attempt, without Published and Unsettled
	allowance *allowance // of the budget
	ordered   bool       // so is the destination
	// blocked are the keys of refused events, if the destination is ordered. The publisher sends no event
	// behind them any more, and forgets their contents.
	blocked map[string]bool
}

// event is an event in hand, without its payload.
type event struct {
	cost int64     // of its contents, while they are in memory
	born time.Time // when it was written, by this worker's clock; zero: no such time
	key  string
}

// acknowledgements are events of one topic that its destination has accepted.
type acknowledgements struct {
	topic string
	refs  []relay.Ref
}

func newInFlight(b *budget) *inFlight {
	return &inFlight{
		budget: b, topics: make(map[string]*topicInFlight), wakeSettler: make(chan struct{}, 1), wakeLoader: make(chan struct{}, 1),
	}
}

// begin adds the lanes of a lease, with what the attempt before has left. It needs a call of forget.
// Ordered says whether the destination is.
func (f *inFlight) begin(l relay.Lease, last checkpoint, ordered bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topics[l.Topic] = &topicInFlight{
		lanes: slices.Sorted(maps.Keys(l.LowID)), hand: make(map[relay.Ref]event), ordered: ordered, blocked: make(map[string]bool),
		read: relay.Read{Next: maps.Clone(l.LowID)}, published: last.Published, noted: last, allowance: f.budget.join(l.Topic),
	}
}

// take waits until contents of the first events may be loaded, and returns of how many: at least one.
func (f *inFlight) take(ctx context.Context, topic string, events []relay.Event) (n int, err error) {
	costs := make([]int64, len(events))
	for i, e := range events {
		costs[i] = cost(e)
	}
	return f.allowanceOf(topic).take(ctx, costs)
}

// takeUnknown waits until so many bytes of contents may be loaded. With known, they become those of the
// events that were found.
func (f *inFlight) takeUnknown(ctx context.Context, topic string, bytes int64) (known func([]relay.Event), err error) {
	a, guess := f.allowanceOf(topic), payloadCopies*bytes
	if _, err := a.take(ctx, []int64{guess}); err != nil {
		return nil, err
	}
	return func(events []relay.Event) {
		left := guess
		for _, e := range events {
			left -= cost(e)
		}
		a.give(left)
	}, nil
}

func (f *inFlight) allowanceOf(topic string) *allowance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topics[topic].allowance
}

// forget ends the topics' parts of the budget. No contents may be in memory any more.
func (f *inFlight) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.topics {
		for ref, e := range t.hand {
			e.cost = 0
			t.hand[ref] = e
		}
		t.allowance.leave()
	}
}

// loaded notes the events of a page that was asked for at the given time. Their cost has been taken.
func (f *inFlight) loaded(topic string, page relay.Page, asked time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	t.loaded += len(page.Events)
	var freed int64
	for _, e := range page.Events {
		taken := cost(e)
		if t.blocked[e.Key] {
			freed, taken = freed+taken, 0
		}
		// Two times of the database are compared with each other, and this worker measures the
		// time since. So the two clocks may differ. An age is too high by the duration of one
		// request at most, and never too low.
		t.hand[e.Ref] = event{cost: taken, born: born(e, asked, page.At), key: e.Key}
	}
	t.allowance.give(freed)
}

// readOn notes that the lanes were read up to the events of a page. It is not for probes: the
// events before these were not loaded, so the low watermarks stay where they are.
func (f *inFlight) readOn(topic string, page relay.Page) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range page.Events {
		f.topics[topic].read.Loaded(e.Ref)
	}
}

// born is when an event was written, by this worker's clock. An event from before 1970 or
// of an infinite time was not written then: one such latency would spoil the sum of all.
func born(e relay.Event, asked, read time.Time) time.Time {
	if e.At < 0 || e.At == math.MaxInt64 {
		return time.Time{}
	}
	return asked.Add(e.CreatedAt.Sub(read))
}

// latencies returns how long after their writing the events among outcomes were accepted. The slice
// is used again by the next call.
func (f *inFlight) latencies(topic string, outcomes []relay.Outcome) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, now := f.topics[topic], time.Now()
	f.measured = f.measured[:0]
	for _, o := range outcomes {
		// The event of a replay may be of any age.
		if born := t.hand[o.Ref].born; o.Err == nil && o.Replay == 0 && !born.IsZero() {
			f.measured = append(f.measured, max(0, now.Sub(born)))
		}
	}
	return f.measured
}

// answered takes the answer to one request, and wakes the settler. The publisher has forgotten the
// contents of the events.
func (f *inFlight) answered(topic string, outcomes []relay.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	t.block(outcomes)
	t.free(outcomes)
	now, add := time.Now(), t.refused.add
	if slices.ContainsFunc(outcomes, func(o relay.Outcome) bool { return o.Err == nil }) {
		add = t.refused.addBeside
	}
	for _, o := range outcomes {
		if o.Err != nil {
			add(o, now)
			signal(f.wakeLoader)
			continue
		}
		if o.Sent.After(t.sent) {
			t.sent = o.Sent
		}
		t.published++
		t.accepted++
		t.acked = append(t.acked, o.Ref)
	}
	signal(f.wakeSettler)
}

// screenedOut notes events that no destination is asked for.
func (f *inFlight) screenedOut(topic string, outcomes []relay.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	t.free(outcomes)
	now := time.Now()
	for _, o := range outcomes {
		t.refused.add(o, now)
		signal(f.wakeLoader)
	}
}

// free gives back what the contents of events have cost.
func (t *topicInFlight) free(outcomes []relay.Outcome) {
	var freed int64
	for _, o := range outcomes {
		if e := t.hand[o.Ref]; e.cost > 0 {
			freed += e.cost
			e.cost = 0
			t.hand[o.Ref] = e
		}
	}
	t.allowance.give(freed)
}

// block gives back what the events behind refused ones of their key have cost. They get no outcome in
// this attempt, so a page that has many of them could otherwise never be loaded to its end.
func (t *topicInFlight) block(outcomes []relay.Outcome) {
	blocks := false
	for _, o := range outcomes {
		if key := t.hand[o.Ref].key; t.ordered && o.Err != nil && key != "" && !t.blocked[key] {
			t.blocked[key], blocks = true, true
		}
	}
	if !blocks {
		return
	}
	var freed int64
	for ref, e := range t.hand {
		if e.cost > 0 && t.blocked[e.key] {
			freed += e.cost
			e.cost = 0
			t.hand[ref] = e
		}
	}
	t.allowance.give(freed)
}

// unroutable notes that a topic's destination was not found, unless something was refused.
func (f *inFlight) unroutable(topic string, why *relay.PublishError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.topics[topic]; !t.refused.any() {
		t.refused.stop(why)
	}
}

// next returns the acknowledgements that are to be settled next. They stay in the checkpoint
// until settled is called.
func (f *inFlight) next() (all []acknowledgements) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for topic, t := range f.topics {
		t.settling, t.acked = append(t.settling, t.acked...), nil
		if len(t.settling) > 0 {
			all = append(all, acknowledgements{topic, t.settling})
		}
	}
	return all
}

// settled notes that what next returned of a topic is settled.
func (f *inFlight) settled(topic string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	t.drop(t.settling)
	t.settling = nil
	signal(f.wakeLoader)
}

// deadLettered notes that events have become dead letters.
func (f *inFlight) deadLettered(topic string, dead []relay.Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	for _, o := range dead {
		t.drop([]relay.Ref{o.Ref})
	}
	t.noted.Dead += len(dead)
}

// drop forgets events in hand.
func (t *topicInFlight) drop(refs []relay.Ref) {
	var freed int64
	for _, ref := range refs {
		freed += t.hand[ref].cost
		delete(t.hand, ref)
	}
	t.allowance.give(freed)
}

// events is how many are in hand, of all topics.
func (f *inFlight) events() (n int) {
	for _, t := range f.topics {
		n += len(t.hand)
	}
	return n
}

// moreComes reports whether acknowledgements are few and others are on their way.
func (f *inFlight) moreComes() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	acked := 0
	for _, t := range f.topics {
		acked += len(t.acked)
	}
	return acked < settleEvents && acked < f.events()
}

// room waits until half a page is settled. It reports false if there is nothing to load for:
// an event of the topic was refused, or ctx ended.
func (f *inFlight) room(ctx context.Context, topic string) bool {
	for {
		f.mu.Lock()
		isFree := f.events() <= relay.PageEvents-loadEvents
		refused := f.topics[topic].refused.any()
		f.mu.Unlock()
		if refused || ctx.Err() != nil {
			return false
		}
		if isFree {
			return true
		}
		select {
		case <-f.wakeLoader:
		case <-ctx.Done():
		}
	}
}

// inHand are the events that are loaded and not settled.
func (f *inFlight) inHand(topic string) []relay.Ref {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.topics[topic].hand))
}

// lanes are those that the attempt holds.
func (f *inFlight) lanes(topic string) []int16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	lanes := slices.AppendSeq(slices.Clone(t.lanes), maps.Keys(t.borrowed))
	slices.Sort(lanes)
	return lanes
}

// read is how far the lanes were loaded.
func (f *inFlight) read(topic string) relay.Read {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	return relay.Read{Next: maps.Clone(t.read.Next), Last: t.read.Last}
}

// lowWatermarks are those with which lanes are released: nothing is pending below them.
func (f *inFlight) lowWatermarks(topic string) relay.Read {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	read := relay.Read{Next: maps.Clone(t.read.Next), Last: t.read.Last}
	for ref := range t.hand {
		read.Next[ref.Lane] = min(read.Next[ref.Lane], ref.ID)
	}
	return read
}

// borrow adds lanes to those that the attempt holds.
func (f *inFlight) borrow(topic string, lanes map[int16]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	t.borrowed = lanes
	maps.Copy(t.read.Next, lanes)
}

// giveBack forgets the lanes that were borrowed, with their events, and returns the low
// watermarks with which they were.
func (f *inFlight) giveBack(topic string) (next map[int16]int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	next, t.borrowed = t.borrowed, nil
	for lane := range next {
		delete(t.read.Next, lane)
	}
	for ref := range t.hand {
		if _, is := next[ref.Lane]; is {
			t.drop([]relay.Ref{ref})
			t.loaded--
		}
	}
	return next
}

// state is a copy of what an attempt has of a topic.
type state struct {
	lanes     []int16         // of the lease, ascending
	borrowed  map[int16]int64 // and of probes
	refused   refusals
	loaded    int         // events
	accepted  int         // by the destination, in this attempt
	sent      time.Time   // the last request with an accepted event
	published int         // accepted, in all attempts
	inHand    []relay.Ref // loaded and not settled
	noted     checkpoint  // for the next attempt
}

// state returns what the attempt has of a topic now.
func (f *inFlight) state(topic string) state {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	return state{
		lanes: t.lanes, borrowed: t.borrowed, refused: t.refused, loaded: t.loaded, accepted: t.accepted, sent: t.sent, published: t.published,
		inHand: slices.Collect(maps.Keys(t.hand)), noted: t.noted,
	}
}

// note changes what the next attempt will know of a topic.
func (f *inFlight) note(topic string, change func(*checkpoint)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.topics[topic].noted)
}

// checkpoint is what the next attempt is to know of a topic.
func (f *inFlight) checkpoint(topic string) checkpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	c := t.noted
	c.Published = t.published
	c.Unsettled = slices.Concat(t.settling, t.acked)
	return c
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
