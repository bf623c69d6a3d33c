package main

import (
	"context"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/activities"
	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
	"github.com/temporal-outbox/relay/workflows"
)

// mutation replaces the store, the publisher or the shares by one that breaks a promise.
type mutation struct {
	lease     time.Duration
	store     func(*postgres.Store) activities.Store
	publisher func(*postgres.Store, *publish.Publisher) activities.Publisher

	shares     func(*postgres.Store) sharing // nil: the worker holds none
	shareLease time.Duration                 // default timing.ShareLease
}

func sound(s *postgres.Store) activities.Store { return s }

var mutations = map[string]mutation{
	// None: that it is the mutation, and not the plan, that turns a check red.
	"none": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
	},
	"fencing": {
		lease:     2 * time.Second,
		store:     func(s *postgres.Store) activities.Store { return unfenced{s} },
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return endless{p} },
	},
	"settle-first": {
		lease: workflows.Lease, store: sound,
		publisher: func(s *postgres.Store, p *publish.Publisher) activities.Publisher { return hasty{p, s} },
	},
	"ordering": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return backwards{p} },
	},
	"forget-replays": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return forgetful{p} },
	},
	"replay-ordering": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return turned{p} },
	},
	"overtaking": {
		lease: workflows.Lease, store: func(s *postgres.Store) activities.Store { return overtaking{s} },
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
	},
	"retention": {
		lease: workflows.Lease, store: func(s *postgres.Store) activities.Store { return careless{s} },
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
	},
	"twice": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return twice{p} },
	},
	"by-number": {
		lease: workflows.Lease, store: func(s *postgres.Store) activities.Store { return newByNumber(s) },
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
	},
	"hoarding": {
		lease: workflows.Lease, store: func(s *postgres.Store) activities.Store { return hoarding{s} },
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
	},
	"sharing": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
		shares:    func(s *postgres.Store) sharing { return s },
	},
	"outliving": {
		lease: workflows.Lease, store: sound,
		publisher:  func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
		shares:     func(s *postgres.Store) sharing { return outliving{s} },
		shareLease: 2 * time.Second,
	},
	"stealing": {
		lease: workflows.Lease, store: sound,
		publisher: func(_ *postgres.Store, p *publish.Publisher) activities.Publisher { return p },
		shares:    func(s *postgres.Store) sharing { return newStealing(s) },
	},
}

// unfenced neither renews leases nor notices that they are lost, and does not wait for the
// attempt that had them before.
type unfenced struct{ *postgres.Store }

func (u unfenced) Claim(ctx context.Context, r relay.ClaimRequest) ([]relay.Batch, error) {
	batches, err := u.Store.Claim(ctx, r)
	for i := range batches {
		batches[i].Settling = false
	}
	return batches, err
}

func (unfenced) Renew(context.Context, relay.Lease, []int16) error { return nil }

// endless publishes past the end of a lease.
type endless struct{ *publish.Publisher }

func (p endless) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	r.Deadline = nil
	return p.Publisher.Publish(ctx, r)
}

// hasty settles before it publishes.
type hasty struct {
	*publish.Publisher
	store *postgres.Store
}

func (p hasty) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	r.Events = through(ctx, r.Events, func(page []relay.Event) []relay.Event {
		refs := make([]relay.Ref, len(page))
		for i, e := range page {
			refs[i] = e.Ref
		}
		_ = p.store.Settle(ctx, r.Topic, refs)
		return page
	})
	return p.Publisher.Publish(ctx, r)
}

// backwards turns every page around.
type backwards struct{ *publish.Publisher }

func (p backwards) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	r.Events = through(ctx, r.Events, func(page []relay.Event) []relay.Event {
		slices.Reverse(page)
		return page
	})
	return p.Publisher.Publish(ctx, r)
}

// twice sends every page once before it is sent.
type twice struct{ *publish.Publisher }

func (p twice) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	first := r
	first.Report = func([]relay.Outcome) {}
	r.Events = through(ctx, r.Events, func(page []relay.Event) []relay.Event {
		events := make(chan []relay.Event, 1)
		events <- slices.Clone(page)
		close(events)
		first.Events = events
		_, _ = p.Publisher.Publish(ctx, first)
		return page
	})
	return p.Publisher.Publish(ctx, r)
}

// through replaces every page on its way.
func through(ctx context.Context, in <-chan []relay.Event, replace func([]relay.Event) []relay.Event) <-chan []relay.Event {
	out := make(chan []relay.Event)
	go func() {
		defer close(out)
		for page := range in {
			select {
			case out <- replace(page):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
