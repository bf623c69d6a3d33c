// Package order is the service that writes to the outbox. It changes its own tables, and
// other services must hear of every committed change, and of no other. So each method
// writes its events with outbox.Write in the transaction of the change, and knows nothing
// of queues. If the process dies after COMMIT, the events are there. If the transaction
// rolls back, there are no events.
package order

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/outbox"
)

// Tables creates the service's tables where they are missing.
//
//go:embed tables.sql
var Tables string

// Topics that the service writes to. The relay's configuration says where they
// lead.
const (
	TopicOrders = "orders" // changes of orders, keyed by order
	TopicLedger = "ledger" // changes of balances, keyed by account, in order
)

// Types of event.
const (
	Placed    = "OrderPlaced"
	Paid      = "OrderPaid"
	Cancelled = "OrderCancelled"
	Refunded  = "OrderRefunded"
	Charged   = "AccountCharged"  // on the ledger, with OrderPaid
	Credited  = "AccountCredited" // on the ledger, with OrderRefunded
)

// ErrNotPossible says that the order does not exist, or is in a state that does
// not allow the change. Nothing was changed.
var ErrNotPossible = errors.New("not possible in the order's state")

// Order is a row of shop.orders.
type Order struct {
	ID       string `json:"order"`
	Account  string `json:"account"`
	Product  string `json:"product"`
	Quantity int    `json:"quantity"`
	Cents    int64  `json:"cents"`
}

// entry is the payload of the ledger's events.
type entry struct {
	Account string `json:"account"`
	Number  int64  `json:"number"` // 1, 2, 3, ... within the account
	Cents   int64  `json:"cents"`
	Balance int64  `json:"balance"` // after this entry
	Order   string `json:"order"`
}

// Service changes orders. Every method is one transaction. It returns the events
// that it wrote: with a nil error they are committed and will be published, with
// any other error they were rolled back with everything else and never will be.
type Service struct {
	// DB is a *pgxpool.Pool or anything else that begins transactions. Required.
	DB interface {
		Begin(ctx context.Context) (pgx.Tx, error)
	}
}

const insertOrder = `
INSERT INTO shop.orders (id, account, product, quantity, cents, status)
VALUES ($1, $2, $3, $4, $5, 'placed')`

// Place takes a new order.
func (s Service) Place(ctx context.Context, o Order) (events []outbox.Event, err error) {
	ctx, end := begin(ctx, "place order", o.ID)
	defer end(&err)
	placed, err := about(o, Placed)
	if err != nil {
		return nil, fmt.Errorf("place order %s: %w", o.ID, err)
	}
	events = []outbox.Event{placed}
	err = pgx.BeginFunc(ctx, s.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertOrder, o.ID, o.Account, o.Product, o.Quantity, o.Cents); err != nil {
			return err
		}
		return outbox.Write(ctx, tx, events...)
	})
	if err != nil {
		return events, fmt.Errorf("place order %s: %w", o.ID, err)
	}
	return events, nil
}

// Cancel takes back an order that is not paid.
func (s Service) Cancel(ctx context.Context, id string) (events []outbox.Event, err error) {
	ctx, end := begin(ctx, "cancel order", id)
	defer end(&err)
	err = pgx.BeginFunc(ctx, s.DB, func(tx pgx.Tx) error {
		o, err := change(ctx, tx, id, "placed", "cancelled")
		if err != nil {
			return err
		}
		cancelled, err := about(o, Cancelled)
		if err != nil {
			return err
		}
		events = []outbox.Event{cancelled}
		return outbox.Write(ctx, tx, events...)
	})
	if err != nil {
		return events, fmt.Errorf("cancel order %s: %w", id, err)
	}
	return events, nil
}

// Pay charges the order to its account.
func (s Service) Pay(ctx context.Context, id string) (events []outbox.Event, err error) {
	ctx, end := begin(ctx, "pay order", id)
	defer end(&err)
	events, err = s.settle(ctx, id, settlement{"placed", "paid", Paid, Charged, +1})
	if err != nil {
		return events, fmt.Errorf("pay order %s: %w", id, err)
	}
	return events, nil
}

// Refund credits a paid order to its account.
func (s Service) Refund(ctx context.Context, id string) (events []outbox.Event, err error) {
	ctx, end := begin(ctx, "refund order", id)
	defer end(&err)
	events, err = s.settle(ctx, id, settlement{"paid", "refunded", Refunded, Credited, -1})
	if err != nil {
		return events, fmt.Errorf("refund order %s: %w", id, err)
	}
	return events, nil
}

type settlement struct {
	from, to         string
	toOrder, toMoney string // types of event
	sign             int64
}

const moveMoney = `
UPDATE shop.accounts SET balance = balance + $2, entries = entries + 1
WHERE id = $1
RETURNING entries, balance`

// settle changes an order and its account, and announces both in one round trip.
//
// The UPDATE locks the account's row *before* the event is written. So two settlements of
// one account follow one another from here on, and the relay publishes the account's
// events in the order of the commits. In the opposite order, a transaction could draw its
// event's id first and commit last.
func (s Service) settle(ctx context.Context, id string, how settlement) (events []outbox.Event, err error) {
	err = pgx.BeginFunc(ctx, s.DB, func(tx pgx.Tx) error {
		o, err := change(ctx, tx, id, how.from, how.to)
		if err != nil {
			return err
		}
		e := entry{Account: o.Account, Cents: how.sign * o.Cents, Order: o.ID}
		if err := tx.QueryRow(ctx, moveMoney, e.Account, e.Cents).Scan(&e.Number, &e.Balance); err != nil {
			return fmt.Errorf("move money: %w", err)
		}
		changed, err := about(o, how.toOrder)
		if err != nil {
			return err
		}
		moved, err := event(TopicLedger, e.Account, how.toMoney, e)
		if err != nil {
			return err
		}
		events = []outbox.Event{changed, moved}
		return outbox.Write(ctx, tx, events...)
	})
	return events, err
}

const changeOrder = `
UPDATE shop.orders SET status = $3
WHERE id = $1 AND status = $2
RETURNING id, account, product, quantity, cents`

// change moves an order from one state to another, and locks its row with that,
// so that of two requests for the same change one finds nothing to do.
func change(ctx context.Context, tx pgx.Tx, id, from, to string) (o Order, err error) {
	err = tx.QueryRow(ctx, changeOrder, id, from, to).Scan(&o.ID, &o.Account, &o.Product, &o.Quantity, &o.Cents)
	if errors.Is(err, pgx.ErrNoRows) {
		return o, ErrNotPossible
	}
	return o, err
}

// about is an event about a change of an order. It carries the whole order, so that
// consumers need not ask for it.
func about(o Order, kind string) (outbox.Event, error) { return event(TopicOrders, o.ID, kind, o) }

// event chooses the id here rather than in Write, because callers want to know it.
func event(topic, key, kind string, v any) (outbox.Event, error) {
	payload, err := outbox.JSON(v)
	if err != nil {
		return outbox.Event{}, err
	}
	return outbox.Event{ID: outbox.NewID(), Topic: topic, Key: key, Type: kind, Payload: payload}, nil
}
