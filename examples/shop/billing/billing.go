// Package billing writes an invoice for every payment and a credit note for
// every refund. It asks SNS for those events only, with a filter policy on the
// attribute event_type, so the others never reach its queue and cost nothing.
//
// Each event creates one row, with the event's id as its unique key. So the row itself
// shows that the event was processed, and no inbox table is needed.
package billing

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/examples/shop/queue"
)

// Tables creates the service's tables where they are missing.
const Tables = `
CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.invoices (
    event_id uuid   PRIMARY KEY,
    order_id text   NOT NULL,
    account  text   NOT NULL,
    cents    bigint NOT NULL -- negative on a credit note
);`

// Service writes invoices. Its Handle is a queue.Handler.
type Service struct {
	DB *pgxpool.Pool // required
}

type event struct {
	Order   string `json:"order"`
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

const writeInvoice = `
INSERT INTO shop.invoices (event_id, order_id, account, cents) VALUES ($1, $2, $3, $4)
ON CONFLICT (event_id) DO NOTHING`

// Handle writes the invoice or credit note of an event. Repeats change nothing.
func (s Service) Handle(ctx context.Context, m queue.Message) (applied bool, err error) {
	var e event
	if err := json.Unmarshal([]byte(m.Body), &e); err != nil {
		return false, fmt.Errorf("parse %s: %w", m.Type, err)
	}
	switch m.Type {
	case "OrderPaid":
	case "OrderRefunded":
		e.Cents = -e.Cents
	default:
		return false, fmt.Errorf("event of type %s: the subscription's filter policy should have kept it away", m.Type)
	}
	inserted, err := s.DB.Exec(ctx, writeInvoice, m.ID.String(), e.Order, e.Account, e.Cents)
	if err != nil {
		return false, fmt.Errorf("write invoice: %w", err)
	}
	return inserted.RowsAffected() == 1, nil
}
