package simulation

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/temporal-outbox/relay/examples/shop/order"
	"github.com/temporal-outbox/relay/outbox"
)

// Facts is everything that the reconciliation looks at: what this process saw
// happen, and what the services' tables say now.
type Facts struct {
	Orders     int // placed and committed
	RolledBack int // transactions

	Sent             map[outbox.ID]Sent // whose transactions committed
	RolledBackEvents map[outbox.ID]bool
	Leftovers        map[outbox.ID]bool // committed by an earlier run
	Receipts         []Receipt          // in the order of receipt

	Stock    []Tally // by product: what committed orders leave, and the shelf
	Balances []Tally // by account: the order service's, and the ledger's
	Invoices []Tally // by account: what was paid, and what was invoiced

	Pending int // events not published
	Dead    int // events given up on

	Problems []string // what consumers complained of

	Outage *Outage // nil if nothing was taken away
}

// Tally is one thing counted by two parties.
type Tally struct {
	Name      string
	Want, Got int64
}

// A refunded order's goods are back on the shelf, as a cancelled one's are.
const stockSQL = `
SELECT s.product, $2 - coalesce(sum(o.quantity) FILTER (WHERE o.status IN ('placed', 'paid')), 0), s.quantity
FROM shop.stock s LEFT JOIN shop.orders o USING (product)
WHERE s.product = ANY ($1) GROUP BY s.product, s.quantity ORDER BY s.product`

const balancesSQL = `
SELECT a.id, a.balance, coalesce(l.balance, 0)
FROM shop.accounts a LEFT JOIN shop.ledger l ON l.account = a.id
WHERE a.id = ANY ($1) ORDER BY a.id`

const invoicesSQL = `
SELECT a.id, a.balance, coalesce(sum(i.cents), 0)
FROM shop.accounts a LEFT JOIN shop.invoices i ON i.account = a.id
WHERE a.id = ANY ($1) GROUP BY a.id, a.balance ORDER BY a.id`

const deadSQL = `SELECT count(*) FROM outbox.dead_letter WHERE topic = ANY ($1) AND created_at >= $2`

// event_id has no index, and the table is partitioned: this reads a lot, once.
const leftoversSQL = `
SELECT event_id::text FROM outbox.event WHERE topic = ANY ($1) AND event_id::text = ANY ($2)`

var topics = []string{order.TopicOrders, order.TopicLedger}

// facts gathers them. Nothing of the simulation may be running any more.
func (s *shop) facts(ctx context.Context) (f Facts, err error) {
	r := s.recorder
	f = Facts{
		Orders: r.orders, RolledBack: r.rollbacks,
		Sent: r.sent, RolledBackEvents: r.rolled, Receipts: r.receipts,
	}
	var productNames, accountNames []string
	for i := range products {
		productNames = append(productNames, productName(s.suffix, i))
	}
	for i := range accounts {
		accountNames = append(accountNames, accountName(s.suffix, i))
	}
	if f.Stock, err = s.tally(ctx, stockSQL, productNames, stocked); err != nil {
		return f, fmt.Errorf("count the stock: %w", err)
	}
	if f.Balances, err = s.tally(ctx, balancesSQL, accountNames); err != nil {
		return f, fmt.Errorf("compare balances: %w", err)
	}
	if f.Invoices, err = s.tally(ctx, invoicesSQL, accountNames); err != nil {
		return f, fmt.Errorf("compare invoices: %w", err)
	}
	if f.Pending, err = s.pending(ctx); err != nil {
		return f, err
	}
	if err := s.cfg.DB.QueryRow(ctx, deadSQL, topics, s.beganInDB).Scan(&f.Dead); err != nil {
		return f, fmt.Errorf("count dead letters: %w", err)
	}
	f.Leftovers, err = s.leftovers(ctx)
	return f, err
}

func (s *shop) tally(ctx context.Context, sql string, args ...any) ([]Tally, error) {
	rows, err := s.cfg.DB.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Tally])
}

// pending counts events of the shop that are not published yet.
func (s *shop) pending(ctx context.Context) (n int, err error) {
	err = s.cfg.DB.QueryRow(ctx, `SELECT count(*) FROM outbox.pending WHERE topic = ANY ($1)`, topics).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count pending events: %w", err)
	}
	return n, nil
}

// leftovers are events that were received, did not come from this run, and have
// been committed all the same: an earlier run was interrupted. It leaves out what
// came from nowhere.
func (s *shop) leftovers(ctx context.Context) (map[outbox.ID]bool, error) {
	var strange []string
	for _, receipt := range s.recorder.receipts {
		if _, ours := s.recorder.sent[receipt.Event]; !ours {
			strange = append(strange, receipt.Event.String())
		}
	}
	if len(strange) == 0 {
		return nil, nil
	}
	rows, err := s.cfg.DB.Query(ctx, leftoversSQL, topics, strange)
	if err != nil {
		return nil, fmt.Errorf("look up strange events: %w", err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look up strange events: %w", err)
	}
	found := map[outbox.ID]bool{}
	for _, text := range known {
		id, err := outbox.ParseID(text)
		if err != nil {
			return nil, err
		}
		found[id] = !s.recorder.rolled[id] // in the table though rolled back: no excuse
	}
	return found, nil
}
