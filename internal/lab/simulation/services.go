package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/temporal-outbox/relay/examples/shop/billing"
	"github.com/temporal-outbox/relay/examples/shop/inventory"
	"github.com/temporal-outbox/relay/examples/shop/ledger"
	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/examples/shop/queue"
	"github.com/temporal-outbox/relay/internal/publish/detach"
)

// stocked is how many of each product a run begins with.
const stocked = 10_000

// open makes the services' tables, and products and accounts for this run.
func (s *shop) open(ctx context.Context) error {
	var migrated bool
	err := s.cfg.DB.QueryRow(ctx, `SELECT to_regclass('outbox.event') IS NOT NULL, clock_timestamp()`).
		Scan(&migrated, &s.beganInDB)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if !migrated {
		return fmt.Errorf("the database has no outbox: run %q", "starter migrate")
	}
	// One by one: each service has tables of its own, and would have a database
	// of its own.
	for _, tables := range []string{order.Tables, inventory.Tables, billing.Tables, ledger.Tables} {
		if _, err := s.cfg.DB.Exec(ctx, tables); err != nil {
			return fmt.Errorf("create the shop's tables: %w", err)
		}
	}
	for i := range products {
		_, err := s.cfg.DB.Exec(ctx, `INSERT INTO shop.stock VALUES ($1, $2)`, productName(s.suffix, i), stocked)
		if err != nil {
			return fmt.Errorf("fill the shelves: %w", err)
		}
	}
	for i := range accounts {
		_, err := s.cfg.DB.Exec(ctx, `INSERT INTO shop.accounts VALUES ($1)`, accountName(s.suffix, i))
		if err != nil {
			return fmt.Errorf("open accounts: %w", err)
		}
	}
	return nil
}

// consumers are the services at their queues, with the recorder looking on.
func (s *shop) consumers(problems *problemLog) []queue.Consumer {
	client := sqs.NewFromConfig(s.cfg.AWS, func(o *sqs.Options) {
		o.HTTPClient = detach.Client{HTTPClient: o.HTTPClient}
	})
	log := slog.New(problems)
	var all []queue.Consumer
	for name, handle := range map[string]queue.Handler{
		queueInventory: inventory.Service{DB: s.cfg.DB}.Handle,
		queueBilling:   billing.Service{DB: s.cfg.DB}.Handle,
		queueLedger:    ledger.Service{DB: s.cfg.DB}.Handle,
	} {
		all = append(all, queue.Consumer{
			SQS: client, Queue: name, Handle: s.recorded(name, handle), Log: log,
			// An emulator may give messages to a request whose client has gone, as
			// from an earlier run. So none lives long.
			Wait: 2 * time.Second,
		})
	}
	return all
}

// recorded is a handler that is looked at, and that sometimes, after its commit,
// does what a process does that dies just then: the message is not deleted.
func (s *shop) recorded(name string, handle queue.Handler) queue.Handler {
	return func(ctx context.Context, m queue.Message) (applied bool, err error) {
		receipt := Receipt{Queue: name, Event: m.ID}
		if name == queueLedger {
			entry, err := ledger.Parse(m)
			if err != nil {
				return false, err
			}
			receipt.Key, receipt.Number = entry.Account, entry.Number
		}
		handled := s.recorder.received(receipt, m.ReceivedAt)
		applied, err = handle(ctx, m)
		switch {
		case err != nil:
			handled(Failed)
		case !applied:
			handled(Suppressed)
		default:
			handled(Applied)
			if name == queueInventory && rand.Float64() < s.cfg.RedeliveryShare {
				return true, errOnPurpose
			}
		}
		return applied, err
	}
}
