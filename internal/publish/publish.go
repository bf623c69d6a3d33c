package publish

import (
	"context"
	"fmt"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/detach"
	"github.com/temporal-outbox/relay/internal/publish/limit"
	"github.com/temporal-outbox/relay/internal/relay"
)

// readAhead is how many unsent events stop Publish from reading more. It is
// small enough to bound memory to this and one page, and large enough that
// requests stay full while the next page is being loaded.
const readAhead = 500

// Request and its Result belong to the domain, so that activities need not import
// this package.
type (
	Request = relay.PublishRequest
	// Result counts what Publish read.
	Result = relay.PublishResult
)

// Publish sends the events of r and reports each one's outcome exactly once.
//
// It returns nil when Events has been closed and every event has an outcome or
// is held. If ctx ends, or Deadline passes, before that, it sends nothing new,
// waits for the requests in flight, which are not cancelled, reports them and
// returns an error that wraps relay.ErrStopped. An answer of the destination is
// never an error of Publish, and neither is a topic that has no destination or
// whose destination cannot be resolved: its events all fail.
func (p *Publisher) Publish(ctx context.Context, r Request) (Result, error) {
	if r.Concurrency <= 0 {
		r.Concurrency = limit.Ceiling
	}
	b := &publishing{Request: r, ctx: ctx, done: ctx.Done()}
	b.loop = loop{
		side:     b,
		sending:  context.WithoutCancel(ctx),
		timeout:  p.cfg.RequestTimeout,
		grants:   newGrants(),
		requests: make(map[*request]bool),
		answered: make(chan *request, r.Concurrency),
	}
	if r.Deadline != nil {
		b.sending = detach.WithDeadline(b.sending, r.Deadline)
	}
	f, unresolved := p.resolve(ctx, r.Topic)
	to := f.open
	var none *unroutable
	if unresolved != nil {
		none = newUnroutable(f.Route, unresolved, !r.Isolate)
		to = none
	}
	g := b.join(p.limiter(to.Properties().Address), r.Concurrency, r.Concurrency)
	b.outlet = newOutlet(r, to, p.routes[r.Topic], g)
	defer g.leave()
	defer b.close()
	b.run()
	err := b.err()
	if none != nil && err != nil {
		// Nothing could have been sent anyhow, and the caller should know.
		err = fmt.Errorf("%w: %w", err, none.err)
	}
	return b.outlet.result(), err
}

// publishing is one call of Publish: a loop with one outlet, which ends.
type publishing struct {
	Request
	loop
	ctx    context.Context
	done   <-chan struct{} // of ctx, nil once that has been noticed
	outlet *outlet
	closed bool  // Events is
	stop   error // why nothing new may be sent
}

// err returns why publishing has ended, nil if all is done.
func (b *publishing) err() error {
	if b.finished() {
		return nil
	}
	return fmt.Errorf("publish %s: %w: %w", b.Topic, relay.ErrStopped, b.stop)
}

func (b *publishing) finished() bool { return b.closed && b.outlet.unsent() == 0 }

func (b *publishing) over() bool { return b.inFlight == 0 && (b.finished() || b.stop != nil) }

// refill takes a page that waits already.
func (b *publishing) refill() {
	if !b.outlet.wantsFuller() || !b.wantsPage() {
		return
	}
	select {
	case page, ok := <-b.Events:
		b.read(page, ok)
	default:
	}
}

func (b *publishing) wantsPage() bool {
	return !b.closed && b.stop == nil && b.outlet.queue.unsent() < readAhead
}

// read takes a page from Events.
func (b *publishing) read(page []relay.Event, ok bool) {
	if !ok {
		b.closed = true
		return
	}
	b.outlet.add(page)
	b.rota.offer(b.outlet)
}

// deadline is the end of the lease, if that is before the request's own. Once it has passed,
// publishing stops.
func (b *publishing) deadline() (time.Time, error) {
	if b.stop == nil && b.ctx.Err() != nil {
		b.stop = context.Cause(b.ctx)
	}
	now := time.Now()
	deadline := now.Add(b.timeout)
	if b.Deadline != nil {
		if d := b.Deadline(); d.Before(deadline) {
			deadline = d
		}
	}
	if b.stop == nil && !deadline.After(now) {
		b.stop = errDeadline
	}
	return deadline, b.stop
}

func (b *publishing) answeredBy(_ *outlet, a relay.Answer) {
	if b.Answered != nil {
		b.Answered(a)
	}
}

func (b *publishing) changed(*outlet) {}

func (b *publishing) report(n notice) { b.Report(n.outcomes) }

// wait blocks until there is something to do: a page, an answer, a request that may start by the
// topic's rate or because it is this batch's turn, or the end of ctx.
func (b *publishing) wait() {
	var pages <-chan []relay.Event
	if b.wantsPage() {
		pages = b.Events
	}
	select {
	case page, ok := <-pages:
		b.read(page, ok)
	case r := <-b.answered:
		b.take(r)
	case <-b.grants.some:
		b.granted()
	case <-b.tick():
		b.ticked()
	case <-b.done:
		b.stop, b.done = context.Cause(b.ctx), nil
	}
}
