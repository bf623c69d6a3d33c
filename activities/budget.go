package activities

import (
	"context"
	"slices"
	"sync"

	"github.com/temporal-outbox/relay/internal/relay"
)

// DefaultPayloadBudget is the default of Config.PayloadBudget.
const DefaultPayloadBudget = 24 << 20

// payloadCopies is how many bytes the budget counts for each byte of an event: the text as loaded,
// the copy in the encoded request, which escapes make longer, and the buffers that the text passes on
// its way in and out.
const payloadCopies = 3

// shareOfFree is how many times the free part of the budget one topic may hold: three quarters of
// the budget if it is alone, and an equal part of almost all of it beside others.
const shareOfFree = 3

// cost is how many bytes of the budget an event takes. The contents of an event that no destination
// accepts are not loaded.
func cost(e relay.Event) int64 {
	if e.Bytes > relay.PageBytes {
		return 0
	}
	return payloadCopies * e.Bytes
}

// budget bounds the memory that events take in the whole process. All batches share it, and so does the
// carrier, which counts as a batch of each topic of which it has something to load. An event takes its cost
// from before its contents are loaded until it has an outcome.
//
// Two rules decide:
//
//   - A topic that holds nothing may take one event, whatever its size, unless the budget is
//     overdrawn. So the budget is exceeded by one event at most.
//   - A topic that holds something may take more as long as it then holds no more than shareOfFree times
//     the part that is free. So a part is always free for other topics, even if a destination hangs and
//     its topic gives nothing back until its requests time out. Of n busy topics, each has 3/(3n+1) of
//     the budget.
//
// Batches of a topic that wait are served in their order. None waits for ever: a batch waits only to
// take more, and the events that its topic holds are sent meanwhile, or are behind a refused one of their
// key, which costs nothing. Once they have their outcomes, the topic holds nothing, and the first rule is for it.
type budget struct {
	total int64

	mu      sync.Mutex
	held    int64
	topics  map[string]int64 // held, by topic
	batches int              // those that have an allowance
	waiting []*applicant     // in the order in which they came
}

// allowance is what one batch holds of the budget.
type allowance struct {
	budget *budget
	topic  string
	held   int64
	asked  *applicant // of poll; nil: it does not wait
	isOver bool
}

// applicant waits until an allowance may grow.
type applicant struct {
	*allowance
	costs   []int64
	granted chan int      // how many of them
	wake    chan struct{} // gets a token when they are granted; nil: the applicant waits itself
}

func newBudget(total int64) *budget { return &budget{total: total, topics: make(map[string]int64)} }

// join returns the allowance of a batch, which ends with leave.
func (b *budget) join(topic string) *allowance {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batches++
	return &allowance{budget: b, topic: topic}
}

// take waits until the first of the events with these costs may be loaded, and returns how many may
// be: at least one. If ctx is over by then, it takes nothing and returns the error of ctx.
func (a *allowance) take(ctx context.Context, costs []int64) (n int, err error) {
	w := &applicant{allowance: a, costs: costs, granted: make(chan int, 1)}
	b := a.budget
	b.mu.Lock()
	b.waiting = append(b.waiting, w)
	b.serve()
	b.mu.Unlock()
	select {
	case n = <-w.granted:
		return n, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case n = <-w.granted: // before or in the same moment
		return n, nil
	default:
	}
	b.waiting = slices.DeleteFunc(b.waiting, func(other *applicant) bool { return other == w })
	b.serve() // those behind it
	return 0, ctx.Err()
}

// poll returns how many of the first events with these costs may be loaded, without waiting for it. If none
// may be, it remembers the question, and wake gets a token when the answer is there. The next poll returns that
// answer, so until then the first events must stay the same. See withdraw.
func (a *allowance) poll(costs []int64, wake chan struct{}) (n int) {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.isOver {
		return 0
	}
	if a.asked == nil {
		a.asked = &applicant{allowance: a, costs: costs, granted: make(chan int, 1), wake: wake}
		b.waiting = append(b.waiting, a.asked)
		b.serve()
	}
	select {
	case n = <-a.asked.granted:
		a.asked = nil
	default:
	}
	return n
}

// withdraw takes back the question of an earlier poll, with its answer.
func (a *allowance) withdraw() {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.withdraw(a)
	b.serve()
}

func (b *budget) withdraw(a *allowance) {
	w := a.asked
	if w == nil {
		return
	}
	a.asked = nil
	select {
	case n := <-w.granted:
		for _, cost := range w.costs[:n] {
			b.add(a, -cost)
		}
	default:
		b.waiting = slices.DeleteFunc(b.waiting, func(other *applicant) bool { return other == w })
	}
}

// give gives back what events have cost.
func (a *allowance) give(cost int64) {
	if cost == 0 {
		return
	}
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.isOver {
		return
	}
	b.add(a, -cost)
	b.serve()
}

// leave gives everything back, once and for all.
func (a *allowance) leave() {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.isOver {
		return
	}
	a.isOver = true
	b.batches--
	b.withdraw(a)
	b.add(a, -a.held)
	b.serve()
}

// add changes what an allowance holds.
func (b *budget) add(a *allowance, cost int64) {
	a.held += cost
	b.held += cost
	if b.topics[a.topic] += cost; b.topics[a.topic] == 0 {
		delete(b.topics, a.topic)
	}
}

// serve grants what may be granted now to those that wait. None overtakes another of its topic. It runs for
// each event that has its outcome, and a thousand topics may wait: so it looks at each applicant once, and at
// none while the budget is overdrawn.
func (b *budget) serve() {
	if len(b.waiting) == 0 || b.held > b.total {
		return
	}
	left := b.waiting[:0]
	behind := make(map[string]bool) // topics of which an earlier applicant waits
	for i, w := range b.waiting {
		if b.held > b.total {
			left = append(left, b.waiting[i:]...)
			break
		}
		n := 0
		if !behind[w.topic] {
			n = b.grant(w)
		}
		if n > 0 {
			w.granted <- n
			if w.wake != nil {
				signal(w.wake)
			}
		} else {
			left, behind[w.topic] = append(left, w), true
		}
	}
	clear(b.waiting[len(left):])
	b.waiting = left
}

// grant takes as many of an applicant's costs as may be taken now. A batch that holds something waits
// for a portion that is worth a statement.
func (b *budget) grant(w *applicant) (n int) {
	if w.isOver {
		return 0 // a loader outlives its attempt for a moment if that panics
	}
	var sum int64
	for _, c := range w.costs {
		if !b.allows(w.allowance, sum, c) {
			break
		}
		sum += c
		n++
	}
	if n < len(w.costs) && w.held > 0 && sum < b.portion() {
		return 0
	}
	b.add(w.allowance, sum)
	return n
}

// allows reports whether an allowance may hold an event more, beside so much that it takes with it.
func (b *budget) allows(a *allowance, more, cost int64) bool {
	if cost == 0 {
		return true
	}
	topic := b.topics[a.topic] + more
	if topic == 0 {
		return b.held <= b.total
	}
	return topic+cost <= shareOfFree*(b.total-b.held-more-cost)
}

// portion is the least that a batch takes at once, unless its page has less.
func (b *budget) portion() int64 { return b.total / int64(4*max(1, b.batches)) }
