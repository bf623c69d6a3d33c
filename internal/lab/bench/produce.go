package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/outbox"
)

// traceparent makes the events carry the fourth of the relay's attributes.
const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// traceHeader is what the relay makes of it for SQS.
const traceHeader = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1"

// produced is what a producer knows of one event.
type produced struct {
	began, committed time.Time
}

// produce commits n events, evenly spaced, each in a transaction of its own and
// numbered from first, and returns what became of each. It waits for none of them
// before the next is due. Its error is the first transaction's that failed.
func (fx *fixture) produce(ctx context.Context, first, n, perSecond int) ([]produced, error) {
	events := make([]produced, n)
	var failed error
	var once sync.Once
	var running sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			running.Wait()
			return events[:i], context.Cause(ctx)
		}
		running.Go(func() {
			e := &events[i]
			e.began = time.Now()
			if err := fx.commit(ctx, first+i); err != nil {
				once.Do(func() { failed = err })
				return
			}
			e.committed = time.Now()
		})
	}
	running.Wait()
	return events, failed
}

// commit writes one event with the library that applications use.
func (fx *fixture) commit(ctx context.Context, n int) error {
	payload := fmt.Sprintf(`{"marker":%q,"pad":"`, marker(n))
	payload += strings.Repeat("x", payloadBytes-2-len(payload)) + `"}`
	err := pgx.BeginFunc(ctx, fx.pool, func(tx pgx.Tx) error {
		return outbox.Write(ctx, tx, outbox.Event{
			Topic: fx.topics[n%len(fx.topics)], Key: fmt.Sprint("key-", n), Type: "BenchEvent",
			Payload: payload, Attributes: map[string]string{"traceparent": traceparent},
		})
	})
	if err != nil {
		return fmt.Errorf("commit an event: %w", err)
	}
	return nil
}

// await waits until the proxy has seen events first to first+n-1 accepted.
func (fx *fixture) await(ctx context.Context, p *proxy, first, n int, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for i := first; i < first+n; i++ {
		for p.when(i).IsZero() {
			if err := fx.worker.alive(); err != nil {
				return err
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("event %d was not acknowledged within %s; the worker says: %s", i, patience, fx.worker.words())
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}
