package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/outbox"
)

var products = []string{"teapot", "kettle", "cup", "saucer", "strainer", "caddy"}

// accounts are few, so that the ledger's events often have a predecessor that is
// still on its way.
const accounts = 8

// most is how many orders are being worked on at most, in case the database is
// slow; then fewer are placed than the rate asks for.
const most = 200

// load is the customers.
type load struct {
	service  order.Service
	recorder *recorder
	suffix   string // of what belongs to this run
	rate     float64
	duration time.Duration
}

// run places orders for a while, and returns when the last one is dealt with.
func (l load) run(ctx context.Context) error {
	customers, ctx := errgroup.WithContext(ctx)
	customers.SetLimit(most)
	next := time.NewTicker(time.Duration(float64(time.Second) / l.rate))
	defer next.Stop()
	closing := time.After(l.duration)
	for n := 1; ; n++ {
		select {
		case <-closing:
			return customers.Wait()
		case <-ctx.Done():
			if err := customers.Wait(); err != nil {
				return err
			}
			return sleep(ctx, 0)
		case <-next.C:
			customers.Go(func() error { return l.customer(ctx, n) })
		}
	}
}

// customer places an order and then pays, changes their mind, or does nothing.
func (l load) customer(ctx context.Context, n int) error {
	o := order.Order{
		ID:       fmt.Sprintf("%s-%d", l.suffix, n),
		Account:  accountName(l.suffix, rand.IntN(accounts)),
		Product:  productName(l.suffix, rand.IntN(len(products))),
		Quantity: 1 + rand.IntN(3),
	}
	o.Cents = int64(o.Quantity) * 1250
	ok, err := l.attempt(func() ([]outbox.Event, error) { return l.service.Place(ctx, o) })
	if !ok {
		return err
	}
	l.recorder.ordered()
	if err := think(ctx); err != nil {
		return err
	}
	switch p := rand.Float64(); {
	case p < 0.15:
		_, err := l.attempt(func() ([]outbox.Event, error) { return l.service.Cancel(ctx, o.ID) })
		return err
	case p < 0.20:
		return nil // goes home without paying
	}
	ok, err = l.attempt(func() ([]outbox.Event, error) { return l.service.Pay(ctx, o.ID) })
	if !ok || rand.Float64() > 0.2 {
		return err
	}
	if err := think(ctx); err != nil {
		return err
	}
	_, err = l.attempt(func() ([]outbox.Event, error) { return l.service.Refund(ctx, o.ID) })
	return err
}

// attempt is a transaction. It writes down what became of the events, and whether
// it committed. Only a failure that was not on purpose is an error.
func (l load) attempt(transaction func() ([]outbox.Event, error)) (committed bool, err error) {
	events, err := transaction()
	switch {
	case err == nil:
		l.recorder.committed(events, time.Now())
		return true, nil
	case errors.Is(err, errOnPurpose):
		l.recorder.rolledBack(events)
		return false, nil
	default:
		return false, err
	}
}

func think(ctx context.Context) error {
	return sleep(ctx, time.Duration(20+rand.IntN(400))*time.Millisecond)
}

func productName(suffix string, i int) string { return products[i] + "-" + suffix }

func accountName(suffix string, i int) string { return fmt.Sprintf("account-%s-%d", suffix, i) }
