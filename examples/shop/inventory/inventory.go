// Package inventory keeps the stock. Its queue delivers at least once and in any order,
// and its effect, a decrement, is wrong when done twice. So it writes the id of each
// processed event into an inbox table, in the transaction of the effect.
//
// Order does not matter to it, because additions commute: an order's return may
// arrive before the order itself.
package inventory

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/examples/shop/queue"
)

// Tables creates the service's tables where they are missing.
//
//go:embed tables.sql
var Tables string

// Service keeps the stock. Its Handle is a queue.Handler.
type Service struct {
	DB *pgxpool.Pool // required
}

// event is the part of the orders' payloads that stock depends on. Consumers
// share a contract with the producer, not its code.
type event struct {
	Product  string `json:"product"`
	Quantity int    `json:"quantity"`
}

// The primary key decides: of two deliveries of one event, even at the same
// moment, one inserts the row and the other waits for it and then does nothing.
const remember = `INSERT INTO shop.inventory_inbox (event_id) VALUES ($1) ON CONFLICT DO NOTHING`

const moveStock = `UPDATE shop.stock SET quantity = quantity + $2 WHERE product = $1`

// Handle takes an order's goods from stock when it is placed, and puts them back
// when it is cancelled or refunded. Repeats change nothing.
func (s Service) Handle(ctx context.Context, m queue.Message) (applied bool, err error) {
	var e event
	if err := json.Unmarshal([]byte(m.Body), &e); err != nil {
		return false, fmt.Errorf("parse %s: %w", m.Type, err)
	}
	err = pgx.BeginFunc(ctx, s.DB, func(tx pgx.Tx) error {
		inserted, err := tx.Exec(ctx, remember, m.ID.String())
		if err != nil {
			return fmt.Errorf("remember event: %w", err)
		}
		if applied = inserted.RowsAffected() == 1; !applied {
			return nil // a repeat: the effect is there
		}
		moved, err := tx.Exec(ctx, moveStock, e.Product, direction(m.Type)*e.Quantity)
		if err != nil {
			return fmt.Errorf("move stock: %w", err)
		}
		if moved.RowsAffected() == 0 {
			return fmt.Errorf("there is no product %q", e.Product)
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("handle %s: %w", m.Type, err)
	}
	return applied, nil
}

// direction is the sign of an event's effect. An unknown type has no effect: producers add
// types, and consumers must accept that.
func direction(kind string) int {
	switch kind {
	case "OrderPlaced":
		return -1
	case "OrderCancelled", "OrderRefunded":
		return +1
	default:
		return 0
	}
}
