package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-outbox/relay/internal/publish/destination"
	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/publish/limit"
	"github.com/temporal-outbox/relay/internal/publish/sns"
	"github.com/temporal-outbox/relay/internal/publish/sqs"
	"github.com/temporal-outbox/relay/internal/relay"
)

// Route is a topic's destination, looked up.
type Route = destination.Route

// Service is the kind of a destination.
type Service = destination.Service

// The kinds of destinations.
const (
	SNS = destination.SNS
	SQS = destination.SQS
)

// ErrUntold says that a destination has not told whether it may be published to.
var ErrUntold = destination.ErrUntold

// refreshTimeout bounds looking a known destination up again. It is short
// because publishing waits for it and can do without.
const refreshTimeout = 2 * time.Second

// Publisher publishes events. It is safe for concurrent use.
type Publisher struct {
	cfg     Config
	routes  map[string]*cachedRoute
	drivers map[Service]destination.Driver
	sns     *sns.Driver  // one of drivers, for its subscriptions
	sqs     *sqs.Driver  // one of drivers, for the modes of its queues
	tracer  trace.Tracer // nil: none

	mu       sync.Mutex
	limiters map[string]*limit.Limiter // by the destination's address
}

// limiter returns the limiter of a destination. All topics that go there share it.
func (p *Publisher) limiter(address string) *limit.Limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.limiters[address]
	if l == nil {
		if p.limiters == nil {
			p.limiters = make(map[string]*limit.Limiter)
		}
		l = limit.New()
		p.limiters[address] = l
	}
	return l
}

// cachedRoute is a topic's route, and the destination once the route has been looked up.
type cachedRoute struct {
	mutex chan struct{} // guards Route, open and next. Waiting for it can be given up.
	Route
	open destination.Destination // nil until looked up
	next time.Time               // when to look up again

	label   string        // never changes
	ordered bool          // never changes either: a FIFO destination is one by its name
	batched bool          // never changes: see Route.Batched
	fill    time.Duration // never changes: see Route.Fill
	// learned is how large a request may be, in bytes, where Limit has turned out to be too
	// much, or 0. Every call of Publish may set it.
	learned atomic.Int64
}

func newCachedRoute(r Route) *cachedRoute {
	return &cachedRoute{mutex: make(chan struct{}, 1), Route: r, label: r.Label(), ordered: r.Ordered, batched: r.Batched, fill: r.Fill}
}

// lock waits for the route until ctx ends.
func (c *cachedRoute) lock(ctx context.Context, topic string) error {
	select {
	case c.mutex <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("resolve topic %s: %w", topic, ctx.Err())
	}
}

func (c *cachedRoute) unlock() { <-c.mutex }

// known reports whether the destination needs no look-up. The caller has the lock.
func (c *cachedRoute) known(now time.Time) bool { return c.open != nil && now.Before(c.next) }

// found returns the destination. The caller has the lock.
func (c *cachedRoute) found() found { return found{c.Route, c.open, c.next} }

// atHand returns the destination if it needs no look-up, and no waiting for one.
func (c *cachedRoute) atHand(now time.Time) (found, bool) {
	select {
	case c.mutex <- struct{}{}:
	default:
		return found{}, false
	}
	defer c.unlock()
	return c.found(), c.known(now)
}

// Topics returns the configured topics, sorted.
func (p *Publisher) Topics() []string {
	topics := make([]string, 0, len(p.routes))
	for topic := range p.routes {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	return topics
}

// Destination says where a topic's events go, as it is configured: "SQS queue
// audit", "SNS topic arn:aws:sns:…". Empty for a topic that has none.
func (p *Publisher) Destination(topic string) string {
	if c := p.routes[topic]; c != nil {
		return c.label
	}
	return ""
}

// Ordered reports whether a topic's destination is FIFO. Its name says so.
func (p *Publisher) Ordered(topic string) bool {
	c := p.routes[topic]
	return c != nil && c.ordered
}

// Resolve looks a topic's destination up: its ARN or URL, and how large its
// messages may be. The answer is kept, and its limit looked up again after
// Config.RefreshAfter; if that fails, the old one stays. A destination whose
// attributes may not be read gets its service's default limit.
//
// The error wraps a *relay.PublishError and ends with what to do about it.
func (p *Publisher) Resolve(ctx context.Context, topic string) (Route, error) {
	f, err := p.resolve(ctx, topic)
	return f.Route, err
}

// Look looks a topic's destination up anew and returns why it was not found, as Resolve does.
// It changes nothing that is kept, and delays no call of Publish.
func (p *Publisher) Look(ctx context.Context, topic string) error {
	c := p.routes[topic]
	if c == nil {
		_, err := p.Resolve(ctx, topic)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, min(p.cfg.RequestTimeout, destination.LookUpTimeout))
	defer cancel()
	if err := c.lock(ctx, topic); err != nil {
		return err
	}
	route := c.Route
	c.unlock()
	_, err := p.drivers[route.Service].LookUp(ctx, route)
	return err
}

// found is a destination that has been looked up.
type found struct {
	Route
	open destination.Destination
	next time.Time // when to look it up again
}

// resolve is Resolve, and returns the destination as well.
func (p *Publisher) resolve(ctx context.Context, topic string) (found, error) {
	c := p.routes[topic]
	if c == nil {
		return found{Route: Route{Topic: topic}}, fmt.Errorf("resolve: %w", errorcode.New(relay.CodeNoRoute,
			fmt.Sprintf("no destination is configured for topic %q: add it to the worker's topics", errorcode.Shorten(topic))))
	}
	if err := c.lock(ctx, topic); err != nil {
		return found{Route: Route{Topic: topic}}, err
	}
	defer c.unlock()
	now := time.Now()
	if c.known(now) {
		return c.found(), nil
	}
	timeout := min(p.cfg.RequestTimeout, destination.LookUpTimeout)
	if c.open != nil {
		timeout = min(timeout, refreshTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	driver := p.drivers[c.Service]
	fresh, err := driver.LookUp(ctx, c.Route)
	switch {
	case err == nil:
		c.Route = fresh
		c.open = traced(driver.Open(fresh), p.tracer, fresh.Topic)
		c.learned.Store(0)
	case c.open == nil:
		return found{Route: c.Route}, err
	}
	c.next = now.Add(p.cfg.RefreshAfter)
	return c.found(), nil
}

// IsListing reports whether a destination could not be resolved only because the
// account's SNS topics are not all listed yet. Resolve goes on where it was.
func IsListing(err error) bool {
	pe, ok := errors.AsType[*relay.PublishError](err)
	return ok && pe.Code == relay.CodeListing
}

// Mode is how many requests SQS accepts for a FIFO queue.
type Mode = sqs.Mode

// The modes of a FIFO queue.
const (
	HighThroughput = sqs.HighThroughput
	PerQueue       = sqs.PerQueue
)

// Mode asks in which mode the FIFO queue of a topic is. It is empty for other destinations, and
// for a queue that does not tell. The error wraps ErrUntold. To publish needs none of this.
func (p *Publisher) Mode(ctx context.Context, topic string) (Mode, error) {
	r, err := p.Resolve(ctx, topic)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUntold, err)
	}
	if r.Service != SQS || !r.Ordered {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.RequestTimeout)
	defer cancel()
	return p.sqs.Mode(ctx, r)
}

// MayPublish asks a topic's destination whether it may be published to, and
// publishes nothing. It returns nil if it may. An error that wraps ErrUntold means that
// the destination does not tell. Any other error wraps a *relay.PublishError, and is
// certain: permission is missing, or the destination is broken in another way.
func (p *Publisher) MayPublish(ctx context.Context, topic string) error {
	r, err := p.Resolve(ctx, topic)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.RequestTimeout)
	defer cancel()
	return p.drivers[r.Service].MayPublish(ctx, r)
}

// Enveloped lists subscriptions of a topic's SNS topic that get an envelope of SNS with the
// payload inside, because raw message delivery is off, as it is by default. It looks at the
// first 200, and passes over those that are not confirmed. A topic that goes to SQS has none.
//
// The error wraps ErrUntold and says what could not be found out, and which permission is
// missing; what was found is returned with it. Neither permission is needed to publish.
func (p *Publisher) Enveloped(ctx context.Context, topic string) ([]string, error) {
	r, err := p.Resolve(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	if r.Service != SNS {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.RequestTimeout)
	defer cancel()
	return p.sns.Enveloped(ctx, r)
}
