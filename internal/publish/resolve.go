package publish

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/temporal-outbox/relay/internal/publish/errorcode"
	"github.com/temporal-outbox/relay/internal/relay"
)

// refreshTimeout bounds looking a known destination up again. It is short
// because publishing waits for it and can do without.
const refreshTimeout = 2 * time.Second

// firstTimeout bounds looking a destination up that is not known yet. It is shorter
// than a batch lasts, so that one whose destination hangs fails for that reason.
const firstTimeout = 4 * time.Second

// cachedRoute is a route and what is known of it.
type cachedRoute struct {
	turn chan struct{} // held by whoever looks it up or reads it
	Route
	label string // never changes
	// ordered never changes either: a FIFO destination is one by its name.
	ordered bool
	sender  sender // nil until resolved
	next    time.Time
	// learned is how large a request may be where Limit turned out to be too much,
	// in bytes, or 0. Whoever publishes may set it.
	learned atomic.Int64
}

func newCachedRoute(r Route) *cachedRoute {
	return &cachedRoute{turn: make(chan struct{}, 1), Route: r, label: r.label(), ordered: r.Ordered}
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
	r, _, err := p.resolve(ctx, topic)
	return r, err
}

// Look looks a topic's destination up anew and returns why it was not found, as Resolve does.
// It changes nothing that is kept, and waits for nobody who publishes.
func (p *Publisher) Look(ctx context.Context, topic string) error {
	c := p.routes[topic]
	if c == nil {
		_, err := p.Resolve(ctx, topic)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, min(p.cfg.RequestTimeout, firstTimeout))
	defer cancel()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("resolve topic %s: %w", topic, ctx.Err())
	}
	route := c.Route
	<-c.turn
	_, err := p.lookUp(ctx, route)
	return err
}

func (p *Publisher) resolve(ctx context.Context, topic string) (Route, sender, error) {
	c := p.routes[topic]
	if c == nil {
		return Route{Topic: topic}, nil, fmt.Errorf("resolve: %w", errorcode.New(relay.CodeNoRoute,
			fmt.Sprintf("no destination is configured for topic %q: add it to the worker's topics", errorcode.Shorten(topic))))
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return Route{Topic: topic}, nil, fmt.Errorf("resolve topic %s: %w", topic, ctx.Err())
	}
	now := time.Now()
	if c.sender != nil && now.Before(c.next) {
		return c.Route, c.sender, nil
	}
	timeout := min(p.cfg.RequestTimeout, firstTimeout)
	if c.sender != nil {
		timeout = min(timeout, refreshTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	fresh, err := p.lookUp(ctx, c.Route)
	switch {
	case err == nil:
		c.Route = fresh
		c.sender = p.newSender(fresh)
		c.learned.Store(0)
	case c.sender == nil:
		return c.Route, nil, err
	}
	c.next = now.Add(p.cfg.RefreshAfter)
	return c.Route, c.sender, nil
}
