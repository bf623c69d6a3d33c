package activities

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/internal/timing"
)

// ReceiptStore is where receipts are written.
type ReceiptStore interface {
	WriteReceipts(ctx context.Context, receipts []relay.Receipt) error
}

const (
	// receiptsMost is how many receipts wait at most, over all topics. Where the database
	// is away for longer than that, receipts are lost.
	receiptsMost = 20_000
	// receiptsAtOnce is how many one statement writes at most.
	receiptsAtOnce = 1000
)

// receipts writes receipts in the background. Publishing and settling never wait for a receipt, and
// never fail with it. So a receipt may be lost: if its day has no partition, if too many wait, or
// if the worker stops while the database is away. Lost receipts are counted, except those of a
// worker that is killed.
type receipts struct {
	store   ReceiptStore
	metrics Metrics

	mu      sync.Mutex
	waiting []relay.Receipt
	busy    bool // writing in the background
	over    bool

	enough chan struct{} // holds a token when a whole statement's worth waits
	ending context.Context
	stop   context.CancelFunc
	idle   sync.WaitGroup
}

func newReceipts(s ReceiptStore, m Metrics) *receipts {
	r := &receipts{store: s, metrics: m, enough: make(chan struct{}, 1)}
	r.ending, r.stop = context.WithCancel(context.Background())
	return r
}

// add takes the receipts of the events that were accepted. It does not block.
func (r *receipts) add(topic string, outcomes []relay.Outcome) {
	now, lost := time.Now(), 0
	r.mu.Lock()
	for i := range outcomes {
		o := &outcomes[i]
		switch {
		case o.Err != nil:
		case r.over || len(r.waiting) >= receiptsMost:
			lost++
		default:
			r.waiting = append(r.waiting, relay.Receipt{Ref: o.Ref, Topic: topic, MessageID: o.MessageID, Destination: o.Destination, At: now})
		}
	}
	if len(r.waiting) >= receiptsAtOnce {
		signal(r.enough)
	}
	if len(r.waiting) > 0 && !r.busy && !r.over {
		r.busy = true
		r.idle.Go(r.writeAll)
	}
	r.mu.Unlock()
	if lost > 0 {
		r.metrics.ReceiptsLost(topic, lost)
	}
}

// writeAll writes until nothing waits or the worker ends. A try that failed for a reason that
// may pass leaves its receipts waiting.
func (r *receipts) writeAll() {
	failed := false
	for {
		var enough <-chan struct{}
		if !failed {
			enough = r.enough
		}
		select {
		case <-enough:
		case <-time.After(timing.ReceiptsEvery):
		case <-r.ending.Done():
		}
		part := r.next()
		if part == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), timing.ReceiptsTry)
		failed = !r.write(ctx, part)
		cancel()
	}
}

// next is what to write in the background. Without any, the background is no longer busy.
func (r *receipts) next() []relay.Receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 || r.over {
		r.busy = false
		return nil
	}
	return r.first()
}

// first is what one statement writes. It stays as it is until write has written it.
func (r *receipts) first() []relay.Receipt {
	return r.waiting[:min(len(r.waiting), receiptsAtOnce)]
}

// write writes the first of what waits. It reports false if they still wait, because the
// store could not be asked.
func (r *receipts) write(ctx context.Context, part []relay.Receipt) (done bool) {
	err := r.store.WriteReceipts(ctx, part)
	refused := errors.Is(err, relay.ErrReceiptsRefused)
	if err != nil && !refused {
		return false
	}
	if refused {
		r.lose(part)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = slices.Delete(r.waiting, 0, min(len(part), len(r.waiting))) // end may have given up
	if len(r.waiting) == 0 {
		r.waiting = nil // after an outage it was large
	} else if len(r.waiting) >= receiptsAtOnce {
		signal(r.enough)
	}
	return true
}

func (r *receipts) lose(lost []relay.Receipt) {
	topics := make(map[string]int)
	for i := range lost {
		topics[lost[i].Topic]++
	}
	for topic, n := range topics {
		r.metrics.ReceiptsLost(topic, n)
	}
}

// end writes what waits, as long as ctx lets it, and each part once.
func (r *receipts) end(ctx context.Context) {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.stop()
	idle := make(chan struct{})
	go func() {
		r.idle.Wait()
		close(idle)
	}()
	for answers := true; answers; {
		select {
		case <-idle:
		case <-ctx.Done():
			answers = false
			continue
		}
		r.mu.Lock()
		part := r.first()
		r.mu.Unlock()
		if len(part) == 0 {
			return
		}
		answers = r.write(ctx, part)
	}
	r.mu.Lock()
	lost := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	r.lose(lost)
}

// KeepReceipts notes in the store which topics keep receipts, and makes the partitions that
// are missing, for so many days ahead. left says of days without one why, and the remedy.
// Publishing needs none of it. (It is no method, because every method of Activities is an
// activity.)
func KeepReceipts(ctx context.Context, a *Activities, ahead int) (left []string, err error) {
	return a.maintenance.KeepReceipts(ctx, a.cfg.keepReceipts(), ahead)
}

// keepReceipts are the topics that keep receipts.
func (c Config) keepReceipts() map[string]time.Duration {
	keep := make(map[string]time.Duration)
	for topic, p := range c.Topics {
		if p.Receipts > 0 {
			keep[topic] = p.Receipts
		}
	}
	return keep
}
