package activities

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/temporal-outbox/relay/internal/printable"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// carrier publishes the shares of one worker process: lane numbers of all topics.
//
// Six loops work at the same time: the steward attends to the shares and moves lanes, the reader finds
// events, the sweeper searches for those that the reader cannot find, the loader loads their contents, the
// settler settles events, and the dropper tells the sender which events to forget. They share hands, and nothing
// else. The sender has goroutines of its own.
//
// A topic that cannot be published as usual leaves the shares: its lanes are set apart, and batches of
// that topic alone have them. So the carrier decides nothing about refused events.
type carrier struct {
	cfg       carrierConfig
	clock     timing.Clock
	metrics   Metrics
	policies  Config
	routed    map[string]bool // nil: all topics have a route
	ledger    *ledger
	receipts  *receipts
	ambiguous *ambiguity
	carried   *carried

	hands   *hands
	out     relay.Sender
	sending sync.Mutex // held while events are added or dropped: none is added between the two
	seating seating

	// renewed is when the last successful attendance began.
	renewed atomic.Pointer[timing.Reading]

	// These are the steward's own.
	steady   timing.Reading              // since when the database has answered each attendance in time
	attended bool                        // the last one succeeded
	failing  bool                        // that is logged
	avoid    [relay.Lanes]timing.Reading // when a share was given back, perhaps
	avoids   [relay.Lanes]bool

	locked locked // the settler's own
}

// locked are topics of which something has locked rows, so that their acknowledgements are settled alone.
type locked struct {
	topics map[string]bool
	next   time.Time // when to try them again
}

// carrierConfig is what a carrier needs beside the parts that it shares with the attempts of its
// worker. All are required except log.
type carrierConfig struct {
	worker string // the id of the process, a UUID
	name   string // for people
	shares ShareStore
	reads  ReadStore
	sender Sender
	waits  func() bool  // default: never
	log    *slog.Logger // default: slog.Default()
}

// newCarrier returns a carrier that shares the ledger, the receipts, the evidence about refusals, the
// policies of topics and the metrics with the attempts of a.
func newCarrier(a *Activities, cfg carrierConfig) *carrier {
	if cfg.log == nil {
		cfg.log = slog.Default()
	}
	c := &carrier{
		cfg: cfg, clock: a.clock, metrics: a.cfg.Metrics, policies: a.cfg, ledger: a.ledger, receipts: a.receipts,
		ambiguous: &a.ambiguous, carried: &a.carried, seating: newSeating(),
	}
	if a.cfg.Routes != nil {
		c.routed = make(map[string]bool)
		for _, topic := range a.cfg.Routes {
			c.routed[topic] = true
		}
	}
	c.hands = newHands(c.keepsApart, c.destination, c.ordered, a.budget, func(topic, cause string) {
		c.cfg.log.Info("a topic leaves the lanes that all topics share; batches of its own publish it until it comes back",
			"topic", topic, "cause", printable.Cut(printable.Text(cause), maxFailureText))
	})
	return c
}

// keepsApart says why batches of its own publish a topic, or returns "".
func (c *carrier) keepsApart(topic string) string {
	p := c.policies.policy(topic)
	switch {
	case p.MaxPerSecond > 0:
		return "the topic has maxPerSecond"
	case p.OnPoison == BlockKey:
		return "the topic has onPoison: block"
	case c.routed != nil && !c.routed[topic]:
		return "a worker has no route for the topic"
	}
	return ""
}

// destination names a topic's destination, "" if this worker has none for it.
func (c *carrier) destination(topic string) string {
	if c.policies.Publisher == nil {
		return ""
	}
	return c.policies.Publisher.Destination(topic)
}

// ordered reports whether a topic's destination keeps the events of a key in order.
func (c *carrier) ordered(topic string) bool {
	return c.policies.Publisher != nil && c.policies.Publisher.Ordered(topic)
}

// run carries until ctx ends: while a seat lets it, it holds shares, reads what commits in them,
// sends and settles it. Then it waits for its requests in flight, settles, and gives its shares back.
// It does so within timing.StopTimeout and timing.SettlePatience.
func (c *carrier) run(ctx context.Context) {
	detached := context.WithoutCancel(ctx)
	c.out = c.cfg.sender.Open(relay.SenderRequest{
		Deadline: c.deadline, Most: c.seating.mostRequests, Report: c.report, Answered: c.metrics.Answered,
		Silent: c.hands.silent, Dropping: c.hands.droppedUnsent, Dropped: c.dropped,
	})
	reader := &carrierReader{
		store: c.cfg.reads, worker: c.cfg.worker, hands: c.hands, unsent: c.out.Backlog, poll: c.policies.PollEvery, log: c.cfg.log,
	}
	loader := &carrierLoader{store: c.cfg.reads, hands: c.hands, send: c.send, log: c.cfg.log}
	working, stop := context.WithCancel(detached)
	defer stop()
	over := make(chan struct{})
	var loops, reading sync.WaitGroup
	reading.Go(func() { reader.run(ctx) })
	reading.Go(func() { reader.sweep(ctx) })
	reading.Go(func() { loader.run(ctx) })
	loops.Go(func() { c.attend(working, over) })
	loops.Go(func() { c.settle(working) })
	loops.Go(func() { c.drop(working) })

	<-ctx.Done()
	c.seating.close()
	c.hands.close()
	signal(c.hands.wakeSettler)
	select {
	case <-over:
	case <-time.After(timing.StopTimeout):
	}
	closing, cancel := context.WithTimeout(detached, timing.SettlePatience)
	defer cancel()
	if err := c.out.Close(closing); err != nil {
		c.cfg.log.Warn("requests are still in flight while the worker stops", "error", err)
	}
	stop()
	loops.Wait()
	reading.Wait()
	c.leave(closing)
}

// leave ends a carrier whose loops have ended. If something of its shares is in flight or unsettled,
// they are not given back: their leases end, and the next worker knows that this one may still settle.
func (c *carrier) leave(ctx context.Context) {
	over, _ := c.hands.idle()
	for _, t := range c.hands.rest() {
		c.ledger.add(t.Topic, t.Refs)
	}
	if !over {
		return
	}
	if err := c.cfg.shares.Leave(ctx, c.cfg.worker); err != nil {
		c.cfg.log.Warn("the worker could not give its shares back; others take them when its leases end", "error", err)
	}
}

// deadline is when this worker has to have fallen silent, as far as it knows now. It is in the past if
// the leases of its shares were not renewed in time, by clocks that go on while the machine is suspended.
func (c *carrier) deadline() time.Time {
	renewed := c.renewed.Load()
	if renewed != nil && !c.hands.isLosing() {
		if left := timing.ShareLease - timing.ShareMargin - c.clock.Since(*renewed); left > 0 {
			return time.Now().Add(left)
		}
	}
	return time.Now().Add(-time.Second)
}

// ---- sending

// send hands the sender those of a topic's loaded events that are still to be sent.
func (c *carrier) send(topic string, epoch int, events []relay.Event) {
	c.sending.Lock()
	defer c.sending.Unlock()
	if events = c.hands.canAdd(topic, epoch, events); len(events) > 0 {
		c.out.Add(topic, events)
	}
}

// drop tells the sender of topics whose events it is to forget, until ctx ends. It does not do so
// where the decision is made, because that is often within a call of the sender.
func (c *carrier) drop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hands.wakeDropper:
		}
		for {
			c.sending.Lock()
			topic, found := c.hands.toDrop()
			if found {
				c.out.Drop(topic)
			}
			c.sending.Unlock()
			if !found {
				break
			}
		}
	}
}

// dropped notes that no request with events of a topic is in flight any more.
func (c *carrier) dropped(topic string) { c.hands.droppedAll(topic) }

// report takes the answer to one request. It tells hands last: from then on, the settler may settle the
// events, and their receipts and metrics must come before.
func (c *carrier) report(topic string, outcomes []relay.Outcome) {
	defer func() { // also if a receipt or a metric panics: the destination has accepted the events
		if orphans := c.hands.answered(topic, outcomes); len(orphans) > 0 {
			c.ledger.add(topic, orphans)
		}
	}()
	accepted, sent := 0, time.Time{}
	for _, o := range outcomes {
		if o.Err == nil {
			accepted, sent = accepted+1, o.Sent
		}
	}
	if accepted > 0 {
		c.ambiguous.noteAccepted(topic, sent)
		c.seating.published(topic, accepted)
		c.carried.add(topic, accepted)
	}
	if c.policies.policy(topic).Receipts > 0 {
		c.receipts.add(topic, outcomes)
	}
	c.metrics.Reported(topic, outcomes, c.hands.latencies(topic, outcomes))
}

// ---- settling

// settle settles acknowledgements until ctx ends. Those that come while one statement runs go into the
// next. While the database does not answer they stay in hand, so that soon nothing is read any more.
func (c *carrier) settle(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hands.wakeSettler:
		}
		for enough := time.After(settleEvery); !c.hands.settlesSoon(); {
			select {
			case <-c.hands.wakeSettler:
				continue
			case <-ctx.Done():
				return
			case <-enough:
			}
			break
		}
		if !c.settleOnce(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(timing.SettleEvery):
				signal(c.hands.wakeSettler)
			}
		}
	}
}

// settleAlone bounds a try to settle one topic alone, and settleFailures how many of these tries may fail
// before the settler begins again.
const (
	settleAlone    = timing.SettleTry / 8
	settleFailures = 4
)

// settleOnce settles all acknowledgements that have come. If that fails, it tries each topic alone: a
// lock on the rows of one does not concern the others. A topic that fails alone while others do not is left
// out then, and tried again every timing.SettleTry.
func (c *carrier) settleOnce(ctx context.Context) (done bool) {
	all := c.hands.toSettle()
	free := slices.DeleteFunc(slices.Clone(all), func(t relay.TopicRefs) bool { return c.locked.topics[t.Topic] })
	done = len(free) == len(all)
	if !c.trySettle(ctx, timing.SettleTry, free) {
		done = false
		if len(free) > 1 {
			c.settleEach(ctx, free)
		}
	}
	if len(c.locked.topics) > 0 && !time.Now().Before(c.locked.next) {
		for _, t := range all {
			if c.locked.topics[t.Topic] && c.trySettle(ctx, settleAlone, []relay.TopicRefs{t}) {
				delete(c.locked.topics, t.Topic)
			}
		}
		c.locked.next = time.Now().Add(timing.SettleTry)
	}
	return done
}

// settleEach settles topics one by one, and notes those that fail while others do not. If the first ones
// all fail, the database may be away.
func (c *carrier) settleEach(ctx context.Context, topics []relay.TopicRefs) {
	var failed []string
	settled := false
	for _, t := range topics {
		if c.trySettle(ctx, settleAlone, []relay.TopicRefs{t}) {
			settled = true
		} else if failed = append(failed, t.Topic); len(failed) == settleFailures {
			break
		}
	}
	if !settled || len(failed) == 0 {
		return
	}
	if c.locked.topics == nil {
		c.locked.topics = make(map[string]bool)
	}
	for _, topic := range failed {
		c.locked.topics[topic] = true
	}
	c.locked.next = time.Now().Add(timing.SettleTry)
}

func (c *carrier) trySettle(ctx context.Context, within time.Duration, topics []relay.TopicRefs) bool {
	if len(topics) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if c.cfg.reads.SettleTopics(ctx, topics) != nil {
		return false
	}
	c.hands.settled(topics)
	return true
}

// ---- shares

const (
	// attendTry bounds an attendance: another one follows before the worker must fall silent.
	attendTry = (timing.ShareLease - timing.ShareMargin) / 2
	// moveTry bounds each statement between two attendances.
	moveTry = timing.ShareMargin
	// hurryAfter is how long a share that is given back waits for the events that the sender has.
	hurryAfter = time.Second
)

// attend keeps the shares until ctx ends. When the seats have closed, it gives them back, and closes
// over as soon as nothing is left to do.
func (c *carrier) attend(ctx context.Context, over chan<- struct{}) {
	next := time.Now()
	var answered time.Time // since when all events in hand have an answer, at the end
	for ctx.Err() == nil {
		due := time.After(time.Until(next))
		select {
		case <-ctx.Done():
			return
		case <-c.seating.changed:
			next = time.Now()
		case <-due:
		case <-c.hands.wakeSteward:
			_ = c.release(ctx)
		}
		if !time.Now().Before(next) {
			next = time.Now().Add(timing.ShareEvery)
			c.keep(ctx)
		}
		if over != nil && c.seating.isClosed() {
			done, all := c.hands.idle()
			switch {
			case !all:
				answered = time.Time{}
			case answered.IsZero():
				answered = time.Now()
			}
			if done || all && time.Since(answered) >= timing.SettlePatience {
				close(over)
				over = nil
			}
		}
	}
}

// keep renews the shares, and moves shares and lanes by the answer.
func (c *carrier) keep(ctx context.Context) {
	me := relay.Worker{ID: c.cfg.worker, Seated: c.seating.carries()}
	held, asked := c.hands.held(), c.clock.Now()
	if !me.Seated && len(held) == 0 && c.cfg.waits != nil && c.cfg.waits() {
		c.attended = false
		return // who does not attend is not offered a seat
	}
	trying, cancel := context.WithTimeout(ctx, attendTry)
	defer cancel()
	seen, err := c.cfg.shares.Attend(trying, relay.Attendance{
		Worker: c.cfg.worker, Name: c.cfg.name, Seated: c.seating.isSeated(), Lanes: held,
	})
	if err != nil {
		if !c.failing && ctx.Err() == nil {
			c.cfg.log.Warn("the leases of this worker's shares could not be renewed; the worker tries again", "error", err)
		}
		c.attended, c.failing = false, true
		return
	}
	if renewed := c.renewed.Load(); !c.attended || c.clock.Since(*renewed) > timing.ShareEvery+timing.ShareMargin {
		c.steady = asked
	}
	c.attended, c.failing = true, false

	lost, orphans := c.hands.attended(held, seen)
	for _, t := range orphans {
		c.ledger.add(t.Topic, t.Refs)
	}
	if len(lost) > 0 {
		c.cfg.log.Warn("this worker has lost shares, because it did not renew their leases in time", "lanes", relay.FormatLanes(lost))
	}
	c.renewed.Store(&asked) // what is lost can no longer be sent

	take, giveBack := balance(me, c.hands.held(), seen)
	c.hands.leaveShares(giveBack, !me.Seated || c.seating.isClosed())
	switch {
	case !me.Seated:
		c.hands.hurry(0)
	default:
		c.hands.hurry(hurryAfter)
	}
	err = c.release(ctx)
	if err == nil {
		err = c.rejoin(ctx)
	}
	if err == nil && !c.hands.isLosing() && !c.seating.isClosed() {
		err = c.take(ctx, take)
	}
	if err != nil && ctx.Err() == nil {
		c.cfg.log.Warn("shares or lanes could not be moved; the worker tries again", "error", err)
	}
}

// release sets lanes apart that leave, and gives shares back, as far as nothing of them is in hand. Each
// cause needs a statement, and many topics may leave at once. So it soon interrupts itself, because leases
// have to be renewed meanwhile.
func (c *carrier) release(ctx context.Context) error {
	for began := time.Now(); ; {
		lanes, cause := c.hands.toSetApart()
		if len(lanes) == 0 {
			break
		}
		if time.Since(began) >= timing.ShareEvery {
			signal(c.hands.wakeSteward)
			break
		}
		trying, cancel := context.WithTimeout(ctx, moveTry)
		// Low watermarks are left to the batches: they raise them only if the database has no other
		// history than the one in which an event was read.
		done, err := c.cfg.shares.SetApart(trying, c.cfg.worker, lanes, make([]int64, len(lanes)), printable.Cut(printable.Text(cause), maxFailureText))
		cancel()
		if err != nil {
			return fmt.Errorf("set lanes apart: %w", err)
		}
		c.hands.areApart(done)
		if len(done) < len(lanes) {
			break // the rest is lost, as the next attendance will say
		}
	}
	if lanes := c.hands.toGiveBack(); len(lanes) > 0 {
		trying, cancel := context.WithTimeout(ctx, moveTry)
		defer cancel()
		if err := c.cfg.shares.GiveBackShares(trying, c.cfg.worker, lanes); err != nil {
			// The statement may still succeed. It must not give back a share that is taken again.
			for _, lane := range lanes {
				c.avoid[lane], c.avoids[lane] = c.clock.Now(), true
			}
			return fmt.Errorf("give shares back: %w", err)
		}
	}
	return nil
}

// rejoin takes lanes back from the batches of their topics. It takes no lane of which this worker knows
// acknowledgements that are not settled.
func (c *carrier) rejoin(ctx context.Context) error {
	lanes := slices.DeleteFunc(c.hands.toRejoin(), func(at relay.TopicLane) bool {
		return len(c.ledger.of(at.Topic, []int16{at.Lane})) > 0
	})
	if len(lanes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, moveTry)
	defer cancel()
	joined, err := c.cfg.shares.Rejoin(ctx, c.cfg.worker, lanes)
	if err != nil {
		return fmt.Errorf("take lanes back: %w", err)
	}
	c.hands.rejoined(joined)
	return nil
}

// take takes shares, and reads their exceptions before anything is read of them. It takes no share in
// which this worker knows acknowledgements that are not settled.
func (c *carrier) take(ctx context.Context, lanes []int16) error {
	unsettled := c.ledger.lanes()
	lanes = slices.DeleteFunc(lanes, func(lane int16) bool {
		if c.avoids[lane] && c.clock.Since(c.avoid[lane]) > 2*timing.StatementTimeout {
			c.avoids[lane] = false
		}
		return c.avoids[lane] || slices.Contains(unsettled, lane)
	})
	if len(lanes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, moveTry)
	defer cancel()
	taken, err := c.cfg.shares.TakeShares(ctx, c.cfg.worker, lanes)
	if err != nil {
		return fmt.Errorf("take shares: %w", err)
	}
	if len(taken) == 0 {
		return nil
	}
	var mine []int16
	for _, t := range taken {
		openAt := time.Now()
		if steady := c.clock.Since(c.steady); t.Settling && steady < timing.ShareLease {
			// The database was away from this worker, and perhaps from the last holder, too. That may
			// have acknowledgements to settle. A worker that has just started cannot tell. It waits no
			// longer than until it could have taken the share without waiting.
			openAt = openAt.Add(min(timing.SettleGrace, timing.ShareLease-steady))
		}
		c.hands.took(t.Lane, openAt)
		mine = append(mine, t.Lane)
	}
	exceptions, err := c.cfg.shares.Exceptions(ctx, mine)
	if err != nil {
		return fmt.Errorf("read the exceptions of shares: %w", err) // the next attendance has them
	}
	c.hands.know(mine, exceptions)
	return nil
}

// ---- seats

// Summary says in short what a worker does with its shares. People read it in the heartbeats of a seat.
type Summary struct {
	// Lanes are the lane numbers that it holds, ascending.
	Lanes []int16
	// Topics is of how many topics it has published events since the seat began, and Published is
	// how many events.
	Topics    int
	Published int
}

// sit begins a seat, which lets the carrier hold shares, with at most so many requests in flight to one
// destination; 0: the limiter of the destination decides. ok is false if the carrier has a seat already,
// or if ctx or the worker ends. end ends the seat; the carrier goes on for timing.SeatGrace.
func (c *carrier) sit(ctx context.Context, requests int) (end func(), ok bool) {
	if ctx.Err() != nil || !c.seating.begin(requests) {
		return nil, false
	}
	return sync.OnceFunc(c.seating.end), true
}

// summary is that of the seat. Without one, it is that of the last.
func (c *carrier) summary() Summary {
	topics, published := c.seating.counts()
	return Summary{Lanes: c.hands.held(), Topics: topics, Published: published}
}

// seating knows whether an activity lets the carrier hold shares, and counts the events since it began.
type seating struct {
	changed  chan struct{} // holds a token when a seat has begun or the worker ends
	requests *atomic.Int64 // most in flight to one destination, of the last seat

	mu     *sync.Mutex
	state  seatState
	ended  time.Time
	topics map[string]bool
	events int
}

type seatState int

const (
	noSeat seatState = iota
	seatTaken
	seatOver
	seatsClosed
)

func newSeating() seating {
	return seating{changed: make(chan struct{}, 1), requests: new(atomic.Int64), mu: new(sync.Mutex), topics: make(map[string]bool)}
}

// mostRequests returns how many requests the last seat allows in flight to one destination. 0: the limiter
// decides.
func (s *seating) mostRequests() int { return int(s.requests.Load()) }

func (s *seating) begin(requests int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == seatTaken || s.state == seatsClosed {
		return false
	}
	s.state, s.events = seatTaken, 0
	s.requests.Store(int64(requests))
	clear(s.topics)
	signal(s.changed)
	return true
}

func (s *seating) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == seatTaken {
		s.state, s.ended = seatOver, time.Now()
	}
}

// close ends all seats for good.
func (s *seating) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = seatsClosed
	signal(s.changed)
}

func (s *seating) isClosed() bool { return s.is(func() bool { return s.state == seatsClosed }) }

// isSeated reports whether there is a seat. If not, the worker wants one.
func (s *seating) isSeated() bool { return s.is(func() bool { return s.state == seatTaken }) }

// carries reports whether the carrier may hold shares: it has a seat, or had one lately.
func (s *seating) carries() bool {
	return s.is(func() bool {
		return s.state == seatTaken || s.state == seatOver && time.Since(s.ended) < timing.SeatGrace
	})
}

func (s *seating) is(so func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return so()
}

func (s *seating) published(topic string, events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics[topic] = true
	s.events += events
}

func (s *seating) counts() (topics, events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.topics), s.events
}
