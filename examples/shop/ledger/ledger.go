// Package ledger keeps each account's balance for services that do not ask the order
// service. It takes over the balance of each entry. That is right only if the entries of
// an account arrive in the order in which they were written. So it reads a FIFO queue
// behind a FIFO topic, with the account as the message group. Without FIFO, SNS and SQS
// promise no order.
//
// An ordered stream needs no inbox against repeats: entries have numbers within their
// account. An entry whose number is not higher than the last one is a repeat, and an entry
// that leaves a gap is too early.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/temporal-outbox/relay/examples/shop/queue"
)

// Tables creates the service's tables where they are missing.
const Tables = `
CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.ledger (
    account text   PRIMARY KEY,
    number  bigint NOT NULL, -- of the last entry
    balance bigint NOT NULL
);`

// ErrTooEarly is returned for an entry that does not follow the account's last
// one. The queue brings it back, when the one before may have arrived.
var ErrTooEarly = errors.New("the entry before it has not arrived")

// Entry is the payload of the ledger's events.
type Entry struct {
	Account string `json:"account"`
	Number  int64  `json:"number"` // 1, 2, 3, ... within the account
	Balance int64  `json:"balance"`
}

// Parse reads an event's entry.
func Parse(m queue.Message) (e Entry, err error) {
	if err := json.Unmarshal([]byte(m.Body), &e); err != nil {
		return e, fmt.Errorf("parse %s: %w", m.Type, err)
	}
	return e, nil
}

// Service keeps balances. Its Handle is a queue.Handler.
type Service struct {
	DB *pgxpool.Pool // required
}

const takeFirst = `INSERT INTO shop.ledger (account, number, balance) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`

const takeNext = `UPDATE shop.ledger SET number = $2, balance = $3 WHERE account = $1 AND number = $2 - 1`

const lastNumber = `SELECT number FROM shop.ledger WHERE account = $1`

// Handle takes an entry's balance over. Repeats change nothing; an entry that
// comes too early is refused with ErrTooEarly.
func (s Service) Handle(ctx context.Context, m queue.Message) (applied bool, err error) {
	e, err := Parse(m)
	if err != nil {
		return false, err
	}
	take := takeNext
	if e.Number == 1 {
		take = takeFirst
	}
	taken, err := s.DB.Exec(ctx, take, e.Account, e.Number, e.Balance)
	if err != nil {
		return false, fmt.Errorf("take over balance: %w", err)
	}
	if taken.RowsAffected() == 1 {
		return true, nil
	}
	var last int64
	err = s.DB.QueryRow(ctx, lastNumber, e.Account).Scan(&last)
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return false, fmt.Errorf("read last entry: %w", err)
	case e.Number > last:
		return false, fmt.Errorf("entry %d of account %s, after entry %d: %w", e.Number, e.Account, last, ErrTooEarly)
	}
	return false, nil
}
