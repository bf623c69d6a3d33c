package activities

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// SettleStore is where acknowledgements are settled.
type SettleStore interface {
	Settle(ctx context.Context, topic string, done []relay.Ref) error
	// Apart returns Settle on a connection of its own, and what ends that.
	Apart(ctx context.Context) (settle func(ctx context.Context, topic string, done []relay.Ref) error, end func(), err error)
}

// ledger keeps the acknowledgements that ended attempts could not settle. It settles them in the
// background until it is empty, even after the end of the run, the batch or the lease: the event of
// a forgotten acknowledgement would be published a second time.
//
// Its size is bounded. An attempt adds a page at most, and no attempt loads a lane of which the
// ledger has acknowledgements. So it holds at most a page for each attempt that was under way when
// the database went away.
type ledger struct {
	store SettleStore

	mu     sync.Mutex
	topics map[string]map[relay.Ref]bool
	busy   bool // settling in the background
	over   bool

	ending context.Context // of the worker
	end    context.CancelFunc
	idle   sync.WaitGroup
}

func newLedger(s SettleStore) *ledger {
	l := &ledger{store: s, topics: make(map[string]map[relay.Ref]bool)}
	l.ending, l.end = context.WithCancel(context.Background())
	return l
}

// add takes acknowledgements over from an attempt.
func (l *ledger) add(topic string, acked []relay.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(acked) == 0 {
		return
	}
	if l.topics[topic] == nil {
		l.topics[topic] = make(map[relay.Ref]bool)
	}
	for _, ref := range acked {
		l.topics[topic][ref] = true
	}
	if !l.busy && !l.over {
		l.busy = true
		l.idle.Go(l.settleAll)
	}
}

// settleAll settles one topic after another until the ledger is empty or the worker ends. A topic
// that fails is tried again after the others, because a lock on its rows does not concern them.
func (l *ledger) settleAll() {
	w := way{store: l.store}
	defer w.leave()
	for last := ""; ; {
		topic, found := l.after(last)
		if !found {
			return
		}
		last = topic
		ctx, cancel := context.WithTimeout(l.ending, timing.SettleTry)
		err := l.settleBy(ctx, w.settle, topic, nil)
		cancel()
		if err == nil {
			continue
		}
		select {
		case <-l.ending.Done():
		case <-time.After(timing.SettleEvery):
		}
	}
}

type settle func(ctx context.Context, topic string, done []relay.Ref) error

// way is the ledger's connection to the store. It uses the store's pool, and after an error a
// connection of its own, because a full pool may keep the ledger waiting for longer than
// timing.SettleGrace. If that connection cannot be made or fails, the pool gets the rest of the try.
// Once the pool works again, the ledger stays with it.
type way struct {
	store SettleStore
	apart bool
	own   settle // while there is a connection
	end   func()
}

func (w *way) settle(ctx context.Context, topic string, done []relay.Ref) error {
	if w.apart && w.own == nil {
		connecting, cancel := context.WithTimeout(ctx, timing.SettleConnect)
		if own, end, err := w.store.Apart(connecting); err == nil {
			w.own, w.end = own, end
		}
		cancel()
	}
	if w.own != nil {
		err := w.own(ctx, topic, done)
		if err == nil {
			return nil
		}
		w.leave()
		if ctx.Err() != nil {
			return err
		}
	}
	err := w.store.Settle(ctx, topic, done)
	w.apart = err != nil
	return err
}

// leave ends the connection.
func (w *way) leave() {
	if w.end != nil {
		go w.end()
	}
	w.own, w.end = nil, nil
}

// after is the next topic to settle in the background. If there is none, or the worker
// ends, the background is no longer busy.
func (l *ledger) after(last string) (topic string, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.topics) == 0 || l.ending.Err() != nil {
		l.busy = false
		return "", false
	}
	topics := slices.Sorted(maps.Keys(l.topics))
	i, same := slices.BinarySearch(topics, last)
	if same {
		i++
	}
	return topics[i%len(topics)], true
}

// settle settles the acknowledgements in some lanes of a topic, or in all if lanes is nil.
func (l *ledger) settle(ctx context.Context, topic string, lanes []int16) error {
	return l.settleBy(ctx, l.store.Settle, topic, lanes)
}

func (l *ledger) settleBy(ctx context.Context, settle settle, topic string, lanes []int16) error {
	for part := range slices.Chunk(l.of(topic, lanes), loadEvents) {
		if err := settle(ctx, topic, part); err != nil {
			return err
		}
		l.remove(topic, part)
	}
	return nil
}

// of returns the acknowledgements in some lanes of a topic.
func (l *ledger) of(topic string, lanes []int16) (refs []relay.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref := range l.topics[topic] {
		if lanes == nil || slices.Contains(lanes, ref.Lane) {
			refs = append(refs, ref)
		}
	}
	return refs
}

func (l *ledger) remove(topic string, settled []relay.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ref := range settled {
		delete(l.topics[topic], ref)
	}
	if len(l.topics[topic]) == 0 {
		delete(l.topics, topic)
	}
}

// waiting are the topics that have acknowledgements to settle.
func (l *ledger) waiting() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.topics))
}

// lanes are the lane numbers of the acknowledgements, of all topics.
func (l *ledger) lanes() (lanes []int16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, refs := range l.topics {
		for ref := range refs {
			if !slices.Contains(lanes, ref.Lane) {
				lanes = append(lanes, ref.Lane)
			}
		}
	}
	return lanes
}

// count is how many acknowledgements there are.
func (l *ledger) count() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, refs := range l.topics {
		n += len(refs)
	}
	return n
}

// SettleRest is the end of a worker whose activities have ended: it settles what they
// could not, as long as ctx lets it, and returns how many acknowledgements are left.
// The events of those are published again. Nothing is settled in the background any
// more. Then it writes the receipts that are left, if the store takes them at once. (It is
// no method, because every method of Activities is an activity.)
func SettleRest(ctx context.Context, a *Activities) (left int, err error) {
	defer a.receipts.end(ctx)
	l := a.ledger
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.end()
	l.idle.Wait()
	w := way{store: l.store}
	defer w.leave()
	for {
		err = nil
		for _, topic := range l.waiting() {
			trying, cancel := context.WithTimeout(ctx, timing.SettleTry)
			err = cmp.Or(err, l.settleBy(trying, w.settle, topic, nil))
			cancel()
		}
		if err == nil {
			return 0, nil
		}
		select {
		case <-ctx.Done():
			return l.count(), err
		case <-time.After(timing.SettleEvery):
		}
	}
}
