package publish

import (
	"context"
	"fmt"

	"github.com/temporal-outbox/relay/internal/publish/awsapi"
	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/relay"
)

// DefaultConcurrency is how many requests a Publish has in flight at once where
// its Request does not say.
const DefaultConcurrency = 4

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
// returns an error that wraps relay.ErrStopped. What the destination said about
// an event is never an error of Publish, and neither is a topic that has no
// destination or whose destination cannot be resolved: its events all fail.
func (p *Publisher) Publish(ctx context.Context, r Request) (Result, error) {
	route, to, err := p.resolve(ctx, r.Topic)
	if err != nil {
		to = unroutable(route, err, !r.Isolate)
	}
	if r.Concurrency <= 0 {
		r.Concurrency = DefaultConcurrency
	}
	is := to.Properties()
	s := &stream{
		Request:     r,
		ctx:         ctx,
		timeout:     p.cfg.RequestTimeout,
		destination: to,
		is:          is,
		packer:      newPacker(is.Ordered, is.MaxEvents, is.MaxBytes),
		answers:     make(chan *slot, r.Concurrency),
	}
	if c := p.routes[r.Topic]; c != nil {
		s.learned = &c.learned
		if limit := int(c.learned.Load()); limit > 0 {
			s.packer.limit = min(limit, s.packer.limit)
		}
	}
	err = s.run()
	s.result.Held, s.result.Unsent = s.packer.held, s.unsent()
	return s.result, err
}

func stopped(topic string, cause error) error {
	return fmt.Errorf("publish %s: %w: %w", topic, relay.ErrStopped, cause)
}

// noDestination takes the place of a destination that is not configured or not found. No
// event can be sent to it.
type noDestination struct {
	destination.Destination
	is  destination.Properties
	err *relay.PublishError
}

func unroutable(r Route, err error, whole bool) *noDestination {
	n := &noDestination{is: destination.Properties{Ordered: r.Ordered, MaxEvents: awsapi.MaxEvents, MaxBytes: r.Limit}, err: awsapi.Error(err)}
	n.err.Whole = whole
	return n
}

func (n *noDestination) Properties() destination.Properties { return n.is }

func (n *noDestination) Check(*relay.Event) (int, *relay.PublishError) { return 0, n.err }
