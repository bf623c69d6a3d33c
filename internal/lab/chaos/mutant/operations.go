package main

import (
	"context"
	"sync"

	"github.com/temporal-outbox/relay/internal/postgres"
	"github.com/temporal-outbox/relay/internal/publish"
	"github.com/temporal-outbox/relay/internal/relay"
)

// forgetful says of replayed events that they were published.
type forgetful struct{ *publish.Publisher }

func (p forgetful) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	var mu sync.Mutex
	report := r.Report
	r.Report = func(outcomes []relay.Outcome) {
		mu.Lock()
		defer mu.Unlock()
		report(outcomes)
	}
	r.Events = through(ctx, r.Events, func(page []relay.Event) (kept []relay.Event) {
		var forgotten []relay.Outcome
		for _, e := range page {
			if e.Replay > 0 {
				forgotten = append(forgotten, relay.Outcome{Ref: e.Ref})
			} else {
				kept = append(kept, e)
			}
		}
		r.Report(forgotten)
		return kept
	})
	return p.Publisher.Publish(ctx, r)
}

// turned publishes the replayed events of a page in the opposite order, each in the
// place of another.
type turned struct{ *publish.Publisher }

func (p turned) Publish(ctx context.Context, r relay.PublishRequest) (relay.PublishResult, error) {
	r.Events = through(ctx, r.Events, func(page []relay.Event) []relay.Event {
		var places []int
		for i, e := range page {
			if e.Replay > 0 {
				places = append(places, i)
			}
		}
		for i, j := 0, len(places)-1; i < j; i, j = i+1, j-1 {
			page[places[i]], page[places[j]] = page[places[j]], page[places[i]]
		}
		return page
	})
	return p.Publisher.Publish(ctx, r)
}

// overtaking publishes events though an earlier one of their key is a dead letter,
// which comes after them when it is redriven.
type overtaking struct{ *postgres.Store }

func (overtaking) Blocked(context.Context, string, []string) (map[relay.Chain]int64, error) {
	return nil, nil
}
