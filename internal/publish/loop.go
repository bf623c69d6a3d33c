package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	l := &loop{
		Request:  r,
		ctx:      ctx,
		done:     ctx.Done(),
		sending:  context.WithoutCancel(ctx),
		timeout:  p.cfg.RequestTimeout,
		answered: make(chan *request, r.Concurrency),
	}
	if r.Deadline != nil {
		l.sending = detach.WithDeadline(l.sending, r.Deadline)
	}
	route, to, unresolved := p.resolve(ctx, r.Topic)
	if unresolved != nil {
		to = newUnroutable(route, unresolved, !r.Isolate)
	}
	l.outlet = newOutlet(to, p.routes[r.Topic], r)
	l.turn = p.limiter(l.outlet.props.Address).Join(r.Concurrency)
	defer l.close()
	err := l.run()
	if none, ok := to.(*unroutable); ok && err != nil {
		// Nothing could have been sent anyhow, and the caller should know.
		err = fmt.Errorf("%w: %w", err, none.err)
	}
	l.result.Held, l.result.Unsent = l.outlet.queue.held, l.outlet.unsent()
	return l.result, err
}

// loop is one call of Publish. The goroutine that runs it owns it, with everything that
// belongs to it. The only exceptions are requests in flight: from start until it comes back
// through answered, a request belongs to the goroutine that sends it.
type loop struct {
	Request
	ctx     context.Context
	done    <-chan struct{} // of ctx, nil once that has been noticed
	sending context.Context // of all requests
	timeout time.Duration   // of a request with all its attempts

	outlet   *outlet
	turn     *limit.Turn    // at the destination
	requests []*request     // all of them
	idle     []*request     // those that are not in flight
	running  sync.WaitGroup // the goroutines of all
	answered chan *request  // has room for all, so that they end even after a panic in Report
	inFlight int
	timer    *time.Timer // ends a wait for the topic's rate

	closed   bool  // Events is
	stop     error // why nothing new may be sent
	outcomes [][]relay.Outcome
	result   Result
}

// run does everything in turn: it starts requests, reports outcomes, and waits until there is
// more to do.
func (l *loop) run() error {
	for {
		// The next requests first: while Report runs, they are under way.
		again := l.startRequests()
		l.report()
		if again {
			continue
		}
		if l.inFlight == 0 && l.closed && l.outlet.unsent() == 0 {
			return nil
		}
		if l.inFlight == 0 && l.stop != nil {
			return fmt.Errorf("publish %s: %w: %w", l.Topic, relay.ErrStopped, l.stop)
		}
		l.wait()
	}
}

// startRequests starts requests until the window is full, nothing can be sent, it is not this
// batch's turn, or publishing has to stop. It returns true when it has found invalid events: they have their outcomes
// without a request, and these are reported before it goes on.
func (l *loop) startRequests() (again bool) {
	for l.stop == nil && l.inFlight < l.window() {
		if l.outlet.wantsFuller() && l.wantsPage() {
			// A page that waits already makes the next request a full one.
			select {
			case page, ok := <-l.Events:
				l.read(page, ok)
			default:
			}
		}
		if l.outlet.empty() {
			return false
		}
		deadline, err := l.deadline()
		if err != nil {
			l.stop = err
			return false
		}
		if invalid := l.outlet.prepare(); len(invalid) > 0 {
			l.record(l.outlet, invalid, func(i int) (string, *relay.PublishError) { return "", invalid[i].invalid })
			return true
		}
		if !l.turn.Take() {
			return false
		}
		if wait := l.outlet.wait(); wait > 0 {
			l.turn.PutBack()
			// No longer than to the deadline: by then the lease may have been renewed, or not.
			l.wake(min(wait, time.Until(deadline)))
			return false
		}
		l.start(l.outlet, deadline)
	}
	return false
}

// window is how many requests of this batch may be in flight. The destination's limiter may allow
// fewer.
func (l *loop) window() int { return l.Concurrency }

var errDeadline = errors.New("the lease is about to end")

// deadline returns the deadline of a request that starts now, or why none may.
func (l *loop) deadline() (time.Time, error) {
	if l.ctx.Err() != nil {
		return time.Time{}, context.Cause(l.ctx)
	}
	now := time.Now()
	deadline := now.Add(l.timeout)
	if l.Deadline != nil {
		if d := l.Deadline(); d.Before(deadline) {
			deadline = d
		}
	}
	if !deadline.After(now) {
		return deadline, errDeadline
	}
	return deadline, nil
}

// start sends the next request of an outlet.
func (l *loop) start(o *outlet, deadline time.Time) {
	var r *request
	if n := len(l.idle); n > 0 {
		r, l.idle = l.idle[n-1], l.idle[:n-1]
	} else {
		r = &request{start: make(chan time.Time, 1)}
		l.running.Go(func() { r.serve(l.sending, l.answered) })
		l.requests = append(l.requests, r)
	}
	o.start(r)
	l.inFlight++
	l.result.Requests++
	r.start <- deadline
}

// wait blocks until there is something to do: a page, an answer, a request that may start by the
// topic's rate or because it is this batch's turn, or the end of ctx.
func (l *loop) wait() {
	var pages <-chan []relay.Event
	if l.wantsPage() {
		pages = l.Events
	}
	var tick <-chan time.Time
	if l.timer != nil {
		tick = l.timer.C
	}
	select {
	case page, ok := <-pages:
		l.read(page, ok)
	case r := <-l.answered:
		l.take(r)
	case <-tick:
	case <-l.turn.Granted():
	case <-l.done:
		l.stop, l.done = context.Cause(l.ctx), nil
	}
}

// wake sets the timer of wait.
func (l *loop) wake(after time.Duration) {
	if l.timer == nil {
		l.timer = time.NewTimer(after)
	} else {
		l.timer.Reset(after)
	}
}

func (l *loop) wantsPage() bool {
	return !l.closed && l.stop == nil && l.outlet.queue.unsent() < readAhead
}

// read takes a page from Events.
func (l *loop) read(page []relay.Event, ok bool) {
	if !ok {
		l.closed = true
		return
	}
	l.result.Events += len(page)
	l.outlet.add(page)
}

// take takes the answer to a request.
func (l *loop) take(r *request) {
	l.inFlight--
	answer := r.ended()
	answer.Limit = l.turn.Done(r.sample())
	if l.Answered != nil {
		l.Answered(answer)
	}
	o := r.outlet
	if failure := r.answer.Failure; failure == nil {
		o.accepted(r.entries)
		l.record(o, r.entries, r.answer.Of)
	} else if err := o.failed(r.entries, failure); err != nil {
		l.record(o, r.entries, func(int) (string, *relay.PublishError) { return "", err })
	}
	o.end(r)
	l.idle = append(l.idle, r)
}

// record notes the outcomes of an outlet's entries, which are reported soon.
func (l *loop) record(o *outlet, entries []*entry, of func(int) (messageID string, err *relay.PublishError)) {
	outcomes := make([]relay.Outcome, len(entries))
	for i, e := range entries {
		messageID, err := of(i)
		outcomes[i] = relay.Outcome{Ref: e.ev.Ref, Err: err}
		o.queue.done(e, err == nil)
		if err == nil {
			outcomes[i].MessageID, outcomes[i].Destination = messageID, o.props.Address
			l.result.Acknowledged++
		} else {
			l.result.Failed++
		}
	}
	l.outcomes = append(l.outcomes, outcomes)
}

// report reports the outcomes that were recorded since it was called last.
func (l *loop) report() {
	for _, outcomes := range l.outcomes {
		l.Report(outcomes)
	}
	l.outcomes = l.outcomes[:0]
}

// close ends the goroutines of all requests. These are idle by now, unless Report panicked.
func (l *loop) close() {
	for _, r := range l.requests {
		close(r.start)
	}
	l.running.Wait()
	for ; l.inFlight > 0; l.inFlight-- {
		l.turn.PutBack()
	}
	l.turn.Leave()
}
